"""Every kind of reward on a tiny model with random weights, as `load_reward`'s loaders build it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tiny import MEAN, STD, tiny_clip, tiny_tokenizer, tiny_vision

from reneg.interfaces import Reward
from reneg.rewards.aesthetic import AestheticReward, LaionAestheticReward
from reneg.rewards.clip import ClipReward
from reneg.rewards.preprocess import ImagePreprocess

SIZE = 8
"""Pixels that the tiny scorers take."""


@dataclass(frozen=True)
class Scorer:
    """One kind of reward."""

    build: Callable[[bool], Reward]
    """Whether by the published path -> the reward in float64."""
    reads_prompts: bool = True


def _clip(*, scaled: bool) -> Callable[[bool], Reward]:
    def build(published: bool) -> Reward:
        preprocess = ImagePreprocess(SIZE, MEAN, STD, published="pil" if published else None)
        model = tiny_clip(1, SIZE).double()
        return ClipReward(model, tiny_tokenizer(), preprocess, name="tiny", scaled=scaled, clean=not scaled)

    return build


def _vision(published: bool) -> Reward:
    preprocess = ImagePreprocess(SIZE, MEAN, STD, published="pil" if published else None)
    return AestheticReward(tiny_vision().double(), preprocess, name="tiny")


def _laion(*widths: int) -> Callable[[bool], Reward]:
    def build(published: bool) -> Reward:
        preprocess = ImagePreprocess(SIZE, MEAN, STD, published="pil" if published else None)
        pairs = zip(widths, [*widths[1:], 1], strict=True)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            head = torch.nn.Sequential(*(torch.nn.Linear(width, out) for width, out in pairs)).double()
        return LaionAestheticReward(tiny_vision(12).double(), head, preprocess, name="tiny")

    return build


SCORERS = {
    "PickScore (and any CLIPModel folder)": Scorer(_clip(scaled=True)),
    "CLIPScore (cosine)": Scorer(_clip(scaled=False)),
    "LAION aesthetic (SAC MLP)": Scorer(_laion(12, 10, 8, 6, 4), reads_prompts=False),
    "LAION aesthetic (V1 linear)": Scorer(_laion(12), reads_prompts=False),
    "world/aesthetic": Scorer(_vision, reads_prompts=False),
}


def pictures(count: int, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
