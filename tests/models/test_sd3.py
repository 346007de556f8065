"""The SD3 family against diffusers' own pipeline, and learned on through the real trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from family_proofs import (
    difference_from_the_pipeline,
    gradient_error,
    learn_by_command,
    learned_rewards,
    like_a_learned_one,
    x0_round_trip,
)
from tiny import MAX_TOKENS
from tiny_sd3 import JOINT, tiny_sd3
from tiny_sdxl import POOLED

from reneg.cli import parse
from reneg.models import load_model
from reneg.models.sampling import FlowSampler
from reneg.models.sd3 import T5_TOKENS, StableDiffusion3
from reneg.targets import NegativeEmbeddingTarget


def tiny_model(dtype: torch.dtype = torch.float32, **options: Any) -> StableDiffusion3:
    return StableDiffusion3(tiny_sd3(dtype, **options), name="tiny")


@pytest.mark.parametrize("t5", [True, False])
def test_generate_equals_the_pipeline(t5: bool):
    model = tiny_model(t5=t5)
    for negative in (like_a_learned_one(model), None):
        difference = difference_from_the_pipeline(model, negative, guidance_scale=7.0)
        print(f"\nlargest difference from the pipeline {difference:.1e}")  # noqa: T201 (measured, shown with -s)
        assert difference < 1e-5


@pytest.mark.parametrize("t5", [True, False])
def test_encodings_equal_the_pipelines(t5: bool):
    model, prompts = tiny_model(t5=t5), ["a cat", "red"]
    encoded = model.pipe.encode_prompt(prompts, None, None, negative_prompt=["", "dog"])
    embeds, negative, pooled, negative_pooled = encoded
    own, own_negative = model.encode_prompt(prompts), model.encode_negative_prompt(["", "dog"])
    assert own.prompt_embeds.shape == (2, MAX_TOKENS + T5_TOKENS, JOINT)
    assert own.pooled_prompt_embeds is not None and own.pooled_prompt_embeds.shape == (2, 2 * POOLED)
    assert bool(own.prompt_embeds[:, MAX_TOKENS:].any()) == t5
    ours, wanted = [*own.tensors(), *own_negative.tensors()], [embeds, pooled, negative, negative_pooled]
    assert all(torch.equal(*pair) for pair in zip(ours, wanted, strict=True))
    null = model.null_conditioning()
    assert torch.equal(null.prompt_embeds[0], negative[0])


def test_the_longest_reader_counts_tokens():
    with_t5, without = tiny_model(), tiny_model(t5=False)
    assert (with_t5.max_tokens, without.max_tokens) == (T5_TOKENS, MAX_TOKENS)
    assert with_t5.count_tokens("cat") == 5  # the space before the word, its letters, the end
    assert without.count_tokens("cat") == 5  # start, letters, end


def test_timesteps_and_sigmas_are_the_schedulers():
    model = tiny_model(torch.float64)
    timesteps = model.set_timesteps(10)
    assert (model.scheduler_name, model.prediction_type) == ("flow_euler", "flow_prediction")
    for timestep, wanted in zip(timesteps, model.scheduler.sigmas, strict=False):
        alpha, sigma = model.alpha_sigma(timestep)
        assert float((sigma - wanted).abs()) < 1e-6 and float((alpha + sigma - 1).abs()) < 1e-12
    # A shift of 3 moves the middle of the schedule to sigma = 3/4.
    middle = 3 * 0.5 / (1 + 2 * 0.5)
    assert min(abs(float(sigma) - middle) for sigma in model.scheduler.sigmas) < 0.05


def test_x0_round_trip():
    error = x0_round_trip(tiny_model(torch.float64))
    print(f"\nlargest error of x0 {error:.1e}")  # noqa: T201 (measured, shown with -s)
    assert error < 1e-10


@pytest.mark.parametrize("step_index", [2, 6])
def test_gradient_equals_finite_differences(step_index: int):
    embeds, pooled = gradient_error(tiny_model(torch.float64), step_index)
    print(f"\nrelative error: embedding {embeds:.1e}, pooled {pooled:.1e}")  # noqa: T201 (measured, shown with -s)
    assert embeds < 1e-6 and pooled < 1e-6


def test_learning_raises_a_closed_form_reward(tmp_path: Path):
    before, after = learned_rewards(tiny_model(), tmp_path, learning_rate=1.0)
    print(f"\nbrightness {before:.4f} -> {after:.4f}")  # noqa: T201 (measured, shown with -s)
    assert after > before + 0.002


@pytest.mark.slow
def test_learning_from_a_folder_and_using_the_file(tmp_path: Path):
    learn_by_command(tiny_sd3, tmp_path)


def test_a_folder_without_t5_is_loaded(tmp_path: Path):
    tiny_sd3(t5=False).save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert isinstance(model, StableDiffusion3) and len(model.encoders) == 2
    wanted = tiny_model(t5=False).encode_prompt(["a cat"]).prompt_embeds
    assert torch.equal(model.encode_prompt(["a cat"]).prompt_embeds, wanted)


def test_half_precision_keeps_the_vae_in_float32(tmp_path: Path):
    tiny_sd3().save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype=torch.bfloat16)
    assert isinstance(model, StableDiffusion3)
    conditioning = model.encode_prompt(["a cat"])
    assert all(tensor.dtype == torch.bfloat16 for tensor in conditioning.tensors())
    assert NegativeEmbeddingTarget(model).negative_prompt_embeds.dtype == torch.float32
    latents = torch.zeros(1, 4, 8, 8, dtype=torch.bfloat16)
    assert model.predict(latents, model.set_timesteps(4)[1], conditioning).dtype == torch.bfloat16
    assert load_model(str(tmp_path), dtype=torch.float16).decode(latents).dtype == torch.float32


def test_diffusion_schedulers_are_refused_for_a_flow(tmp_path: Path):
    tiny_sd3().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="--scheduler ddpm does not apply to .*, which predicts a flow"):
        load_model(str(tmp_path), scheduler="ddpm")


@pytest.mark.parametrize(
    "other", [{"use_dynamic_shifting": True}, {"stochastic_sampling": True}, {"prediction_type": "epsilon"}], ids=str
)
def test_other_flows_are_refused(other: dict[str, Any]):
    with pytest.raises(ValueError, match="tiny is no plain flow"):
        FlowSampler(other, model="tiny")


def test_a_step_depends_on_its_timestep_alone():
    """The scheduler's own counts its calls; learning asks for steps out of order."""
    model = tiny_model()
    timesteps = model.set_timesteps(6)
    latents, output = (torch.full((1, 4, 8, 8), value) for value in (0.5, -2.0))
    steps = [model.step(output, timestep, latents, []) for timestep in (timesteps[4], timesteps[1], timesteps[4])]
    assert torch.equal(steps[0], steps[2]) and not torch.equal(steps[0], steps[1])
    model.scheduler.set_begin_index(4)
    assert torch.equal(steps[0], model.scheduler.step(output, timesteps[4], latents).prev_sample)


@pytest.mark.parametrize("model", ["sd3-medium", "sd3.5-medium"])
def test_generating_takes_the_models_own_guidance(model: str):
    _, config = parse(["generate", "--prompt", "cat", "--model", model])
    assert vars(config)["guidance_scale"] == 7.0
