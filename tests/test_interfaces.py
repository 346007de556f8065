"""Conditionings: tokens that a mask hides."""

import torch

from reneg.interfaces import Conditioning


def test_filling_repeats_the_tokens_that_are_read():
    embeds = torch.arange(10.0).view(2, 5, 1)
    mask = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 0, 1, 1]])
    filled = Conditioning(embeds, prompt_attention_mask=mask).filled()
    assert filled.prompt_embeds[..., 0].tolist() == [[0, 0, 0, 0, 0], [6, 6, 9, 8, 9]]
    assert filled.prompt_attention_mask is not None and bool(filled.prompt_attention_mask.all())
    assert filled.prompt_attention_mask.dtype == mask.dtype


def test_filling_leaves_what_has_no_mask_or_reads_nothing():
    plain = Conditioning(torch.ones(1, 5, 2))
    assert plain.filled() is plain
    nothing = Conditioning(torch.ones(1, 5, 2), prompt_attention_mask=torch.zeros(1, 5))
    assert torch.equal(nothing.filled().prompt_embeds, nothing.prompt_embeds)
