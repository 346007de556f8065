"""DDPO's mathematics (Black et al. 2023, arXiv 2305.13301): a denoising step as an action that has a probability."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from reneg.interfaces import PredictionType
from reneg.prediction import predict_x0

SMALLEST_SPREAD = 1e-6
"""Added to a standard deviation of rewards (the authors' code)."""

Scales = tuple[Float[Tensor, ""], Float[Tensor, ""]]
"""(alpha, sigma) of x_t = alpha * x_0 + sigma * noise."""


def ddim_transition(
    latents: Float[Tensor, "b c h w"],
    model_output: Float[Tensor, "b c h w"],
    now: Scales,
    then: Scales,
    prediction_type: PredictionType,
    eta: float,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, ""]]:
    """Mean and standard deviation of x_{t-1} given x_t (DDIM, Song et al. 2020, arXiv 2010.02502, Eq. 12 and 16).

    Args:
        latents: x_t.
        model_output: the guided prediction.
        now: of x_t.
        then: of x_{t-1}; its sigma above 0, or the step is not random.
        eta: 0 is DDIM, 1 has the variance of DDPM.
    """
    (alpha, sigma), (next_alpha, next_sigma) = now, then
    x0 = predict_x0(latents, model_output, alpha, sigma, prediction_type)
    noise = (latents - alpha * x0) / sigma
    std = eta * next_sigma / sigma * (1 - (alpha / next_alpha) ** 2).sqrt()
    return next_alpha * x0 + (next_sigma**2 - std**2).sqrt() * noise, std


def log_probability(
    sample: Float[Tensor, "b c h w"], mean: Float[Tensor, "b c h w"], std: Float[Tensor, ""]
) -> Float[Tensor, " b"]:
    """Of each sample under its normal distribution: the mean over its numbers, as in the authors' code.

    The clip range is meant for this mean; the log-probability itself is as many times larger as a latent has numbers.
    """
    each = -((sample - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
    return each.mean((1, 2, 3))


def clipped_losses(
    log_probs: Float[Tensor, " b"],
    old_log_probs: Float[Tensor, " b"],
    advantages: Float[Tensor, " b"],
    clip_range: float,
) -> Float[Tensor, " b"]:
    """PPO's clipped surrogate of DDPO_IS, to be minimised; its gradient at ratio 1 is REINFORCE's."""
    ratio = (log_probs - old_log_probs).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))


def prompt_advantages(
    history: dict[str, list[float]],
    prompts: Sequence[str],
    rewards: Float[Tensor, " b"],
    *,
    history_size: int,
    min_count: int,
) -> Float[Tensor, " b"]:
    """Rewards relative to the mean and the standard deviation of their prompt's last rewards (§4.3, appendix D).

    Args:
        history: prompt -> its last rewards; these rewards are added.
        min_count: with fewer rewards of a prompt, all rewards that are given stand in.
    """
    values = rewards.double()
    advantages = (values - values.mean()) / (values.std(correction=0) + SMALLEST_SPREAD)
    for prompt in dict.fromkeys(prompts):
        own = torch.tensor([other == prompt for other in prompts], device=values.device)
        history[prompt] = [*history.get(prompt, []), *values[own].tolist()][-history_size:]
        if len(history[prompt]) >= min_count:
            known = torch.tensor(history[prompt], dtype=torch.float64, device=values.device)
            advantages[own] = (values[own] - known.mean()) / (known.std(correction=0) + SMALLEST_SPREAD)
    return advantages.to(rewards.dtype)
