"""The bundled world: small latent text-to-image models, four rewards and prompts, ready to use offline."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the weights: `generator` (diffusers); `preference`, `monitor`, `judge`, `aesthetic`, `rewriter`
(transformers)."""

DENOISERS: dict[str, Path | None] = {
    "world": None,
    "world-small": WEIGHTS / "world-small",
    "world-v": WEIGHTS / "world-v",
}
"""Models of the world -> folder of the denoiser that takes the place of the generator's own, if one does.

They share tokenizer, text encoder and autoencoder, so a negative embedding of one serves all.
"""


@dataclass(frozen=True)
class WorldPrompts:
    """The world's prompts; learning and evaluation share no combination of subject, style and colour."""

    learn: list[str]
    evaluate: dict[str, list[str]]
    """Style -> prompts: the world's counterpart of HPSv2's four groups."""
    handcrafted_negative_prompt: str
    """N*, written by hand in the world's own vocabulary before anything was learned."""


@lru_cache
def load_prompts() -> WorldPrompts:
    """The prompts that are shipped with the weights."""
    return WorldPrompts(**json.loads((WEIGHTS / "prompts.json").read_text()))


@dataclass(frozen=True)
class WorldCaptions:
    """Captions of the kind that the world's generator was trained on, and the words they are made of."""

    captions: list[str]
    """Different ones, without any held-out combination of subject, style and colour."""
    vocabulary: dict[str, list[str]]
    """style, size, subject, place, colour -> words that exclude each other; fault -> words of blame."""


@lru_cache
def load_captions() -> WorldCaptions:
    """The captions that are shipped with the weights."""
    return WorldCaptions(**json.loads((WEIGHTS / "captions.json").read_text()))
