"""Every family of models on its tiny pipeline."""

from collections.abc import Callable
from typing import Any

import torch
from tiny import tiny_pipeline
from tiny_pixart import tiny_pixart
from tiny_sana import tiny_sana
from tiny_sd3 import tiny_sd3
from tiny_sdxl import tiny_sdxl

from reneg.models.base import LatentModel
from reneg.models.pixart import PixArtAlpha
from reneg.models.sana import Sana
from reneg.models.sd import StableDiffusion
from reneg.models.sd3 import StableDiffusion3
from reneg.models.sdxl import StableDiffusionXL

FAMILIES: dict[str, tuple[type[LatentModel], Callable[..., Any]]] = {
    "sd": (StableDiffusion, tiny_pipeline),
    "sdxl": (StableDiffusionXL, tiny_sdxl),
    "sd3": (StableDiffusion3, tiny_sd3),
    "pixart": (PixArtAlpha, tiny_pixart),
    "sana": (Sana, tiny_sana),
}
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def build(family: str, dtype: torch.dtype = torch.float64) -> LatentModel:
    """A family's tiny model, the same weights at every call."""
    cls, pipeline = FAMILIES[family]
    pipe = pipeline() if dtype in HALVES.values() else pipeline(dtype)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(dtype)
    return cls(pipe, name="tiny")
