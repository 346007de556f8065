"""The method: a guided trajectory, its one-step predictions, and the training steps that join them.

Data goes one way: prompts -> conditioning -> trajectory x_T … x_t (no gradient) -> guided prediction (Eq. 5) -> x0
(Eq. 6) -> images -> rewards (Eq. 7) -> gradient -> negative embedding.
"""

from collections.abc import Iterator, Sequence

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
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """Eq. 6: the clean latents predicted from x_t in one step, and the guided prediction; no gradient enters x_t."""
    prediction = predict_guided_with_graph(
        model, latents.detach(), timestep, positive, negative, guidance_scale, policy
    )
    alpha, sigma = model.alpha_sigma(timestep)
    return predict_x0(latents.detach(), prediction, alpha, sigma, model.prediction_type), prediction


def training_steps(
    model: DiffusionModel,
    target: Target,
    reward: Reward,
    prompts: Sequence[str],
    streams: Streams,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    grad_step_range: tuple[int, int],
    gradient_steps: int = 1,
) -> Iterator[StepOutput]:
    """§4.2: guided trajectory down to a random late step, one-step prediction, reward, loss.

    With several gradient steps the trajectory goes on from each to the next, on detached latents and from the same
    prediction, so a further gradient costs a backward pass and a decoded picture, not a trajectory. Call `backward` on
    each loss before asking for the next, and only one step's graph is ever kept.

    Args:
        prompts: one per generator of `streams`.
        grad_step_range: first and last step_index that may carry the gradient, both included.
        gradient_steps: how many of them carry one; 1 is the paper's method.
    """
    timesteps = model.set_timesteps(num_inference_steps)
    noise = draw_noise(streams.generators, model.latent_shape, model.dtype, model.device)
    latents, done = model.initial_latents(noise), 0
    for step_index in streams.step_indices(grad_step_range, gradient_steps):
        positive, negative = target.condition(model, prompts)
        latents = denoise(
            model,
            latents,
            timesteps[done:step_index],
            positive.detach(),
            negative.detach(),
            guidance_scale,
            streams.generators,
        )
        timestep, done = timesteps[step_index], step_index + 1
        x0, prediction = one_step_x0(model, latents, timestep, positive, negative, guidance_scale, target.policy)
        images = model.decode(x0)
        rewards = reward(images, prompts)
        yield StepOutput(reward_loss(rewards), rewards.detach(), images.detach(), step_index)
        latents = model.step(prediction.detach(), timestep, latents, streams.generators)
