"""Text-image rewards that are a CLIPModel: PickScore, CLIPScore, the bundled world's, and any folder of one."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from reneg.rewards.loading import RewardSource, Settings, fetch, load_complete, load_tokenizer
from reneg.rewards.preprocess import ImagePreprocess
from reneg.rewards.text import PromptTokenizer


class ClipReward:
    """The cosine of a picture's and a prompt's vectors, times exp(logit_scale) where the scorer's own formula says so.

    Scaled (Kirstain et al. 2023, PickScore): about 0 to 100 at most. Not scaled (HPSv2; CLIPScore as ImageReward's
    authors report it, without a factor and without max(0, .)): -1 to 1.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        preprocess: ImagePreprocess,
        *,
        name: str,
        scaled: bool = True,
        clean: bool = False,
    ):
        self.name = name
        # Any: transformers annotates every output as possibly a tuple.
        self.model: Any = model.requires_grad_(False).eval()
        self.tokenizer, self.preprocess = tokenizer, preprocess
        self._scaled = scaled
        limit = self.model.config.text_config.max_position_embeddings
        self._tokenize = PromptTokenizer(tokenizer, limit, name=name, clean=clean)

    def modules(self) -> list[torch.nn.Module]:
        """What has weights."""
        return [self.model]

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        cosines = (self.encode_images(images) * self.encode_prompts(prompts)).sum(-1)
        return self.model.logit_scale.exp() * cosines if self._scaled else cosines

    def encode_images(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d"]:
        """Unit vectors of pictures in [0, 1]; differentiable."""
        pixels = self.preprocess(images).to(self.model.dtype)
        return _unit(self.model.get_image_features(pixel_values=pixels).pooler_output)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Unit vectors of prompts."""
        # Without the mask: pad tokens come after the end, where causal attention never looks.
        ids = self._tokenize(prompts, self.model.device)["input_ids"]
        return _unit(self.model.get_text_features(input_ids=ids).pooler_output)


def _unit(vectors: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Of length 1, in float32 at least: bfloat16's 8 bits would round rewards that differ to the same cosine."""
    return F.normalize(vectors.to(torch.promote_types(torch.float32, vectors.dtype)), dim=-1)


def load_scaled(source: RewardSource, settings: Settings) -> ClipReward:
    """exp(logit_scale) times the cosine; the text as it is, as transformers' processor reads it (PickScore).

    Raises:
        ValueError: the source holds no `CLIPModel.save_pretrained` weights with tokenizer and image processor.
    """
    return _load(source, settings, scaled=True)


def load_cosine(source: RewardSource, settings: Settings) -> ClipReward:
    """The plain cosine; the text cleaned as OpenAI's CLIP cleans it.

    Raises:
        ValueError: as for `load_scaled`.
    """
    return _load(source, settings, scaled=False)


def _load(source: RewardSource, settings: Settings, *, scaled: bool) -> ClipReward:
    model = load_complete(CLIPModel, source.location, settings)
    tokenizer = load_tokenizer(CLIPTokenizer, source, settings.name)
    home = fetch(source, "preprocessor_config.json", settings.name)
    size = model.config.vision_config.image_size
    preprocess = ImagePreprocess.from_pretrained(home, size, published=settings.published)
    return ClipReward(
        model.to(settings.device), tokenizer, preprocess, name=settings.name, scaled=scaled, clean=not scaled
    )
