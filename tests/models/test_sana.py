"""The Sana family against diffusers' own pipeline, and learned on through the real trainer."""

from pathlib import Path

import pytest
import torch
from diffusers.models.normalization import RMSNorm
from fakes import PROMPTS
from family_proofs import (
    difference_from_the_pipeline,
    gradient_error,
    learn_by_command,
    learned_rewards,
    like_a_learned_one,
    noise_for,
    x0_round_trip,
)
from tiny_sana import GEMMA, SQUARE, tiny_sana

from reneg.cli import parse
from reneg.generation import generate
from reneg.models import load_model
from reneg.models.sana import GEMMA_TOKENS, INSTRUCTION, Sana
from reneg.targets import NegativeEmbeddingTarget


def tiny_model(dtype: torch.dtype = torch.float32) -> Sana:
    return Sana(tiny_sana(dtype), name="tiny")


def test_generate_equals_the_pipeline():
    model = tiny_model()
    model.pipe.scheduler = model.scheduler  # Euler steps in place of DPM-Solver's
    for negative in (like_a_learned_one(model), None):
        difference = difference_from_the_pipeline(model, negative, guidance_scale=4.5, **SQUARE)
        print(f"\nlargest difference from the pipeline {difference:.1e}")  # noqa: T201 (measured, shown with -s)
        assert difference < 1e-5


def test_prompts_follow_the_instruction_and_negatives_do_not():
    model, prompts = tiny_model(), ["  A Cat", "red"]
    embeds, mask, negative, negative_mask = model.pipe.encode_prompt(
        prompts, negative_prompt=["", "dog"], complex_human_instruction=INSTRUCTION
    )
    own, own_negative = model.encode_prompt(prompts), model.encode_negative_prompt(["", "dog"])
    assert own.prompt_embeds.shape == own_negative.prompt_embeds.shape == (2, GEMMA_TOKENS, GEMMA)
    ours, wanted = [*own.tensors(), *own_negative.tensors()], [embeds, mask, negative, negative_mask]
    assert all(torch.equal(*pair) for pair in zip(ours, wanted, strict=True))
    assert negative_mask.sum(1).tolist() == [1, 4]  # the start, and the letters
    assert not torch.allclose(own.prompt_embeds[1, 1:4], model.encode_negative_prompt(["red"]).prompt_embeds[0, 1:4])


def test_the_longest_prompt_is_read_to_its_end():
    """After the instruction, of which one token is read, and the start."""
    model = tiny_model()
    longest = "a" * (model.max_tokens - 1)
    assert model.count_tokens(longest) == model.max_tokens
    ends = [model.encode_prompt([longest[:-1] + last]).prompt_embeds[0, -1] for last in "ab"]
    assert not torch.allclose(ends[0], ends[1])
    longer = [model.encode_prompt([longest + last]).prompt_embeds for last in "ab"]
    assert torch.equal(*longer)


def test_learning_starts_near_the_null_text_with_every_token_apart():
    model = tiny_model()
    null, target = model.null_conditioning(), NegativeEmbeddingTarget(model)
    assert null.prompt_attention_mask is not None and int(null.prompt_attention_mask.sum()) == 1
    assert len(null.prompt_embeds[0, 1:].unique(dim=0)) == 1
    start = target.negative().detach()
    assert start.prompt_attention_mask is not None and bool(start.prompt_attention_mask.all())
    assert len(start.prompt_embeds[0].unique(dim=0)) == GEMMA_TOKENS
    options = {"guidance_scale": 4.5, "num_inference_steps": 4}
    pictures = [
        generate(model, PROMPTS[:1], negative, noise_for(model, 1), **options)
        for negative in (null, null.filled(), start)
    ]
    assert float((pictures[1] - pictures[0]).abs().max()) < 1e-5  # the same text, every token read
    assert float((pictures[2] - pictures[0]).abs().max()) < 0.02


def test_the_schedule_is_the_checkpoints_shift():
    """DPM-Solver's name for it is flow_shift; a shift of 3 moves the middle of the schedule to sigma = 3/4."""
    model = tiny_model(torch.float64)
    timesteps = model.set_timesteps(10)
    assert (model.scheduler_name, model.prediction_type) == ("flow_euler", "flow_prediction")
    assert model.scheduler.config.shift == model.pipe.scheduler.config.flow_shift == 3.0
    for timestep, wanted in zip(timesteps, model.scheduler.sigmas, strict=False):
        alpha, sigma = model.alpha_sigma(timestep)
        assert float((sigma - wanted).abs()) < 1e-6 and float((alpha + sigma - 1).abs()) < 1e-12
    assert min(abs(float(sigma) - 0.75) for sigma in model.scheduler.sigmas) < 0.05


def test_x0_round_trip():
    error = x0_round_trip(tiny_model(torch.float64))
    print(f"\nlargest error of x0 {error:.1e}")  # noqa: T201 (measured, shown with -s)
    assert error < 1e-10


@pytest.mark.parametrize("step_index", [2, 6])
def test_gradient_equals_finite_differences(step_index: int, monkeypatch: pytest.MonkeyPatch):
    # diffusers computes linear attention and this norm in float32 whatever the weights are, too coarse to compare.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(RMSNorm, "forward", rms_norm)
    (error,) = gradient_error(tiny_model(torch.float64), step_index)
    print(f"\nrelative error {error:.1e}")  # noqa: T201 (measured, shown with -s)
    assert error < 1e-6


def rms_norm(self: RMSNorm, hidden_states: torch.Tensor) -> torch.Tensor:
    normed = torch.nn.functional.rms_norm(hidden_states, tuple(self.dim), self.weight, self.eps)
    return normed if self.bias is None else normed + self.bias


def test_learning_raises_a_closed_form_reward(tmp_path: Path):
    before, after = learned_rewards(tiny_model(), tmp_path, learning_rate=1.0)
    print(f"\nbrightness {before:.4f} -> {after:.4f}")  # noqa: T201 (measured, shown with -s)
    assert after > before + 0.002


@pytest.mark.slow
def test_learning_from_a_folder_and_using_the_file(tmp_path: Path):
    learn_by_command(tiny_sana, tmp_path, **SQUARE)


def test_latents_stay_in_float32(tmp_path: Path):
    """As the pipeline keeps them, whatever the weights are."""
    tiny_sana().save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype=torch.bfloat16)
    assert isinstance(model, Sana)
    conditioning = model.encode_prompt(["a cat"])
    assert conditioning.prompt_embeds.dtype == torch.bfloat16
    timesteps = model.set_timesteps(4)
    latents = model.initial_latents(noise_for(model, 1))
    output = model.predict(latents, timesteps[1], conditioning)
    assert latents.dtype == output.dtype == model.step(output, timesteps[1], latents, []).dtype == torch.float32
    assert model.vae.dtype == torch.bfloat16 and model.decode(latents).dtype == torch.float32
    half = load_model(str(tmp_path), dtype=torch.float16)
    assert half.decode(latents).dtype == torch.float32


def test_generating_takes_the_models_own_guidance():
    _, config = parse(["generate", "--prompt", "cat", "--model", "sana"])
    assert vars(config)["guidance_scale"] == 4.5
