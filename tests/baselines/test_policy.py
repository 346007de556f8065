"""DDPO's mathematics: against diffusers, torch.distributions, REINFORCE in closed form, and known answers."""

import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from fakes import NoisyGaussianModel

from reneg.baselines.ddpo import noise_scales, sample_rollout, step_distribution
from reneg.baselines.policy import clipped_losses, ddim_transition, log_probability, prompt_advantages
from reneg.baselines.policy_config import DdpoConfig
from reneg.interfaces import GradientPolicy
from reneg.randomness import make_generator
from reneg.targets.negative_embedding import NegativeEmbeddingTarget


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_transition_is_diffusers_noisy_ddim_step(prediction_type, eta: float):
    """All steps of Stable Diffusion's schedule, the last one included, with the same noise."""
    scheduler: Any = DDIMScheduler(  # diffusers annotates timesteps as int and every output as possibly a tuple
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(8)
    generator = torch.Generator().manual_seed(0)
    latents, output, noise = torch.randn(3, 2, 4, 3, 3, generator=generator, dtype=torch.float64)
    ends = [*scheduler.timesteps.tolist(), 0]
    scales = [(scheduler.alphas_cumprod[t].sqrt(), (1 - scheduler.alphas_cumprod[t]).sqrt()) for t in ends]
    for timestep, now, then in zip(scheduler.timesteps, scales, scales[1:], strict=False):
        theirs = scheduler.step(output, timestep, latents, eta=eta, variance_noise=noise).prev_sample
        mean, std = ddim_transition(latents, output, now, then, prediction_type, eta)
        torch.testing.assert_close(mean + std * noise, theirs, rtol=0, atol=1e-12)
        assert std > 0


def test_the_log_probability_is_the_mean_of_torchs_own():
    generator = torch.Generator().manual_seed(1)
    sample, mean = torch.randn(2, 5, 3, 4, 4, generator=generator, dtype=torch.float64)
    std = torch.tensor(0.37, dtype=torch.float64)
    theirs = torch.distributions.Normal(mean, std).log_prob(sample).mean((1, 2, 3))
    torch.testing.assert_close(log_probability(sample, mean, std), theirs, rtol=0, atol=1e-12)


def test_clipping_stops_the_gradient_where_a_ratio_has_gone_far_enough_the_right_way():
    old = torch.zeros(4, dtype=torch.float64)
    new = torch.tensor([0.2, 0.2, -0.2, -0.2], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    losses = clipped_losses(new, old, advantages, 0.1)
    known = [-1.1, math.exp(0.2), -math.exp(-0.2), 0.9]
    torch.testing.assert_close(losses.detach(), torch.tensor(known, dtype=torch.float64))
    losses.sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([0.0, math.exp(0.2), -math.exp(-0.2), 0.0])


def test_at_ratio_one_the_surrogate_has_reinforces_gradient():
    new = torch.tensor([-1.3, 0.4, 2.0], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([0.7, -2.0, 0.0], dtype=torch.float64)
    clipped_losses(new, new.detach(), advantages, 1e-4).sum().backward()
    assert new.grad is not None
    torch.testing.assert_close(new.grad, -advantages, rtol=0, atol=0)


def test_advantages_are_relative_to_the_prompts_last_rewards():
    history = {"a": [1.0, 2.0, 3.0]}
    rewards = torch.tensor([4.0, 10.0, 6.0], dtype=torch.float64)
    advantages = prompt_advantages(history, ["a", "b", "a"], rewards, history_size=4, min_count=3)
    known = torch.tensor([2.0, 3.0, 4.0, 6.0], dtype=torch.float64)  # the last four of a
    mean, spread = known.mean(), known.std(correction=0) + 1e-6
    assert history == {"a": [2.0, 3.0, 4.0, 6.0], "b": [10.0]}
    # b has one reward: the whole round stands in.
    b = (10 - rewards.mean()) / (rewards.std(correction=0) + 1e-6)
    expected = torch.stack([(4 - mean) / spread, b, (6 - mean) / spread])
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-12)


CONFIG = DdpoConfig(model="gaussian", num_inference_steps=5, guidance_scale=2.0)
POLICY = GradientPolicy(positive=False, negative=True)


class Sum:
    """A linear reward of the first number of the picture."""

    name = "sum"

    def __call__(self, images, prompts):
        return images[:, 0, 0, 0]


class OneDimensional(NoisyGaussianModel):
    """Latents of a single number, drawn as one pixel that is never cut off."""

    latent_shape = (1, 1, 1)

    def decode(self, latents):
        return latents.expand(-1, 3, -1, -1) / 100 + 0.5


def test_the_gradient_of_a_trajectorys_log_probability_is_the_closed_form():
    """d log p / d mean = (x - mean) / std^2, and the mean is linear in the negative embedding."""
    model = OneDimensional()
    target = NegativeEmbeddingTarget(model)
    generators = [make_generator(0, "sample", number) for number in range(3)]
    rollout = sample_rollout(model, target, Sum(), ["a cat"] * 3, generators, CONFIG)
    timesteps = model.set_timesteps(5)
    scales = noise_scales(model, timesteps)
    for n, timestep in enumerate(timesteps):
        now, then = scales[n], scales[n + 1]
        latents, sampled = rollout.latents[n], rollout.latents[n + 1]
        mean, std = step_distribution(model, target, rollout.prompts, latents, timestep, now, then, POLICY, CONFIG)
        log_probs = log_probability(sampled, mean, std)
        assert torch.equal(log_probs.detach(), rollout.log_probs[n])  # the same weights: every ratio is exactly 1
        (gradient,) = torch.autograd.grad(log_probs.sum(), target.negative_prompt_embeds)
        (alpha, sigma), (next_alpha, next_sigma) = now, then
        # mean = next_alpha (x - sigma e) / alpha + sqrt(next_sigma^2 - std^2) e, e = (1 - s) e_negative + s e_positive
        per_noise = (next_sigma**2 - std**2).sqrt() - next_alpha * sigma / alpha
        per_mean = per_noise * (1 - CONFIG.guidance_scale) * -model.slope(timestep) * alpha
        scores = ((sampled - mean) / std**2).detach().sum()
        torch.testing.assert_close(gradient.flatten(), scores * per_mean * model.weight[0], rtol=1e-9, atol=1e-12)


def test_the_policy_gradient_is_the_gradient_of_the_expected_reward():
    """REINFORCE over many trajectories against the exact derivative: the final mean is linear in the embedding."""
    model, count = OneDimensional(), 6000
    target = NegativeEmbeddingTarget(model)
    generator = torch.Generator().manual_seed(3)
    timesteps = model.set_timesteps(5)
    scales = noise_scales(model, timesteps)
    noises = torch.randn(6, count, 1, 1, 1, generator=generator, dtype=torch.float64)
    prompts, latents, log_probs = ["a cat"] * count, noises[0], torch.zeros(count, dtype=torch.float64)
    path = noises[0]  # with its graph: the same trajectory, reparametrised
    for n, timestep in enumerate(timesteps):
        place = (timestep, scales[n], scales[n + 1])
        through = GradientPolicy(positive=True, negative=True)
        mean, std = step_distribution(model, target, prompts, path, *place, through, CONFIG)
        path = mean + std * noises[n + 1]
        mean, std = step_distribution(model, target, prompts, latents, *place, POLICY, CONFIG)
        latents = path.detach()
        log_probs = log_probs + log_probability(latents, mean, std)
    rewards = latents.flatten()
    (exact,) = torch.autograd.grad(path.mean(), target.negative_prompt_embeds, retain_graph=True)
    # Along the one direction that the embedding acts in.
    direction = model.weight[0] / model.weight[0].norm()
    advantages = rewards - rewards.mean()
    (estimate,) = torch.autograd.grad((advantages * log_probs).mean(), target.negative_prompt_embeds)
    along, wanted = float(estimate.flatten() @ direction), float(exact.flatten() @ direction)
    assert along == pytest.approx(wanted, rel=0.15)
    assert abs(wanted) > 0.05
