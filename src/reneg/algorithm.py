"""The method: a guided trajectory, its one-step prediction, and the training step that joins them.

Data goes one way: prompts -> conditioning -> trajectory x_T … x_t (no gradient) -> guided prediction (Eq. 5) -> x0
(Eq. 6) -> images -> rewards (Eq. 7) -> gradient -> negative embedding.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Real
from torch import Tensor

from reneg.guidance import guided_prediction
from reneg.interfaces import Conditioning, DiffusionModel, GradientPolicy, Reward, StepOutput, Target
from reneg.objective import reward_loss
from reneg.prediction import predict_x0
from reneg.randomness import Streams, draw_noise


def predict_guided(
    model: DiffusionModel,
    latents: Float[Tensor, "b c h w"],
    timestep: Real[Tensor, ""],
    positive: Conditioning,
    negative: Conditioning,
    guidance_scale: float,
) -> Float[Tensor, "b c h w"]:
    """Eq. 5 with both branches in one batch, as diffusers' pipelines run it: for sampling."""
    both = Conditioning.concatenate(negative, positive)
    pred_uncond, pred_cond = model.predict(torch.cat([latents, latents]), timestep, both).chunk(2)
    return guided_prediction(pred_cond, pred_uncond, guidance_scale)


def predict_guided_with_graph(
    model: DiffusionModel,
    latents: Float[Tensor, "b c h w"],
    timestep: Real[Tensor, ""],
    positive: Conditioning,
    negative: Conditioning,
    guidance_scale: float,
    policy: GradientPolicy,
) -> Float[Tensor, "b c h w"]:
    """Eq. 5 with a graph in the branches that the policy names only.

    A branch without a parameter in it would save activations for a backward pass that never needs them: for the
    negative embedding this halves what the denoiser keeps, and leaves the gradient as it is.
    """
    with torch.set_grad_enabled(policy.negative):
        pred_uncond = model.predict(latents, timestep, negative)
    with torch.set_grad_enabled(policy.positive):
        pred_cond = model.predict(latents, timestep, positive)
    return guided_prediction(pred_cond, pred_uncond, guidance_scale)


@torch.no_grad()
def denoise(
    model: DiffusionModel,
    latents: Float[Tensor, "b c h w"],
    timesteps: Real[Tensor, " n"],
    positive: Conditioning,
    negative: Conditioning,
    guidance_scale: float,
    generators: list[torch.Generator],
) -> Float[Tensor, "b c h w"]:
    """The trajectory x_T … x_t over some timesteps, without a gradient."""
    for timestep in timesteps:
        prediction = predict_guided(model, latents, timestep, positive, negative, guidance_scale)
        latents = model.step(prediction, timestep, latents, generators)
    return latents


def one_step_x0(
    model: DiffusionModel,
    latents: Float[Tensor, "b c h w"],
    timestep: Real[Tensor, ""],
    positive: Conditioning,
    negative: Conditioning,
    guidance_scale: float,
    policy: GradientPolicy,
) -> Float[Tensor, "b c h w"]:
    """Eq. 6: the clean latents predicted from x_t in one step; the gradient stops at x_t."""
    prediction = predict_guided_with_graph(
        model, latents.detach(), timestep, positive, negative, guidance_scale, policy
    )
    alpha, sigma = model.alpha_sigma(timestep)
    return predict_x0(latents.detach(), prediction, alpha, sigma, model.prediction_type)


def training_step(
    model: DiffusionModel,
    target: Target,
    reward: Reward,
    prompts: Sequence[str],
    streams: Streams,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    grad_step_range: tuple[int, int],
) -> StepOutput:
    """One step of §4.2: guided trajectory down to a random late step, one-step prediction, reward, loss.

    Args:
        prompts: one per generator of `streams`.
        grad_step_range: first and last step_index that may carry the gradient, both included.
    """
    positive, negative = target.condition(model, prompts)
    timesteps = model.set_timesteps(num_inference_steps)
    step_index = streams.step_index(grad_step_range)
    noise = draw_noise(streams.generators, model.latent_shape, model.dtype, model.device)
    latents = denoise(
        model,
        model.initial_latents(noise),
        timesteps[:step_index],
        positive.detach(),
        negative.detach(),
        guidance_scale,
        streams.generators,
    )
    x0 = one_step_x0(model, latents, timesteps[step_index], positive, negative, guidance_scale, target.policy)
    images = model.decode(x0)
    rewards = reward(images, prompts)
    return StepOutput(reward_loss(rewards), rewards.detach(), images.detach(), step_index)
