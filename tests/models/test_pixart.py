"""The PixArt family against diffusers' own pipelines, and learned on through the real trainer."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
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
from tiny import tiny_clip_reward
from tiny_pixart import SQUARE, tiny_pixart
from tiny_sd3 import JOINT

from reneg.algorithm import StepSettings, training_steps
from reneg.cli import parse
from reneg.generation import generate
from reneg.interfaces import Conditioning
from reneg.merging import between
from reneg.models import load_model
from reneg.models.pixart import PixArtAlpha, PixArtSigma
from reneg.negative import NegativeEmbedding
from reneg.randomness import Streams
from reneg.targets import NegativeEmbeddingTarget


def tiny_model(dtype: torch.dtype = torch.float32, *, sigma: bool = False, **options: Any) -> PixArtAlpha:
    family = PixArtSigma if sigma else PixArtAlpha
    return family(tiny_pixart(dtype, sigma=sigma, **options), name="tiny")


@pytest.mark.parametrize("sigma", [False, True], ids=["alpha", "sigma"])
def test_generate_equals_the_pipeline(sigma: bool):
    model = tiny_model(sigma=sigma)
    for negative in (like_a_learned_one(model), None):
        difference = difference_from_the_pipeline(model, negative, guidance_scale=4.5, **SQUARE)
        print(f"\nlargest difference from the pipeline {difference:.1e}")  # noqa: T201 (measured, shown with -s)
        assert difference < 1e-5


def test_alpha_at_1024_pixels_is_told_the_size():
    """A sample_size of 128 is what makes PixArt-alpha take resolution and aspect ratio."""
    model, noise = tiny_model(sample_size=128), noise_for(tiny_model(), 2)
    assert model.denoiser.use_additional_conditions and model.latent_shape == (4, 128, 128)
    wide = torch.cat([noise, noise], dim=-1)
    for start, size in ((noise, (16, 16)), (wide, (16, 32))):
        options = {"guidance_scale": 4.5, "num_inference_steps": 4}
        own = generate(model, PROMPTS[:2], model.null_conditioning(), start, **options)
        call = SQUARE | {"height": size[0], "width": size[1], "output_type": "pt"}
        reference = model.pipe(PROMPTS[:2], latents=start, **options, **call).images
        assert float((own - reference).abs().max()) < 1e-5


@pytest.mark.parametrize("sigma", [False, True], ids=["alpha", "sigma"])
def test_encodings_equal_the_pipelines(sigma: bool):
    model, prompts, length = tiny_model(sigma=sigma), ["  A Cat", "red"], 300 if sigma else 120
    embeds, mask, negative, negative_mask = model.pipe.encode_prompt(
        prompts, negative_prompt=["", "dog"], clean_caption=True, max_sequence_length=length
    )
    own, own_negative = model.encode_prompt(prompts), model.encode_negative_prompt(["", "dog"])
    assert own.prompt_embeds.shape == (2, length, JOINT) and model.max_tokens == length
    ours, wanted = [*own.tensors(), *own_negative.tensors()], [embeds, mask, negative, negative_mask]
    assert all(torch.equal(*pair) for pair in zip(ours, wanted, strict=True))
    assert mask.sum(1).tolist() == [model.count_tokens(prompt) for prompt in prompts] == [7, 5]


def test_learning_starts_near_the_null_text_with_every_token_apart():
    """T5 gives the tokens after the first one encoding, and the denoiser's mask hides them."""
    model = tiny_model()
    null, target = model.null_conditioning(), NegativeEmbeddingTarget(model)
    assert null.prompt_attention_mask is not None and int(null.prompt_attention_mask.sum()) == 1
    assert len(null.prompt_embeds[0, 1:].unique(dim=0)) == 1
    start = target.negative().detach()
    assert start.prompt_attention_mask is not None and bool(start.prompt_attention_mask.all())
    assert len(start.prompt_embeds[0].unique(dim=0)) == 120
    assert torch.equal(start.prompt_embeds[0, 0], null.prompt_embeds[0, 0])
    again = NegativeEmbeddingTarget(tiny_model()).negative_prompt_embeds
    assert torch.equal(target.negative_prompt_embeds, again)

    def picture(negative: Conditioning) -> torch.Tensor:
        return generate(model, PROMPTS[:1], negative, noise_for(model, 1), guidance_scale=4.5, num_inference_steps=4)

    shown = picture(null)
    assert float((picture(null.filled()) - shown).abs().max()) < 1e-5  # the same text, every token read
    assert float((picture(start) - shown).abs().max()) < 0.02


