"""How a batch of samples becomes a gradient: the paper's way (algorithm.py), and others of the field beside it.

All have one signature, and give losses whose sum is the batch's objective: call `backward` on each before asking for
the next. An output that tells where its samples go on from wants them again at the next update, with that place.
docs/how_to_choose.md tells which to take.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from reneg.algorithm import (
    StepSettings,
    denoise,
    one_step_x0,
    predict_guided_with_graph,
    reach,
    score,
    training_steps,
)
from reneg.interfaces import Conditioner, DiffusionModel, GradientPolicy, Place, Reward, StepOutput
from reneg.randomness import Streams


def draft_steps(
    model: DiffusionModel,
    target: Conditioner,
    reward: Reward,
    prompts: Sequence[str],
    streams: Streams,
    settings: StepSettings,
    place: Place | None = None,
) -> Iterator[StepOutput]:
    """DRaFT-K (Clark et al. 2023, arXiv 2309.17400, Algorithm 1): through the last K steps to the finished picture.

    The latents between those steps keep their graph, so the positive branch needs one too, and the memory grows with
    K. With K = num_inference_steps it is the exact gradient of the sampled picture's reward.

    Args:
        settings: K is `gradient_steps`; `grad_step_range` is not used, as it is always the last steps.
        place: not used.
    """
    timesteps = model.set_timesteps(settings.num_inference_steps)
    first = len(timesteps) - settings.gradient_steps
    positive, negative = target.condition(model, prompts)
    scale = target.guidance_scale(settings.guidance_scale)
    fixed = positive.detach(), negative.detach(), scale, streams.generators
    latents = model.initial_latents(streams.noise(model))
    latents = reach(model, latents, timesteps, first, *fixed, settings.trajectory_steps)
    policy = target.policy
    for timestep in timesteps[first:]:
        prediction = predict_guided_with_graph(model, latents, timestep, positive, negative, scale, policy)
        latents = model.step(prediction, timestep, latents, streams.generators)
        policy = GradientPolicy(positive=True, negative=True)  # from here on the latents themselves have a graph
    yield score(model, reward, latents, prompts, first, share=1.0, vae_slicing=settings.vae_slicing)


def draft_lv_steps(
    model: DiffusionModel,
    target: Conditioner,
    reward: Reward,
    prompts: Sequence[str],
    streams: Streams,
    settings: StepSettings,
    place: Place | None = None,
) -> Iterator[StepOutput]:
    """DRaFT-LV (Clark et al. 2023, Algorithm 2): the finished latents are noised again, several times, each scored.

    One trajectory gives as many gradients as wanted, each from fresh noise, for two evaluations and a backward pass.

    Args:
        settings: `gradient_steps` is the number of copies, whose noise is that of the steps of `grad_step_range` in
            turn; the original has the last one alone.
        place: not used.
    """
    timesteps, count = model.set_timesteps(settings.num_inference_steps), settings.gradient_steps
    positive, negative = target.condition(model, prompts)
    scale = target.guidance_scale(settings.guidance_scale)
    fixed = positive.detach(), negative.detach(), scale, streams.generators
    last, latents = len(timesteps) - 1, model.initial_latents(streams.noise(model))
    latents = reach(model, latents, timesteps, last, *fixed, settings.trajectory_steps)
    clean = denoise(model, latents, timesteps[last:], *fixed)
    for step_index in streams.cycle(settings.grad_step_range, count):
        positive, negative = target.condition(model, prompts)
        scale = target.guidance_scale(settings.guidance_scale)
        alpha, sigma = model.alpha_sigma(timesteps[step_index])
        noised = (alpha * clean + sigma * streams.noise(model)).to(clean.dtype)
        x0, _ = one_step_x0(model, noised, timesteps[step_index], positive, negative, scale, target.policy)
        yield score(model, reward, x0, prompts, step_index, share=1 / count, vae_slicing=settings.vae_slicing)


def pool_steps(
    model: DiffusionModel,
    target: Conditioner,
    reward: Reward,
    prompts: Sequence[str],
    streams: Streams,
    settings: StepSettings,
    place: Place | None = None,
) -> Iterator[StepOutput]:
    """A pool of trajectories in flight, of which each update takes one step: the part of samples that began together.

    Their first update brings them from noise to the first step of the range. There, and at each later update one step
    on, they give a gradient, whose detached prediction also moves them, so that no timestep is evaluated twice. At one
    embedding their gradients are those of `training_steps` on all steps of the range; in a run the latents were made
    by embeddings of up to as many updates before as the range has further steps.

    Args:
        settings: each step of `grad_step_range` carries a gradient, at an update of its own; `gradient_steps` is not
            used.
        place: where the last update left the samples; None begins with their noise.
    """
    timesteps, (first, last) = model.set_timesteps(settings.num_inference_steps), settings.grad_step_range
    positive, negative = target.condition(model, prompts)
    scale = target.guidance_scale(settings.guidance_scale)
    if place is None:
        latents, fixed = model.initial_latents(streams.noise(model)), (positive.detach(), negative.detach(), scale)
        latents = reach(model, latents, timesteps, first, *fixed, streams.generators, settings.trajectory_steps)
        place = Place(first, latents)
    timestep, latents = timesteps[place.step_index], place.latents
    x0, prediction = one_step_x0(model, latents, timestep, positive, negative, scale, target.policy)
    output = score(model, reward, x0, prompts, place.step_index, share=1.0, vae_slicing=settings.vae_slicing)
    onward = None
    if place.step_index < last:
        onward = Place(place.step_index + 1, model.step(prediction.detach(), timestep, latents, streams.generators))
    yield replace(output, onward=onward)


ESTIMATORS = {"late_steps": training_steps, "draft": draft_steps, "draft_lv": draft_lv_steps, "pool": pool_steps}
"""Name in the settings -> what gives the losses of a batch."""
