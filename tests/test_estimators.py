"""Ways to a gradient beside the paper's: against finite differences, diffusers' solver, and each other."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from fakes import PROMPTS, GaussianModel, Tone
from short_runs import quick
from tiny import tiny_clip_reward, tiny_model, tiny_pipeline
from torch import Tensor

from reneg.algorithm import StepSettings, denoise, denoise_fast, reach
from reneg.estimators import ESTIMATORS
from reneg.interfaces import Conditioning, StepOutput
from reneg.models.sd import StableDiffusion
from reneg.randomness import Streams
from reneg.rewards.mixture import Mixture
from reneg.run_folder import sample_prompts
from reneg.targets import NegativeEmbeddingTarget

SCALE = 7.5
SETTINGS = {"guidance_scale": SCALE, "num_inference_steps": 6, "grad_step_range": (3, 5)}


def outputs(name: str, model, target, numbers: Sequence[int], reward=None, **changes) -> Iterator[StepOutput]:
    settings = StepSettings(**SETTINGS | changes)
    prompts = [PROMPTS[number] for number in numbers]
    return ESTIMATORS[name](model, target, reward or Tone(), prompts, Streams(0, 2, list(numbers)), settings)


def gradient(name: str, model, numbers: Sequence[int], reward=None, **changes) -> Tensor:
    """The gradient that an estimator leaves in the embedding."""
    target = NegativeEmbeddingTarget(model)
    for output in outputs(name, model, target, numbers, reward, **changes):
        output.loss.backward()
    (parameter,) = target.parameters()
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize("name", ESTIMATORS)
def test_one_picture_at_a_time_is_the_same_gradient(name: str):
    """Of the tiny model and CLIP, whose scores of a batch's parts are kept in their order."""
    found = []
    for vae_slicing in (False, True):
        model, reward = tiny_model(torch.float64), Mixture([tiny_clip_reward(torch.float64)], [2.0])
        reward.scales = {"reward/tiny clip 1": 0.7}
        target = NegativeEmbeddingTarget(model)
        given = list(outputs(name, model, target, [0, 1, 2], reward, gradient_steps=2, vae_slicing=vae_slicing))
        torch.stack([output.loss for output in given]).sum().backward()
        (parameter,) = target.parameters()
        told = [tensor for output in given for tensor in (output.loss, output.rewards, output.images)]
        found.append([parameter.grad, *told, *reward.take().values()])
    for whole, single in zip(*found, strict=True):
        torch.testing.assert_close(single, whole, rtol=1e-10, atol=1e-12)
    assert float(found[0][0].norm()) > 0


def start(model) -> tuple[Tensor, Conditioning, Conditioning]:
    noise = Streams(0, 0, [0, 1]).noise(model)
    return noise, model.encode_prompt(["a cat", "red"]), model.encode_prompt(["bad", "ugly"])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' solver, numpy 2
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_fast_trajectory_is_diffusers_own(prediction_type: str):
    pipe = tiny_pipeline(torch.float64, prediction_type=prediction_type)
    model = StableDiffusion(pipe, name="tiny", scheduler="ddim")
    noise, positive, negative = start(model)
    timesteps = model.set_timesteps(20)[torch.tensor([0, 5, 9, 14, 19])]
    ours = denoise_fast(model, noise, timesteps, positive, negative, SCALE)
    solver: Any = DPMSolverMultistepScheduler.from_config(model.scheduler.config, algorithm_type="dpmsolver++")
    solver.set_timesteps(timesteps=timesteps.tolist())
    latents = noise
    for timestep in solver.timesteps[:-1]:
        both = Conditioning.concatenate(negative, positive)
        pred_uncond, pred_cond = model.predict(torch.cat([latents] * 2), timestep, both).chunk(2)
        latents = solver.step(pred_uncond + SCALE * (pred_cond - pred_uncond), timestep, latents).prev_sample
    # diffusers keeps its sigmas in float32.
    torch.testing.assert_close(ours, latents, rtol=1e-4, atol=1e-4)
    assert float((ours - noise).abs().max()) > 0.1


def test_the_fast_trajectory_is_of_second_order():
    model = GaussianModel()
    noise, positive, negative = start(model)

    def end(count: int) -> Tensor:
        timesteps = torch.linspace(900, 100, count + 1, dtype=torch.float64)
        return denoise_fast(model, noise, timesteps, positive, negative, SCALE)

    exact = end(2048)
    errors = [float((end(count) - exact).norm()) for count in (64, 128, 256)]
    orders = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]
    assert all(1.7 < order < 2.6 for order in orders), orders


def test_a_fast_trajectory_of_all_steps_ends_at_the_same_timestep_for_fewer_evaluations():
    model = GaussianModel()
    noise, positive, negative = start(model)
    timesteps = model.set_timesteps(30)
    own = reach(model, noise, timesteps, 27, positive, negative, SCALE, [], None)
    assert model.calls == 27 * 2 * 2
    model.calls = 0
    fast = reach(model, noise, timesteps, 27, positive, negative, SCALE, [], 9)
    assert model.calls == 9 * 2 * 2
    assert float((fast - own).norm() / own.norm()) < 0.1
    assert torch.equal(reach(model, noise, timesteps, 0, positive, negative, SCALE, [], 9), noise)


