"""What is compared: named negatives, grouped prompts, and real pictures beside them."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reneg.config import EvaluateConfig
from reneg.interfaces import Conditioning, DiffusionModel, Reward
from reneg.negative import NegativeEmbedding, is_file_reference
from reneg.negatives import file_conditioning, resolve_negative
from reneg.prompts import read_prompts
from reneg.world import WEIGHTS, load_prompts

REAL_PICTURES = WEIGHTS / "real.safetensors"
"""Real clean pictures of evaluation prompts: `pictures` [n, H, W, 3] uint8, and `prompts` as JSON in the metadata."""

LONGEST_NAME = 24
"""Characters of a negative prompt that name it, where it is given without a name."""


@dataclass(frozen=True)
class RealPictures:
    """Real clean pictures of some evaluation prompts: what a negative should come near, and not exceed."""

    prompts: list[str]
    pictures: UInt8[Tensor, "n H W 3"]


@dataclass(frozen=True)
class Contender:
    """One negative of a comparison."""

    name: str
    value: str
    """As it was given."""
    conditioning: Conditioning
    metadata: dict[str, str]
    """What its file says of it; empty for a text."""


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


def split_name(text: str) -> tuple[str, str]:
    """(name, value) of a `--negatives` entry, VALUE or NAME=VALUE; a path may hold an equals sign."""
    match = re.fullmatch(r"([\w.+-]+)=(.+)", text, re.DOTALL)
    if match and not Path(text).is_file():
        return match[1], match[2]
    path = Path(text)
    if is_file_reference(text):
        return (path.resolve().parent.name if path.stem == "negative_embedding" else path.stem), text
    return (text if len(text) <= LONGEST_NAME else text[:LONGEST_NAME] + "…"), text


def load_contenders(negatives: list[str], model: DiffusionModel) -> list[Contender]:
    """The negatives of `--negatives`.

    Raises:
        ValueError: two share a name, or one cannot be resolved.
    """
    named = [split_name(text) for text in negatives]
    names = [name for name, _ in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--negatives: more than one is called {twice[0]!r}; tell them apart with NAME=VALUE")
    contenders = []
    for name, value in named:
        if is_file_reference(value):
            embedding = NegativeEmbedding.open(value)
            contenders.append(Contender(name, value, file_conditioning(embedding, model), embedding.metadata))
        else:
            contenders.append(Contender(name, value, resolve_negative(value, model, flag="--negatives"), {}))
    return contenders


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
