"""Several rewards as one: each divided by its spread over fixed pictures, weighted, and added up."""

import logging
from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import pstdev
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from reneg.interfaces import ModuleReward, Reward

logger = logging.getLogger(__name__)

Score = TypeVar("Score", Tensor, float)


class Mixture:
    """The sum of `weight / scale * score`, so that a weight means the same whatever units a reward has.

    A scale is the standard deviation of the reward's scores over the pictures that `fit` is given: in learning those
    of the monitor's look at step 0. Dicts have the keys of metrics.jsonl: `reward/NAME` of each part.
    """

    def __init__(self, rewards: Sequence[Reward], weights: Sequence[float]):
        """Raises ValueError: a reward is given twice, or a weight is 0 or no number; in one line."""
        names = [reward.name for reward in rewards]
        for name, weight in zip(names, weights, strict=True):
            if names.count(name) > 1:
                raise ValueError(f"--reward {name} is given twice; give each once, with one weight")
            if not isfinite(weight) or weight == 0:
                raise ValueError(f"--reward {name}={weight}: the weight must be a number other than 0")
        self.name = " + ".join(f"{name}={weight:g}" for name, weight in zip(names, weights, strict=True))
        self._rewards = {f"reward/{reward.name}": reward for reward in rewards}
        self.weights = dict(zip(self._rewards, weights, strict=True))
        self.scales: dict[str, float] = {}
        """Key of a part -> its scale; empty before `fit`, unless a checkpoint gives them back."""
        self._seen: list[dict[str, Tensor]] = []

    def modules(self) -> list[torch.nn.Module]:
        """Those of the parts that have some."""
        return [m for part in self._rewards.values() if isinstance(part, ModuleReward) for m in part.modules()]

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """The weighted sum; the parts are kept until `take` fetches them."""
        parts = self.parts(images, prompts)
        rewards = self.combine(parts)
        self._seen.append({key: scores.detach() for key, scores in parts.items()})
        return rewards

    def parts(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> dict[str, Float[Tensor, " b"]]:
        """Each part's scores in its own units; differentiable."""
        return {key: reward(images, prompts) for key, reward in self._rewards.items()}

    def combine(self, scores: Mapping[str, Score]) -> Score:
        """Scores of the parts, or their means -> the weighted sum of the normalised ones.

        Raises:
            ValueError: there are no scales yet.
        """
        if self.scales.keys() != self.weights.keys():
            raise ValueError(f"the mixture {self.name} has no scales yet; call `fit` first")
        first, *rest = [self.weights[key] / self.scales[key] * scores[key] for key in self.weights]
        for term in rest:
            first = first + term
        return first

    def fit(self, scores: Mapping[str, Sequence[float]]) -> None:
        """Take the scales from scores of the parts on fixed pictures.

        Raises:
            ValueError: a part gives all pictures one score; in one line.
        """
        scales = {key: pstdev(scores[key]) for key in self.weights}
        for key, scale in scales.items():
            if scale == 0:
                raise ValueError(
                    f"--reward {key.removeprefix('reward/')} gives all pictures of the first look one score, so that "
                    "a mixture cannot normalise it; leave it out, or raise --num_validation_prompts"
                )
            logger.info("%s: weight %g, standard deviation %.6g before learning", key, self.weights[key], scale)
        self.scales = scales

    def take(self) -> dict[str, Float[Tensor, " b"]]:
        """The parts' scores of all calls since the last `take`, detached."""
        seen, self._seen = self._seen, []
        return {key: torch.cat([scores[key] for scores in seen]) for key in self.weights}


def parse_weight(entry: str) -> tuple[str, float | None]:
    """`NAME=WEIGHT` -> (name, weight); None for a reward without a weight."""
    name, equals, text = entry.rpartition("=")
    try:
        return (name, float(text)) if equals and name else (entry, None)
    except ValueError:  # the text after a path's own equals sign
        return entry, None
