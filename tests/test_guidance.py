"""Eq. 5 against its closed form, and its shapes."""

import pytest
import torch
from jaxtyping import TypeCheckError

from reneg.guidance import guided_prediction


def predictions():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 4, 3, 3, generator=generator, dtype=torch.float64).unbind()


def test_by_hand():
    pred_cond, pred_uncond = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 1.0)
    assert guided_prediction(pred_cond, pred_uncond, 7.5).item() == 16.0


def test_scale_one_is_the_prompts_own_prediction_and_zero_the_negatives():
    pred_cond, pred_uncond = predictions()
    torch.testing.assert_close(guided_prediction(pred_cond, pred_uncond, 1.0), pred_cond)
    assert torch.equal(guided_prediction(pred_cond, pred_uncond, 0.0), pred_uncond)


@pytest.mark.parametrize("guidance_scale", [1.5, 7.5])
def test_slopes_are_the_scale_and_one_minus_the_scale(guidance_scale: float):
    pred_cond, pred_uncond = (tensor.requires_grad_() for tensor in predictions())
    guided_prediction(pred_cond, pred_uncond, guidance_scale).sum().backward()
    assert pred_cond.grad is not None and pred_uncond.grad is not None
    torch.testing.assert_close(pred_cond.grad, torch.full_like(pred_cond, guidance_scale))
    torch.testing.assert_close(pred_uncond.grad, torch.full_like(pred_uncond, 1 - guidance_scale))


def test_shapes_are_checked_under_pytest():
    """A batch of one would otherwise broadcast silently."""
    pred_cond, pred_uncond = predictions()
    with pytest.raises(TypeCheckError):
        guided_prediction(pred_cond, pred_uncond[:1], 7.5)
