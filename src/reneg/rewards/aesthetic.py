"""An image-only reward: a CLIP vision tower with one output."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from reneg.rewards.loading import load_complete
from reneg.rewards.preprocess import ImagePreprocess


class AestheticReward:
    """The single projected output of a CLIPVisionModelWithProjection; the prompt plays no part."""

    def __init__(self, model: CLIPVisionModelWithProjection, preprocess: ImagePreprocess, *, name: str):
        self.name = name
        self.model = model.requires_grad_(False).eval()
        self.preprocess = preprocess

    @classmethod
    def from_pretrained(cls, folder: Path, *, name: str, device: str, dtype: torch.dtype) -> "AestheticReward":
        """Load `save_pretrained` weights with their preprocessor_config.json.

        Raises:
            ValueError: the folder holds no such model.
        """
        model = load_complete(CLIPVisionModelWithProjection, folder, name=name, dtype=dtype)
        preprocess = ImagePreprocess.from_pretrained(folder, model.config.image_size)
        return cls(model.to(device), preprocess, name=name)

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        return self.model(pixel_values=self.preprocess(images).to(self.model.dtype)).image_embeds.squeeze(-1)
