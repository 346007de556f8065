"""Prompts on their way into a scorer: cleaned and cut off as the originals do it."""

import html
import re
import warnings
from collections.abc import Sequence
from typing import Any

import ftfy
import torch
from jaxtyping import Int
from torch import Tensor


def clean_text(text: str) -> str:
    """A prompt as open_clip's and OpenAI's CLIP tokenizers clean it; transformers' lowercases by itself.

    Mended encoding, HTML entities undone twice, white space collapsed.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip()


class PromptTokenizer:
    """A transformers tokenizer at a scorer's fixed length, which warns once of prompts that it cuts off.

    Padding to the full length keeps an item's score independent of its batch-mates.
    """

    # Any: the classes of transformers' tokenizers share no annotated call.
    def __init__(self, tokenizer: Any, limit: int, *, name: str, clean: bool = False):
        self._tokenizer, self._limit, self._name, self._clean = tokenizer, limit, name, clean
        self._warned = False

    def __call__(self, prompts: Sequence[str], device: torch.device) -> dict[str, Int[Tensor, "b l"]]:
        """`input_ids` and `attention_mask` of [b] prompts."""
        texts = [clean_text(prompt) for prompt in prompts] if self._clean else list(prompts)
        if not self._warned and any(len(ids) > self._limit for ids in self._tokenizer(texts, verbose=False).input_ids):
            warnings.warn(
                f"reward {self._name!r} reads the first {self._limit} tokens of longer prompts", stacklevel=4
            )
            self._warned = True
        options = {"padding": "max_length", "max_length": self._limit, "truncation": True, "return_tensors": "pt"}
        tokens = self._tokenizer(texts, **options)
        return {name: tokens[name].to(device, non_blocking=True) for name in ("input_ids", "attention_mask")}
