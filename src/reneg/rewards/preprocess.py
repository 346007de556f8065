"""Images on their way into a scorer, differentiably."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ImagePreprocess:
    """Resize and normalise as an image processor's configuration says."""

    size: int
    """Height and width that the scorer takes, in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_pretrained(cls, folder: Path, size: int) -> "ImagePreprocess":
        """Read mean and deviation from `preprocessor_config.json`; the size is the model's own."""
        try:
            config = json.loads((folder / "preprocessor_config.json").read_text())
            (r, g, b), (std_r, std_g, std_b) = config["image_mean"], config["image_std"]
            return cls(size, (r, g, b), (std_r, std_g, std_b))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder} holds no readable preprocessor_config.json ({error})") from error

    def __call__(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 s s"]:
        """Images in [0, 1] -> the scorer's input.

        Nothing is clamped: a clamp would cut off the gradient of every pixel that is out of range.
        """
        if images.shape[-2:] != (self.size, self.size):
            # PIL's bicubic is antialiased; this is its tensor counterpart to within two grey levels where PIL
            # clips no overshoot between its two passes.
            images = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True)
        mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device) for v in (self.mean, self.std))
        return (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
