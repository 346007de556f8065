"""What all families share: gradient checkpointing in eval mode, and learning in half precision."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from fakes import PROMPTS, Brightness
from short_runs import fake_learner, quick
from tiny import tiny_clip_reward, tiny_model, tiny_pipeline
from tiny_families import FAMILIES, HALVES, build
from torch import Tensor

from reneg.algorithm import StepSettings, one_step_x0, training_steps
from reneg.generation import picture_generators, picture_noise
from reneg.learning import FP16_LOSS_SCALE
from reneg.metrics import read_rows
from reneg.models.base import LatentModel
from reneg.planning.saved_bytes import Saved
from reneg.randomness import Streams
from reneg.targets import NegativeEmbeddingTarget


def gradient_and_saved(model: LatentModel) -> tuple[list[Tensor], float, float]:
    """Gradients of the mean pixel of a one-step prediction; KiB saved for backward by the denoiser, and in all."""
    target = NegativeEmbeddingTarget(model)
    prompts = PROMPTS[:2]
    positive, negative = target.condition(model, prompts)
    timestep, noise = model.set_timesteps(4)[2], picture_noise(model, picture_generators(0, 0, 2))
    saved = Saved(model.denoiser, model.vae)
    with saved.recording():
        x0, _ = one_step_x0(model, noise, timestep, positive, negative, 5.0, target.policy)
        denoiser = saved.kilobytes
        brightness = model.decode(x0).mean()
    return list(torch.autograd.grad(brightness, target.parameters())), denoiser, saved.kilobytes


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_saves_memory_and_changes_no_bit_of_the_gradient(family: str):
    model = build(family)
    plain, denoiser, whole = gradient_and_saved(model)
    model.enable_gradient_checkpointing()
    # Training mode would switch dropout on; diffusers before 0.33 checkpointed in no other.
    assert not any(module.training for part in (model.denoiser, model.vae) for module in part.modules())
    checkpointed, lean_denoiser, lean = gradient_and_saved(model)
    print(  # noqa: T201 (measured, shown with -s)
        f"\n{family}: saved for backward in KiB, denoiser {denoiser:.0f} -> {lean_denoiser:.0f}, with the decoder "
        f"{whole:.0f} -> {lean:.0f}"
    )
    assert all(torch.equal(*pair) for pair in zip(plain, checkpointed, strict=True))
    assert float(plain[0].norm()) > 0
    assert lean_denoiser < denoiser / 2
    if family != "sana":  # its VAE cannot be checkpointed
        assert lean < whole / 2


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("family", FAMILIES)
def test_learning_in_half_precision(family: str, precision: str):
    """The model in 16 bits, what is learned and the reward in 32, and the VAE where it is safe; a usable gradient."""
    dtype = HALVES[precision]
    model, reward = build(family, dtype), tiny_clip_reward()
    assert (model.dtype, model.vae.dtype) == (dtype, torch.float32 if precision == "fp16" else dtype)
    assert all(encoder.dtype == dtype for encoder in model.encoders)
    target = NegativeEmbeddingTarget(model)
    streams, settings = Streams(0, 0, [0, 1]), StepSettings(5.0, num_inference_steps=4, grad_step_range=(3, 3))
    output = next(training_steps(model, target, reward, PROMPTS[:2], streams, settings))
    (output.loss * (FP16_LOSS_SCALE if precision == "fp16" else 1)).backward()
    assert reward.model.dtype == torch.float32 and bool(output.rewards.isfinite().all())
    gradients = []
    for parameter in target.parameters():
        assert parameter.dtype == torch.float32 and parameter.grad is not None
        assert parameter.grad.dtype == torch.float32 and bool(parameter.grad.isfinite().all())
        gradients.append(parameter.grad.flatten())
    wide = build(family, torch.float32)
    reference = NegativeEmbeddingTarget(wide)
    streams = Streams(0, 0, [0, 1])
    next(training_steps(wide, reference, reward, PROMPTS[:2], streams, settings)).loss.backward()
    exact = [parameter.grad.flatten() for parameter in reference.parameters() if parameter.grad is not None]
    likeness = torch.nn.functional.cosine_similarity(torch.cat(gradients), torch.cat(exact), dim=0)
    print(f"\n{family} {precision}: cosine with the float32 gradient {float(likeness):.4f}")  # noqa: T201 (measured, shown with -s)
    assert float(likeness) > 0.99


class Faint:
    """A reward whose gradient in the latents is below float16's smallest number."""

    name = "faint"

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return 1e-4 * images.float().mean((1, 2, 3))


@pytest.mark.parametrize("vae_slicing", [False, True])
def test_small_gradients_survive_float16(tmp_path: Path, vae_slicing: bool):
    norms = {}
    for dtype in (torch.float16, torch.float32):
        brief = {"max_train_steps": 1, "train_batch_size": 2, "num_inference_steps": 3, "grad_step_range": (2, 2)}
        config = quick(tmp_path / str(dtype), num_validation_prompts=1, vae_slicing=vae_slicing, **brief)
        fake_learner(config, model=build("sd", dtype), reward=Faint(), monitor=Brightness()).run()
        (row,) = [row for row in read_rows(config.output_dir / "metrics.jsonl") if row["kind"] == "update"]
        norms[dtype] = float(row["grad_norm"])
    assert norms[torch.float32] > 0
    assert abs(norms[torch.float16] / norms[torch.float32] - 1) < 0.1


def test_sampling_is_not_checkpointed(monkeypatch: pytest.MonkeyPatch):
    """Without a graph there is nothing to keep, so nothing may be computed twice."""
    model = tiny_model()
    model.enable_gradient_checkpointing()
    monkeypatch.setattr("torch.utils.checkpoint.checkpoint", None)
    latents = picture_noise(model, picture_generators(0, 0, 1))
    with torch.no_grad():
        model.decode(model.predict(latents, model.set_timesteps(4)[2], model.null_conditioning()))


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_diffusers_does_not_report_at_every_batch_what_it_cuts_off():
    kept, logger, long = Kept(), logging.getLogger("diffusers"), "a very long prompt of many letters"
    logger.addHandler(kept)
    try:
        tiny_model().encode_prompt([long])
        assert not kept.messages
        tiny_pipeline().encode_prompt(long, "cpu", 1, False)  # which by itself does
        assert "truncated" in kept.messages[0]
    finally:
        logger.removeHandler(kept)
