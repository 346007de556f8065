"""The gradient that is learned from: against finite differences, a closed form, and the plain concatenated batch."""

import pytest
import torch
from fakes import PROMPTS, Brightness, GaussianModel
from tiny import tiny_clip_reward, tiny_model
from torch import Tensor

from reneg.algorithm import StepSettings, denoise, one_step_x0, predict_guided, training_steps
from reneg.interfaces import Conditioning, DiffusionModel
from reneg.objective import reward_loss
from reneg.planning.saved_bytes import Saved
from reneg.prediction import predict_x0
from reneg.randomness import Streams, draw_noise
from reneg.targets import NegativeEmbeddingTarget

GUIDANCE, STEPS = 7.5, 8


def recorded_point(
    model: DiffusionModel, target: NegativeEmbeddingTarget, prompts: list[str], step_index: int
) -> tuple[Conditioning, Tensor, Tensor]:
    """(positive, x_t, timestep) as a training step meets them."""
    positive, negative = target.condition(model, prompts)
    timesteps = model.set_timesteps(STEPS)
    generators = Streams(0, 0, list(range(len(prompts)))).generators
    latents = model.initial_latents(draw_noise(generators, model.latent_shape, model.dtype, model.device))
    latents = denoise(model, latents, timesteps[:step_index], positive, negative.detach(), GUIDANCE, generators)
    return positive, latents, timesteps[step_index]


@pytest.mark.parametrize("step_index", [4, 7])
def test_gradient_equals_finite_differences(step_index: int) -> None:
    model, reward = tiny_model(torch.float64), tiny_clip_reward(torch.float64)
    target = NegativeEmbeddingTarget(model)
    prompts = PROMPTS[:1]
    positive, latents, timestep = recorded_point(model, target, prompts, step_index)

    def rewards_of(embeds: Tensor) -> Tensor:
        count = len(embeds)
        x0, _ = one_step_x0(
            model,
            latents.expand(count, -1, -1, -1),
            timestep,
            positive.expand(count),
            Conditioning(embeds),
            GUIDANCE,
            target.policy,
        )
        return reward(model.decode(x0), prompts * count)

    embeds = target.negative_prompt_embeds
    (gradient,) = torch.autograd.grad(rewards_of(embeds).sum(), embeds)
    width = 1e-3
    differences = []
    with torch.no_grad():
        for offsets in (width * torch.eye(embeds.numel(), dtype=embeds.dtype)).split(32):
            offsets = offsets.unflatten(1, embeds.shape[1:])
            differences.append((rewards_of(embeds + offsets) - rewards_of(embeds - offsets)) / (2 * width))
    error = float((torch.cat(differences) - gradient.flatten()).norm() / gradient.norm())
    print(  # noqa: T201 (measured, shown with -s)
        f"\nstep_index {step_index}: gradient norm {float(gradient.norm()):.3e}, {embeds.numel()} coordinates, "
        f"relative error against central differences {error:.1e}"
    )
    assert float(gradient.norm()) > 0
    assert error <= 1e-6


def test_gradient_of_a_training_step_equals_the_closed_form() -> None:
    """Brightness of a Gaussian model: d loss / d n = (g - 1) sigma slope / 8 * the mean row of the weights."""
    model = GaussianModel()
    target = NegativeEmbeddingTarget(model)
    outputs = training_steps(
        model,
        target,
        Brightness(),
        PROMPTS[:4],
        Streams(3, 5, [20, 21, 22, 23]),
        StepSettings(GUIDANCE, num_inference_steps=STEPS, grad_step_range=(2, 7)),
    )
    output = next(outputs)
    (gradient,) = torch.autograd.grad(output.loss, target.parameters())
    timestep = model.set_timesteps(STEPS)[output.step_index]
    _, sigma = model.alpha_sigma(timestep)
    # x0 = (x_t - sigma * pred) / alpha and d pred / d n = (g - 1) * slope * alpha * W; the decoder divides by 8.
    expected = (GUIDANCE - 1) * sigma * model.slope(timestep) / 8 * model.weight.mean(0)
    assert torch.allclose(gradient.flatten(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_negative_branch_alone_gives_the_gradient_of_the_concatenated_batch(
    dtype: torch.dtype, tolerance: float
) -> None:
    model, reward = tiny_model(dtype), tiny_clip_reward(dtype)
    target = NegativeEmbeddingTarget(model)
    prompts = PROMPTS[:4]
    positive, latents, timestep = recorded_point(model, target, prompts, 5)
    alpha, sigma = model.alpha_sigma(timestep)

    def concatenated(negative: Conditioning) -> Tensor:
        prediction = predict_guided(model, latents, timestep, positive, negative, GUIDANCE)
        return predict_x0(latents, prediction, alpha, sigma, model.prediction_type)

    def separate(negative: Conditioning) -> Tensor:
        return one_step_x0(model, latents, timestep, positive, negative, GUIDANCE, target.policy)[0]

    gradients, denoiser, whole = [], [], []
    for x0_of in (concatenated, separate):
        negative = Conditioning(target.negative_prompt_embeds).expand(len(prompts))
        saved = Saved(model.denoiser, model.vae, reward.model)
        with saved.recording():
            x0 = x0_of(negative)
            denoiser.append(saved.kilobytes)
            loss = reward_loss(reward(model.decode(x0), prompts))
        whole.append(saved.kilobytes)
        gradients += torch.autograd.grad(loss, target.parameters())
    error = float((gradients[1] - gradients[0]).norm() / gradients[0].norm())
    print(  # noqa: T201 (measured, shown with -s)
        f"\n{dtype}: relative difference of the gradients {error:.1e}; saved for backward in KiB, denoiser "
        f"{denoiser[0]:.0f} concatenated, {denoiser[1]:.0f} negative branch alone ({denoiser[1] / denoiser[0]:.3f}); "
        f"whole step with decoder and reward {whole[0]:.0f} and {whole[1]:.0f} ({whole[1] / whole[0]:.3f})"
    )
    assert error <= tolerance
    assert denoiser[1] <= 0.55 * denoiser[0]


def test_gradient_stops_at_x_t() -> None:
    model = GaussianModel()
    latents = torch.randn(2, *model.latent_shape, dtype=torch.float64, requires_grad=True)
    conditioning = model.encode_prompt(PROMPTS[:2])
    embeds = conditioning.prompt_embeds.clone().requires_grad_()
    timestep = model.set_timesteps(STEPS)[4]
    policy = NegativeEmbeddingTarget.policy
    x0, _ = one_step_x0(model, latents, timestep, conditioning, Conditioning(embeds), GUIDANCE, policy)
    x0.sum().backward()
    assert latents.grad is None and embeds.grad is not None
