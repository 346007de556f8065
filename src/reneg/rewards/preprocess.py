"""Images on their way into a scorer: a differentiable path, and the one that published numbers come from."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from reneg.report import to_images, to_uint8

BICUBIC = 3
"""PIL's number of it, as `preprocessor_config.json` has it."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Those of OpenAI's CLIP, which HPSv2, PickScore, ImageReward and the LAION heads share."""


@dataclass(frozen=True)
class ImagePreprocess:
    """Resize and normalise as a scorer's original does."""

    size: int
    """Height and width that the scorer takes, in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Literal["crop", "pad"] = "crop"
    """Pictures that are not square: `crop` takes the middle (CLIP), `pad` adds black borders (HPSv2)."""
    published: Literal["pil", "hpsv2"] | None = None
    """None: the differentiable path. `pil`: 8-bit pictures and PIL's bicubic. `hpsv2`: the benchmark's JPEG files, and
    a bicubic of tensors without antialiasing, as torchvision resized them before 0.17."""

    @classmethod
    def from_pretrained(cls, file: Path, size: int, *, published: bool = False) -> "ImagePreprocess":
        """Read mean and deviation from a `preprocessor_config.json`; the size is the model's own."""
        try:
            config = json.loads(file.read_text())
            (r, g, b), (std_r, std_g, std_b) = config["image_mean"], config["image_std"]
            resample = config.get("resample", BICUBIC)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file.parent} holds no readable preprocessor_config.json ({error})") from error
        if resample != BICUBIC:
            raise ValueError(f"{file} resizes by method {resample}; only {BICUBIC} (bicubic) is supported")
        return cls(size, (r, g, b), (std_r, std_g, std_b), published="pil" if published else None)

    def __call__(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 s s"]:
        """Images in [0, 1] -> the scorer's input.

        The differentiable path clamps nothing: a clamp would cut off the gradient of every pixel that is out of range.
        The published ones go through 8 bits, as files do, and give no gradient.
        """
        if self.published == "pil":
            pixels = [self._fit_pil(Image.fromarray(pixels)) for pixels in to_uint8(images).numpy()]
            images = to_images(np.stack(pixels)).to(images)
        elif self.published == "hpsv2":
            pixels = [_through_jpeg(Image.fromarray(pixels)) for pixels in to_uint8(images).numpy()]
            images = self._fit(to_images(np.stack(pixels)).to(images), antialias=False)
        else:
            # PIL's bicubic is antialiased; this is its tensor counterpart to within two grey levels where PIL
            # clips no overshoot between its two passes.
            images = self._fit(images, antialias=True)
        mean, std = (torch.tensor(v, dtype=images.dtype) for v in (self.mean, self.std))
        mean, std = (v.to(images.device, non_blocking=True) for v in (mean, std))
        if self.fit == "pad":  # HPSv2 pads before it normalises
            images = self._pad(images)
        return (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a picture before it is cropped or padded."""
        if self.fit == "pad":
            scale = self.size / max(height, width)
            return round(height * scale), round(width * scale)
        short = min(height, width)
        return self.size * height // short, self.size * width // short

    def _fit(self, images: Float[Tensor, "b 3 H W"], *, antialias: bool) -> Float[Tensor, "b 3 h w"]:
        size = self.resized(*images.shape[-2:])
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=antialias)
        if self.fit == "pad":
            return images
        top, left = self._corner(*size)
        return images[..., top : top + self.size, left : left + self.size]

    def _fit_pil(self, image: Image.Image) -> np.ndarray:
        height, width = self.resized(image.height, image.width)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        if self.fit == "crop":
            top, left = self._corner(height, width)
            image = image.crop((left, top, left + self.size, top + self.size))
        return np.asarray(image)

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        """Where the middle begins, as torchvision rounds it."""
        return round((height - self.size) / 2), round((width - self.size) / 2)

    def _pad(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        rows, columns = self.size - images.shape[-2], self.size - images.shape[-1]
        return F.pad(images, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def _through_jpeg(image: Image.Image) -> np.ndarray:
    """What is left of a picture that was saved as JPEG in PIL's default quality."""
    file = io.BytesIO()
    image.save(file, format="JPEG")
    return np.asarray(Image.open(file))
