"""The method: a guided trajectory, its one-step predictions, and the training steps that join them.

Data goes one way: prompts -> conditioning -> trajectory x_T … x_t (no gradient) -> guided prediction (Eq. 5) -> x0
(Eq. 6) -> images -> rewards (Eq. 7) -> gradient -> negative embedding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor

from reneg.guidance import guided_prediction
from reneg.interfaces import Conditioner, Conditioning, DiffusionModel, GradientPolicy, Place, Reward, StepOutput
from reneg.objective import reward_loss, reward_loss_one_by_one
from reneg.prediction import predict_x0
from reneg.randomness import Streams


def predict_guided(
    model: DiffusionModel,
    latents: Float[Tensor, "b c h w"],
    timestep: Real[Tensor, ""],
    positive: Conditioning,
    negative: Conditioning,
    guidance_scale: float | Float[Tensor, ""],
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
    guidance_scale: float | Float[Tensor, ""],
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
    guidance_scale: float | Float[Tensor, ""],
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
    guidance_scale: float | Float[Tensor, ""],
    policy: GradientPolicy,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """Eq. 6: the clean latents predicted from x_t in one step, and the guided prediction; no gradient enters x_t."""
    prediction = predict_guided_with_graph(
        model, latents.detach(), timestep, positive, negative, guidance_scale, policy
    )
    alpha, sigma = model.alpha_sigma(timestep)
    return predict_x0(latents.detach(), prediction, alpha, sigma, model.prediction_type), prediction


@torch.no_grad()
def denoise_fast(
    model: DiffusionModel,
    latents: Float[Tensor, "b c h w"],
    timesteps: Real[Tensor, " n"],
    positive: Conditioning,
    negative: Conditioning,
    guidance_scale: float | Float[Tensor, ""],
) -> Float[Tensor, "b c h w"]:
    """The trajectory from the first of some timesteps to the last in as many steps as lie between, without a gradient.

    DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2): second order in the half log-SNR, so that it
    needs a third of DDIM's steps for nearly the same x_t, and it starts with a step of first order. Written in x0,
    alpha and sigma, it serves epsilon, v and flows alike.
    """
    scales = [model.alpha_sigma(timestep) for timestep in timesteps]
    log_snr = [torch.log(alpha / sigma) for alpha, sigma in scales]
    previous = None
    for n in range(len(timesteps) - 1):
        (alpha, sigma), (next_alpha, next_sigma) = scales[n], scales[n + 1]
        prediction = predict_guided(model, latents, timesteps[n], positive, negative, guidance_scale)
        x0 = predict_x0(latents, prediction, alpha, sigma, model.prediction_type)
        step = log_snr[n + 1] - log_snr[n]
        towards = x0
        if previous is not None:
            towards = x0 + 0.5 * step / (log_snr[n] - log_snr[n - 1]) * (x0 - previous)
        latents = (next_sigma / sigma * latents - next_alpha * torch.expm1(-step) * towards).to(prediction.dtype)
        previous = x0
    return latents


def reach(
    model: DiffusionModel,
    latents: Float[Tensor, "b c h w"],
    timesteps: Real[Tensor, " n"],
    step_index: int,
    positive: Conditioning,
    negative: Conditioning,
    guidance_scale: float | Float[Tensor, ""],
    generators: list[torch.Generator],
    trajectory_steps: int | None,
) -> Float[Tensor, "b c h w"]:
    """x_T -> x_t of a step, by the sampler's own steps or by so many of `denoise_fast`, evenly apart."""
    if trajectory_steps is None:
        return denoise(model, latents, timesteps[:step_index], positive, negative, guidance_scale, generators)
    chosen = torch.linspace(0, step_index, min(trajectory_steps, step_index) + 1).round().long()
    return denoise_fast(model, latents, timesteps[chosen], positive, negative, guidance_scale)


@dataclass(frozen=True)
class StepSettings:
    """What a gradient depends on beside model, reward and samples."""

    guidance_scale: float
    """g of Eq. 5; a target may learn its own."""
    num_inference_steps: int
    grad_step_range: tuple[int, int]
    """First and last step_index that may carry the gradient, both included."""
    gradient_steps: int = 1
    """How many of them carry one; 1 is the paper's method."""
    trajectory_steps: int | None = None
    """Reach the first of them in so many steps of `denoise_fast`; None takes the sampler's own."""
    vae_slicing: bool = False
    """As of `score`."""

    @classmethod
    def of(cls, config: Any) -> "StepSettings":
        """Those of a run's settings, which have the same names."""
        return cls(**{field.name: vars(config)[field.name] for field in fields(cls) if field.name in vars(config)})


def training_steps(
    model: DiffusionModel,
    target: Conditioner,
    reward: Reward,
    prompts: Sequence[str],
    streams: Streams,
    settings: StepSettings,
    place: Place | None = None,
) -> Iterator[StepOutput]:
    """§4.2: guided trajectory down to a random late step, one-step prediction, reward, loss.

    With several gradient steps the trajectory goes on from each to the next, on detached latents and from the same
    prediction, so a further gradient costs a backward pass and a decoded picture, not a trajectory. Call `backward` on
    each loss before asking for the next, and only one step's graph is ever kept.

    Args:
        prompts: one per generator of `streams`.
        place: not used; the samples always come from their noise.
    """
    timesteps, count = model.set_timesteps(settings.num_inference_steps), settings.gradient_steps
    latents, done = model.initial_latents(streams.noise(model)), 0
    for step_index in streams.step_indices(settings.grad_step_range, count):
        positive, negative = target.condition(model, prompts)
        scale = target.guidance_scale(settings.guidance_scale)
        fixed = positive.detach(), negative.detach(), scale, streams.generators
        if done == 0:
            latents = reach(model, latents, timesteps, step_index, *fixed, settings.trajectory_steps)
        else:
            latents = denoise(model, latents, timesteps[done:step_index], *fixed)
        timestep, done = timesteps[step_index], step_index + 1
        x0, prediction = one_step_x0(model, latents, timestep, positive, negative, scale, target.policy)
        yield score(model, reward, x0, prompts, step_index, share=1 / count, vae_slicing=settings.vae_slicing)
        latents = model.step(prediction.detach(), timestep, latents, streams.generators)


def score(
    model: DiffusionModel,
    reward: Reward,
    x0: Float[Tensor, "b c h w"],
    prompts: Sequence[str],
    step_index: int,
    *,
    share: float,
    vae_slicing: bool = False,
) -> StepOutput:
    """Clean latents -> images -> rewards -> loss (Eq. 7), of which a batch of several gradient steps takes a share.

    Args:
        vae_slicing: decode and score one picture after the other, each with its way back to the latents.
    """
    if vae_slicing:
        pictures = list[Tensor]()

        def reward_of(latents: Tensor, number: int) -> Tensor:
            image = model.decode(latents)
            pictures.append(image.detach())
            return reward(image, prompts[number : number + 1])

        loss, rewards = reward_loss_one_by_one(reward_of, x0)
        return StepOutput(share * loss, rewards, torch.cat(pictures), step_index)
    images = model.decode(x0)
    rewards = reward(images, prompts)
    return StepOutput(share * reward_loss(rewards), rewards.detach(), images.detach(), step_index)
