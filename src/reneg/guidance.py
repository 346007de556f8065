"""Classifier-free guidance, Eq. 5."""

from jaxtyping import Float
from torch import Tensor


def guided_prediction(
    pred_cond: Float[Tensor, "b c h w"],
    pred_uncond: Float[Tensor, "b c h w"],
    guidance_scale: float | Float[Tensor, ""],
) -> Float[Tensor, "b c h w"]:
    """Eq. 5 of ReNeg (arXiv 2412.19637): `pred_uncond + guidance_scale * (pred_cond - pred_uncond)`.

    Args:
        pred_cond: the denoiser's output given the prompt.
        pred_uncond: its output given the negative embedding.
        guidance_scale: a number, or a tensor where it is learned; 1 leaves the prompt's prediction alone, and the
            negative embedding then has no effect.
    """
    return pred_uncond + guidance_scale * (pred_cond - pred_uncond)
