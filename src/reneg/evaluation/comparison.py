"""What an evaluation takes, loaded: model, rewards, contenders, grouped prompts, and real pictures beside them."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reneg.config import EvaluateConfig
from reneg.evaluation.contenders import Contender
from reneg.interfaces import DiffusionModel, Reward
from reneg.prompts import read_prompts
from reneg.world import WEIGHTS, load_prompts

REAL_PICTURES = WEIGHTS / "real.safetensors"
"""Real clean pictures of evaluation prompts: `pictures` [n, H, W, 3] uint8, and `prompts` as JSON in the metadata."""


@dataclass(frozen=True)
class RealPictures:
    """Real clean pictures of some evaluation prompts: what a negative should come near, and not exceed."""

    prompts: list[str]
    pictures: UInt8[Tensor, "n H W 3"]


@dataclass(frozen=True)
class Comparison:
    """Everything that an evaluation takes, loaded."""

    model: DiffusionModel
    rewards: list[Reward]
    contenders: list[Contender]
    groups: dict[str, list[str]]
    """Group -> its prompts."""
    fingerprints: dict[str, str]
    """Name of the model and of each reward -> what identifies its weights."""
    real: RealPictures | None = None

    @cached_property
    def prompts(self) -> list[str]:
        """All prompts, group by group."""
        return [prompt for group in self.groups.values() for prompt in group]

    @cached_property
    def prompt_groups(self) -> list[str]:
        """The group of each prompt."""
        return [group for group, prompts in self.groups.items() for _ in prompts]


def load_groups(config: EvaluateConfig) -> dict[str, list[str]]:
    """Group -> prompts to evaluate on, thinned evenly to `--max_prompts` of each group."""
    groups = read_prompts(config.prompts) if config.prompts else load_prompts().evaluate
    return {group: thin(prompts, config.max_prompts) for group, prompts in groups.items()}


def thin(items: list[str], limit: int | None) -> list[str]:
    """At most so many items, spread evenly."""
    if limit is None or limit >= len(items):
        return items
    return [items[number * len(items) // limit] for number in range(limit)]


def load_real_pictures(path: Path = REAL_PICTURES) -> RealPictures | None:
    """The world's real clean pictures of evaluation prompts, if they are there."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            pictures, prompts = file.get_tensor("pictures"), json.loads(file.metadata()["prompts"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); install the package again") from error
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or len(pictures) != len(prompts):
        raise ValueError(f"{path} does not hold one 8-bit picture a prompt; install the package again")
    return RealPictures(prompts, pictures)