def test_draft_of_one_step_is_the_papers_step_at_the_end():
    last = {"grad_step_range": (5, 5)}
    model = GaussianModel()
    expected = gradient("late_steps", model, [0, 1, 2], **last)
    torch.testing.assert_close(gradient("draft", model, [0, 1, 2], **last), expected, rtol=1e-9, atol=1e-12)


def test_draft_of_all_steps_is_the_gradient_of_the_sampled_picture():
    model, reward = tiny_model(torch.float64), tiny_clip_reward(torch.float64)
    found = gradient("draft", model, [0, 1], reward, gradient_steps=6)
    prompts = PROMPTS[:2]

    @torch.no_grad()
    def loss(embeds: Tensor) -> float:
        noise = Streams(0, 2, [0, 1]).noise(model)
        both = model.encode_prompt(prompts), Conditioning(embeds).expand(2)
        latents = denoise(model, model.initial_latents(noise), model.set_timesteps(6), *both, SCALE, [])
        return -float(reward(model.decode(latents), prompts).mean())

    embeds, width = model.encode_negative_prompt([""]).prompt_embeds, 1e-4
    for number in range(3):
        direction = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(number)).to(embeds)
        difference = (loss(embeds + width * direction) - loss(embeds - width * direction)) / (2 * width)
        assert float((found * direction).sum()) == pytest.approx(difference, rel=1e-5)


def test_draft_lv_scores_the_finished_latents_noised_again():
    model, numbers = GaussianModel(), [0, 1]
    target = NegativeEmbeddingTarget(model)
    together = []
    for output in outputs("draft_lv", model, target, numbers, gradient_steps=4):
        output.loss.backward()
        together.append(output)
    assert sorted(o.step_index for o in together[:3]) == [3, 4, 5]  # round the range, then again
    assert together[3].step_index == together[0].step_index
    assert model.calls == (6 + 4) * 2 * 2
    streams = Streams(0, 2, numbers)
    positive = model.encode_prompt([PROMPTS[number] for number in numbers])
    negative = Conditioning(target.negative_prompt_embeds.detach()).expand(2)
    timesteps = model.set_timesteps(6)
    clean = denoise(model, streams.noise(model), timesteps, positive, negative, SCALE, streams.generators)
    for output in together:
        alpha, sigma = model.alpha_sigma(timesteps[output.step_index])
        noised = alpha * clean + sigma * streams.noise(model)
        predictions = [model.predict(noised, timesteps[output.step_index], c) for c in (negative, positive)]
        x0 = (noised - sigma * (predictions[0] + SCALE * (predictions[1] - predictions[0]))) / alpha
        torch.testing.assert_close(output.images, model.decode(x0))
        torch.testing.assert_close(output.loss, -output.rewards.mean() / 4)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("trajectory_steps", [None, 2])
def test_a_batch_of_four_gives_the_gradient_of_four_batches_of_one(name: str, trajectory_steps: int | None):
    model = tiny_model(torch.float64)
    changes = {"gradient_steps": 3, "trajectory_steps": trajectory_steps}
    whole = gradient(name, model, [0, 1, 2, 3], **changes)
    apart = [gradient(name, model, [number], **changes) for number in range(4)]
    torch.testing.assert_close(torch.stack(apart).mean(0), whole, rtol=1e-8, atol=1e-12)
    assert float(whole.norm()) > 0


@pytest.mark.parametrize(("name", "evaluations"), [("late_steps", 2 + 3), ("draft", 2 + 3), ("draft_lv", 2 + 1 + 3)])
def test_the_fast_trajectory_saves_evaluations(name: str, evaluations: int):
    model = GaussianModel()
    gradient(name, model, [0], gradient_steps=3, trajectory_steps=2)
    assert model.calls == 2 * evaluations


def test_antithetic_noises_come_in_pairs():
    model = GaussianModel()
    plain, paired = Streams(0, 2, [4, 5, 6, 7]).noise(model), Streams(0, 2, [4, 5, 6, 7], antithetic=True).noise(model)
    assert torch.equal(paired[0::2], plain[0::2])
    assert torch.equal(paired[1::2], -paired[0::2])
    alone = Streams(0, 2, [7], antithetic=True).noise(model)  # whatever the batch
    assert torch.equal(alone[0], paired[3])


def test_noises_of_a_prompt_share_it_whatever_the_batching(tmp_path: Path) -> None:
    config = quick(tmp_path, noises_per_prompt=4, antithetic=True)
    together = sample_prompts(config.seed, PROMPTS, range(12), config.noises_per_prompt)
    assert together == [prompt for group in together[::4] for prompt in [group] * 4] and len(set(together)) == 3
    assert [
        sample_prompts(config.seed, PROMPTS, [number], config.noises_per_prompt)[0] for number in range(12)
    ] == together


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"antithetic": True}, "--antithetic needs pairs"),
        ({"trajectory_steps": 0}, "--trajectory_steps 0: must be at least 1"),
        ({"trajectory_steps": 4, "scheduler": "ddpm"}, "--trajectory_steps: goes with --scheduler ddim"),
        ({"gradient_estimator": "draft", "gradient_steps": 7}, "must be 1 to 6, --num_inference_steps"),
        ({"gradient_estimator": "draft_lv", "gradient_steps": 65}, "must be 1 to 64, copies"),
        ({"noises_per_prompt": 0}, "noises_per_prompt"),
    ],
)
def test_settings_of_the_gradient_that_do_not_go_together(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        quick(tmp_path, **changes)
