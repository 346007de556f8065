"""How a batch of samples becomes a gradient: the paper's way (algorithm.py), and others of the field beside it.

All have one signature, and give losses whose sum is the batch's objective: call `backward` on each before asking for
the next. docs/how_to_choose.md tells which to take.
"""

from collections.abc import Iterator, Sequence

from reneg.algorithm import denoise, one_step_x0, predict_guided_with_graph, reach, score, training_steps
from reneg.interfaces import Conditioner, DiffusionModel, GradientPolicy, Reward, StepOutput
from reneg.randomness import Streams


def draft_steps(
    model: DiffusionModel,
    target: Conditioner,
    reward: Reward,
    prompts: Sequence[str],
    streams: Streams,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    grad_step_range: tuple[int, int],
    gradient_steps: int = 1,
    trajectory_steps: int | None = None,
) -> Iterator[StepOutput]:
    """DRaFT-K (Clark et al. 2023, arXiv 2309.17400, Algorithm 1): through the last K steps to the finished picture.

    The latents between those steps keep their graph, so the positive branch needs one too, and the memory grows with
    K. With K = num_inference_steps it is the exact gradient of the sampled picture's reward.

    Args:
        grad_step_range: not used; it is always the last steps.
        gradient_steps: K.
        trajectory_steps: as of `training_steps`.
    """
    timesteps = model.set_timesteps(num_inference_steps)
    first = num_inference_steps - gradient_steps
    positive, negative = target.condition(model, prompts)
    scale = target.guidance_scale(guidance_scale)
    fixed = positive.detach(), negative.detach(), scale, streams.generators
    latents = model.initial_latents(streams.noise(model))
    latents = reach(model, latents, timesteps, first, *fixed, trajectory_steps)
    policy = target.policy
    for timestep in timesteps[first:]:
        prediction = predict_guided_with_graph(model, latents, timestep, positive, negative, scale, policy)
        latents = model.step(prediction, timestep, latents, streams.generators)
        policy = GradientPolicy(positive=True, negative=True)  # from here on the latents themselves have a graph
    yield score(model, reward, latents, prompts, first, share=1.0)


def draft_lv_steps(
    model: DiffusionModel,
    target: Conditioner,
    reward: Reward,
    prompts: Sequence[str],
    streams: Streams,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    grad_step_range: tuple[int, int],
    gradient_steps: int = 1,
    trajectory_steps: int | None = None,
) -> Iterator[StepOutput]:
    """DRaFT-LV (Clark et al. 2023, Algorithm 2): the finished latents are noised again, several times, each scored.

    One trajectory gives as many gradients as wanted, each from fresh noise, for two evaluations and a backward pass.

    Args:
        grad_step_range: the noise is that of these steps in turn; the original has the last one alone.
        gradient_steps: copies.
        trajectory_steps: as of `training_steps`.
    """
    timesteps = model.set_timesteps(num_inference_steps)
    positive, negative = target.condition(model, prompts)
    scale = target.guidance_scale(guidance_scale)
    fixed = positive.detach(), negative.detach(), scale, streams.generators
    last = num_inference_steps - 1
    latents = reach(model, model.initial_latents(streams.noise(model)), timesteps, last, *fixed, trajectory_steps)
    clean = denoise(model, latents, timesteps[last:], *fixed)
    for step_index in streams.cycle(grad_step_range, gradient_steps):
        positive, negative = target.condition(model, prompts)
        scale = target.guidance_scale(guidance_scale)
        alpha, sigma = model.alpha_sigma(timesteps[step_index])
        noised = (alpha * clean + sigma * streams.noise(model)).to(clean.dtype)
        x0, _ = one_step_x0(model, noised, timesteps[step_index], positive, negative, scale, target.policy)
        yield score(model, reward, x0, prompts, step_index, share=1 / gradient_steps)


ESTIMATORS = {"late_steps": training_steps, "draft": draft_steps, "draft_lv": draft_lv_steps}
"""Name in the settings -> what gives the losses of a batch."""
