"""The SDXL family against diffusers' own pipeline, and learned on through the real trainer."""

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
from tiny import MAX_TOKENS, WIDTH
from tiny_sdxl import POOLED, tiny_sdxl

from reneg.cli import parse
from reneg.models import load_model
from reneg.models.sampling import DiffusionSampler
from reneg.models.sdxl import StableDiffusionXL
from reneg.targets import NegativeEmbeddingTarget


def tiny_model(dtype: torch.dtype = torch.float32, **options: Any) -> StableDiffusionXL:
    return StableDiffusionXL(tiny_sdxl(dtype, **options), name="tiny")


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_generate_equals_the_pipeline(dtype: torch.dtype, tolerance: float):
    model = tiny_model(dtype)
    difference = difference_from_the_pipeline(model, like_a_learned_one(model), guidance_scale=5.0)
    print(f"\n{dtype}: largest difference from the pipeline {difference:.1e}")  # noqa: T201 (measured, shown with -s)
    assert difference < tolerance


@pytest.mark.parametrize("zeros", [True, False])
def test_the_null_is_the_pipelines(zeros: bool):
    model = tiny_model(force_zeros_for_empty_prompt=zeros)
    null = model.null_conditioning()
    assert all(bool(tensor.any()) != zeros for tensor in null.tensors())
    assert difference_from_the_pipeline(model, None, guidance_scale=5.0) < 1e-5


def test_encodings_equal_the_pipelines():
    model, prompts = tiny_model(), ["a cat", "red"]
    embeds, negative, pooled, negative_pooled = model.pipe.encode_prompt(prompts, negative_prompt=["", "dog"])
    own, own_negative = model.encode_prompt(prompts), model.encode_negative_prompt(["", "dog"])
    assert own.prompt_embeds.shape == (2, MAX_TOKENS, 2 * WIDTH)
    assert own.pooled_prompt_embeds is not None and own.pooled_prompt_embeds.shape == (2, POOLED)
    ours, wanted = [*own.tensors(), *own_negative.tensors()], [embeds, pooled, negative, negative_pooled]
    assert all(torch.equal(*pair) for pair in zip(ours, wanted, strict=True))


def test_learning_starts_from_a_text_and_not_from_zeros():
    """Zeros would make all tokens alike for ever, and leave the file without a fingerprint."""
    model = tiny_model()
    target = NegativeEmbeddingTarget(model)
    for parameter, wanted in zip(target.parameters(), model.encode_negative_prompt([""]).tensors(), strict=True):
        assert torch.equal(parameter, wanted) and bool(wanted.any())
    tokens = target.negative_prompt_embeds[0]
    assert len({tuple(token.tolist()) for token in tokens}) == MAX_TOKENS


def test_x0_round_trip():
    error = x0_round_trip(tiny_model(torch.float64))
    print(f"\nlargest error of x0 {error:.1e}")  # noqa: T201 (measured, shown with -s)
    assert error < 1e-10


def test_gradient_equals_finite_differences():
    embeds, pooled = gradient_error(tiny_model(torch.float64), 6)
    print(f"\nrelative error: embedding {embeds:.1e}, pooled {pooled:.1e}")  # noqa: T201 (measured, shown with -s)
    assert embeds < 1e-6 and pooled < 1e-6


def test_learning_raises_a_closed_form_reward(tmp_path: Path):
    before, after = learned_rewards(tiny_model(), tmp_path, learning_rate=0.2)
    print(f"\nbrightness {before:.4f} -> {after:.4f}")  # noqa: T201 (measured, shown with -s)
    assert after > before + 0.01


@pytest.mark.slow
def test_learning_from_a_folder_and_using_the_file(tmp_path: Path):
    learn_by_command(tiny_sdxl, tmp_path)


def test_half_precision_keeps_the_vae_in_float32(tmp_path: Path):
    tiny_sdxl().save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype=torch.float16)
    assert isinstance(model, StableDiffusionXL)
    assert (model.dtype, model.vae.dtype) == (torch.float16, torch.float32)
    conditioning = model.encode_prompt(["a cat"])
    assert all(tensor.dtype == torch.float16 for tensor in conditioning.tensors())
    assert NegativeEmbeddingTarget(model).negative_prompt_embeds.dtype == torch.float32
    assert model.decode(torch.zeros(1, 4, 8, 8, dtype=torch.float16)).dtype == torch.float32


def test_edm_is_refused():
    """Playground v2.5 is an SDXL pipeline of another parameterisation."""
    with pytest.raises(ValueError, match="playground is preconditioned as in EDM"):
        DiffusionSampler({"sigma_data": 0.5, "prediction_type": "epsilon"}, name="ddim", model="playground")


@pytest.mark.parametrize("command", ["learn", "generate --prompt cat", "evaluate", "verify file.safetensors"])
def test_every_command_takes_the_models_own_guidance(command: str):
    arguments = [*command.split(), "--model", "sdxl"]
    _, config = parse(arguments)
    assert vars(config)["guidance_scale"] == 5.0
    assert vars(parse([*arguments, "--guidance_scale", "4"])[1])["guidance_scale"] == 4.0