def test_ties_would_never_break():
    """Without the noise all tokens that were hidden get the same gradient; with it each gets its own."""
    model, reward = tiny_model(torch.float64), tiny_clip_reward(torch.float64)
    target, spread = NegativeEmbeddingTarget(model), []
    filled = target.null.prompt_embeds
    for start in (filled, target.negative_prompt_embeds.detach().clone()):
        with torch.no_grad():
            target.negative_prompt_embeds.copy_(start)
        target.negative_prompt_embeds.grad = None
        settings = StepSettings(4.5, num_inference_steps=3, grad_step_range=(2, 2))
        next(training_steps(model, target, reward, PROMPTS[:1], Streams(0, 0, [0]), settings)).loss.backward()
        gradient = target.negative_prompt_embeds.grad
        assert gradient is not None
        hidden = gradient[0, 1:]
        assert float(hidden.norm(dim=-1).min()) > 0
        spread.append(float((hidden - hidden.mean(0)).norm() / hidden.norm()))
    assert spread[0] < 1e-12 and spread[1] > 1e-3


def test_x0_round_trip():
    error = x0_round_trip(tiny_model(torch.float64))
    print(f"\nlargest error of x0 {error:.1e}")  # noqa: T201 (measured, shown with -s)
    assert error < 1e-10


@pytest.mark.parametrize("step_index", [2, 5])
def test_gradient_equals_finite_differences(step_index: int):
    (error,) = gradient_error(tiny_model(torch.float64), step_index)
    print(f"\nrelative error {error:.1e}")  # noqa: T201 (measured, shown with -s)
    assert error < 1e-6


def test_learning_raises_a_closed_form_reward(tmp_path: Path):
    before, after = learned_rewards(tiny_model(), tmp_path, learning_rate=1.0)
    print(f"\nbrightness {before:.4f} -> {after:.4f}")  # noqa: T201 (measured, shown with -s)
    assert after > before + 0.002


@pytest.mark.parametrize("sigma", [False, True], ids=["alpha", "sigma"])
@pytest.mark.slow
def test_learning_from_a_folder_and_using_the_file(tmp_path: Path, sigma: bool):
    learn_by_command(partial(tiny_pixart, sigma=sigma), tmp_path, **SQUARE)


def test_strength_reaches_from_the_masked_null_text_to_a_file():
    model = tiny_model()
    null, learned = model.null_conditioning(), like_a_learned_one(model)
    half = between(null, learned, 0.5)
    torch.testing.assert_close(half.prompt_embeds, torch.lerp(null.filled().prompt_embeds, learned.prompt_embeds, 0.5))
    assert half.prompt_attention_mask is learned.prompt_attention_mask


def test_a_file_of_alpha_fits_sigma_and_no_other_t5(tmp_path: Path):
    """By the null text's one token; PixArt-Sigma reads more tokens, and the rest is masked."""
    target = NegativeEmbeddingTarget(tiny_model())
    negative = target.negative()
    NegativeEmbedding.learned(negative, target.null.prompt_embeds, {}).save(tmp_path / "alpha.safetensors")
    file, pipe = NegativeEmbedding.load(tmp_path / "alpha.safetensors"), tiny_pixart(sigma=True)
    applied = file.for_pipeline(pipe, num_prompts=2)
    assert applied["negative_prompt_embeds"].shape == (2, 300, JOINT)
    assert applied["negative_prompt_attention_mask"].sum(1).tolist() == [120, 120]
    pipe.text_encoder.encoder.final_layer_norm.weight.data.mul_(1.1)
    with pytest.raises(ValueError, match="belongs to another text encoder"):
        file.for_pipeline(pipe)


def test_the_older_transformer_class_is_loaded(tmp_path: Path):
    """The published PixArt-alpha names its transformer by the class that diffusers had then."""
    tiny_pixart().save_pretrained(tmp_path)
    for path, key, value in (
        (tmp_path / "model_index.json", "transformer", ["diffusers", "Transformer2DModel"]),
        (tmp_path / "transformer" / "config.json", "_class_name", "Transformer2DModel"),
    ):
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    model = load_model(str(tmp_path))
    assert isinstance(model, PixArtAlpha) and type(model.denoiser).__name__ == "PixArtTransformer2DModel"


def test_half_precision(tmp_path: Path):
    tiny_pixart().save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype=torch.bfloat16)
    assert isinstance(model, PixArtAlpha) and not isinstance(model, PixArtSigma)
    conditioning = model.encode_prompt(["a cat"])
    assert conditioning.prompt_embeds.dtype == torch.bfloat16
    assert NegativeEmbeddingTarget(model).negative_prompt_embeds.dtype == torch.float32
    latents = torch.zeros(1, 4, 8, 8, dtype=torch.bfloat16)
    assert model.predict(latents, model.set_timesteps(4)[1], conditioning).shape == latents.shape
    assert load_model(str(tmp_path), dtype=torch.float16).decode(latents).dtype == torch.float32


@pytest.mark.parametrize("model", ["pixart-alpha", "pixart-sigma"])
def test_generating_takes_the_models_own_guidance(model: str):
    _, config = parse(["generate", "--prompt", "cat", "--model", model])
    assert vars(config)["guidance_scale"] == 4.5
