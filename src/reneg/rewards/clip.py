"""Text-image rewards that are a CLIPModel: the bundled world's, and any folder in that layout."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from reneg.rewards.loading import load_complete
from reneg.rewards.preprocess import ImagePreprocess


class ClipReward:
    """`exp(logit_scale) * cos(image, text)`, PickScore's formula (Kirstain et al. 2023): about 0 to 100 at most."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, preprocess: ImagePreprocess, *, name: str):
        self.name = name
        # Any: transformers annotates every output as possibly a tuple.
        self.model: Any = model.requires_grad_(False).eval()
        self.tokenizer, self.preprocess = tokenizer, preprocess
        self._warned = False

    @classmethod
    def from_pretrained(cls, folder: Path, *, name: str, device: str, dtype: torch.dtype) -> "ClipReward":
        """Load `CLIPModel.save_pretrained` weights with their tokenizer and preprocessor_config.json.

        Raises:
            ValueError: the folder holds no such model.
        """
        model = load_complete(CLIPModel, folder, name=name, dtype=dtype)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        if tokenizer.vocab_size <= len(tokenizer.all_special_ids):  # transformers makes an empty one up
            raise ValueError(f"reward {name!r} has no tokenizer in {folder}; save it with the model")
        preprocess = ImagePreprocess.from_pretrained(folder, model.config.vision_config.image_size)
        return cls(model.to(device), tokenizer, preprocess, name=name)

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        return self.model.logit_scale.exp() * (self.encode_images(images) * self.encode_prompts(prompts)).sum(-1)

    def encode_images(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d"]:
        """Unit vectors of pictures in [0, 1]; differentiable."""
        pixels = self.preprocess(images).to(self.model.dtype)
        return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Unit vectors of prompts."""
        ids = self._tokenize(prompts).to(self.model.device)
        return F.normalize(self.model.get_text_features(input_ids=ids).pooler_output, dim=-1)

    def _tokenize(self, prompts: Sequence[str]) -> Tensor:
        limit = self.model.config.text_config.max_position_embeddings
        if not self._warned and any(
            len(ids) > limit for ids in self.tokenizer(list(prompts), verbose=False).input_ids
        ):
            warnings.warn(f"reward {self.name!r} reads the first {limit} tokens of longer prompts", stacklevel=3)
            self._warned = True
        # Padding to the full length keeps an item's score independent of its batch-mates.
        options = {"padding": "max_length", "max_length": limit, "truncation": True, "return_tensors": "pt"}
        return self.tokenizer(list(prompts), **options).input_ids
