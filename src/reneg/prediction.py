"""The one-step prediction of the clean latents, Eq. 6, for each parameterisation of the denoiser, and its inverse."""

from jaxtyping import Float
from torch import Tensor

from reneg.interfaces import PredictionType


def predict_x0(
    latents: Float[Tensor, "b c h w"],
    model_output: Float[Tensor, "b c h w"],
    alpha: Float[Tensor, ""],
    sigma: Float[Tensor, ""],
    prediction_type: PredictionType,
) -> Float[Tensor, "b c h w"]:
    """Eq. 6 of ReNeg (arXiv 2412.19637): `(x_t - sqrt(1 - abar_t) * pred) / sqrt(abar_t)` for epsilon.

    Args:
        latents: x_t.
        model_output: the guided prediction.
        alpha: sqrt(abar_t), in (0, 1]; for a flow 1 - sigma.
        sigma: sqrt(1 - abar_t), in [0, 1); for a flow in (0, 1].
        prediction_type: what the denoiser predicts; for `v_prediction` (Salimans & Ho 2022, appendix D) it is
            v = alpha * noise - sigma * x_0, hence x_0 = alpha * x_t - sigma * v; for `flow_prediction` it is the
            velocity v = noise - x_0 of the straight path (Liu et al. 2022), hence x_0 = x_t - sigma * v.
    """
    if prediction_type == "epsilon":
        return (latents - sigma * model_output) / alpha
    if prediction_type == "v_prediction":
        return alpha * latents - sigma * model_output
    return latents - sigma * model_output


def prediction_target(
    x0: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    alpha: Float[Tensor, ""],
    sigma: Float[Tensor, ""],
    prediction_type: PredictionType,
) -> Float[Tensor, "b c h w"]:
    """What a denoiser should predict for x_t = alpha * x_0 + sigma * noise; `predict_x0` gives x_0 back from it."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return alpha * noise - sigma * x0
    return noise - x0
