"""Pictures -> texts: a published captioning model, or the nearest of known captions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import BertTokenizer, BlipForConditionalGeneration

from reneg.rewards import load_reward
from reneg.rewards.clip import ClipReward
from reneg.rewards.loading import RewardSource, Settings, fetch, load_complete, load_tokenizer
from reneg.rewards.preprocess import ImagePreprocess
from reneg.world import DENOISERS, load_captions

NEAREST = "nearest"
WORLDS_CLIP = "world/preference"
"""The world's CLIP that learning uses too; its judges are for evaluation alone."""
BLIP = "Salesforce/blip-image-captioning-large"
MAX_NEW_TOKENS = 30


Captioner = Callable[[Tensor], list[str]]
"""Pictures [b, 3, H, W] in [0, 1] -> one text each."""


class NearestCaption:
    """Of some captions the one whose vector is nearest to the picture's by a CLIP."""

    def __init__(self, clip: ClipReward, captions: Sequence[str], *, batch_size: int = 256):
        self._clip, self._captions = clip, list(captions)
        parts = [self._captions[first : first + batch_size] for first in range(0, len(captions), batch_size)]
        self._vectors = torch.cat([clip.encode_prompts(part) for part in parts])

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "b 3 H W"]) -> list[str]:
        nearest = (self._clip.encode_images(images) @ self._vectors.T).argmax(1)
        return [self._captions[number] for number in nearest.tolist()]


class BlipCaptioner:
    """BLIP (Li et al. 2022) as transformers has it, decoded greedily."""

    # Any: transformers' annotations contradict its code.
    def __init__(self, model: Any, tokenizer: Any, preprocess: ImagePreprocess):
        self._model, self._tokenizer, self._preprocess = model.requires_grad_(False).eval(), tokenizer, preprocess

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "b 3 H W"]) -> list[str]:
        pixels = self._preprocess(images).to(self._model.device, self._model.dtype)
        ids = self._model.generate(pixel_values=pixels, max_new_tokens=MAX_NEW_TOKENS, num_beams=1, do_sample=False)
        return [self._tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in ids]


def captioner_name(captioner: str | None, model: str) -> str:
    """What a `--captioner` value stands for with a model."""
    return captioner or (NEAREST if model in DENOISERS else BLIP)


def load_captioner(name: str, *, device: str) -> Captioner:
    """`nearest`, or a BLIP captioning model's folder or hub id.

    Raises:
        ValueError: it cannot be loaded; in one line.
    """
    if name == NEAREST:
        clip = load_reward(WORLDS_CLIP, device=device)
        assert isinstance(clip, ClipReward)
        return NearestCaption(clip, load_captions().captions)
    what = "--captioner"
    source = RewardSource("clip", Path(name) if Path(name).is_dir() else name)
    model = load_complete(BlipForConditionalGeneration, source.location, Settings(name, device), what=what)
    tokenizer = load_tokenizer(BertTokenizer, source, name, what=what)
    home = fetch(source, "preprocessor_config.json", name, what=what)
    preprocess = ImagePreprocess.from_pretrained(home, model.config.vision_config.image_size, published=True)
    return BlipCaptioner(model.to(device), tokenizer, preprocess)
