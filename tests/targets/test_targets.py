"""Every target of the table: its gradient, its file, its resumed run, and that its reward rises by the one loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import PROMPTS, Brightness
from safetensors.torch import load_file
from short_runs import assert_same_state, last_state, quick, timeless
from tiny import tiny_clip_reward, tiny_model
from torch import Tensor

from reneg.algorithm import StepSettings, denoise, one_step_x0, training_steps
from reneg.config import LearnConfig
from reneg.interfaces import Target
from reneg.learning import Learner
from reneg.models.sd import StableDiffusion
from reneg.objective import reward_loss
from reneg.processes import make_accelerator
from reneg.randomness import Streams, draw_noise, make_generator
from reneg.run_folder import result_names
from reneg.targets import TARGETS, make_target

GUIDANCE, STEPS = 7.5, 6
RATES = {"negative_embedding": 0.2, "embedding_and_scale": 0.2, "lora": 0.02, "denoiser": 1e-3, "text_encoder": 1e-2}
SHORT = {"max_train_steps": 4, "validation_steps": 2, "num_inference_steps": 4, "grad_step_range": (2, 3)}


def config(target: str, folder: Path = Path("unset"), **changes: Any) -> LearnConfig:
    return quick(folder, target=target, learning_rate=RATES[target], lora_rank=2, **(SHORT | changes))


def learner(target: str, folder: Path, model: StableDiffusion, **changes: Any) -> Learner:
    settings = config(target, folder, monitor=None, train_batch_size=2, num_validation_prompts=1, **changes)
    return Learner(settings, model, Brightness(), None, PROMPTS, make_accelerator(settings))


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reneg.trainer.write_learning_report", lambda *arguments: None)


def recorded_loss(model: StableDiffusion, target: Target, streams: Streams, step_index: int) -> Callable[[], Tensor]:
    """The loss of a training step as a function of the target's present state, from the x_t that it meets now."""
    prompts, reward = PROMPTS[:2], tiny_clip_reward(torch.float64)
    timesteps = model.set_timesteps(STEPS)
    latents = model.initial_latents(draw_noise(streams.generators, model.latent_shape, model.dtype, model.device))
    with torch.no_grad():
        scale = target.guidance_scale(GUIDANCE)
        latents = denoise(model, latents, timesteps[:step_index], *target.condition(model, prompts), scale, [])

    def loss() -> Tensor:
        branches, scale = target.condition(model, prompts), target.guidance_scale(GUIDANCE)
        x0, _ = one_step_x0(model, latents, timesteps[step_index], *branches, scale, target.policy)
        return reward_loss(reward(model.decode(x0), prompts))

    return loss


@pytest.mark.parametrize("name", TARGETS)
def test_gradient_of_a_training_step_equals_finite_differences(name: str):
    model = tiny_model(torch.float64)
    target = make_target(model, config(name))
    parameters = target.parameters()
    generator = make_generator(0, "test", 0)
    with torch.no_grad():  # away from LoRA's start, where B = 0 leaves A without a gradient
        for parameter in parameters:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    output = next(
        training_steps(
            model,
            target,
            tiny_clip_reward(torch.float64),
            PROMPTS[:2],
            Streams(0, 0, [0, 1]),
            StepSettings(GUIDANCE, num_inference_steps=STEPS, grad_step_range=(4, 4)),
        )
    )
    output.loss.backward()
    loss = recorded_loss(model, target, Streams(0, 0, [0, 1]), 4)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    largest, width = 0.0, 3e-5
    with torch.no_grad():
        for _ in range(4):
            direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
            exact = sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True) if p.grad is not None)
            values = []
            for factor in (-2, 1, 3, -1):  # to two below, one below, two above and one above
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(width * factor * d)
                values.append(loss())
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(width * d)
            slope = (values[0] - 8 * values[1] + 8 * values[3] - values[2]) / (12 * width)
            largest = max(largest, float((slope - exact).abs() / norm))
    count = sum(p.numel() for p in parameters)
    print(f"\n{name}: {count} numbers, relative error against finite differences {largest:.1e}")  # noqa: T201
    assert largest <= 1e-6


@pytest.mark.parametrize("name", TARGETS)
def test_the_reward_rises_by_the_same_loop(name: str, tmp_path: Path):
    model = tiny_model()
    run = learner(name, tmp_path, model, max_train_steps=6, validation_steps=6)
    artifact = run.run()
    before, after = (float(row["reward"]) for row in timeless(tmp_path) if row["kind"] == "validation")
    assert after > before
    assert artifact.metadata["target"] == name
    # The file holds the state that was learned, under the names that `file_name` promises.
    assert {path.name for path in tmp_path.glob("*.safetensors")} == set(result_names(name))
    saved, last = (load_file(tmp_path / file) for file in result_names(name))
    assert_same_state(saved, last)  # no monitor told a best one
    learned = [parameter.detach().float() for parameter in run.target.parameters() if parameter.ndim]
    assert all(any(torch.equal(own, tensor) for tensor in saved.values()) for own in learned)


@pytest.mark.parametrize("name", TARGETS)
def test_resumed_equals_uninterrupted_bit_for_bit(name: str, tmp_path: Path):
    learner(name, tmp_path / "whole", tiny_model()).run()
    halved = learner(name, tmp_path / "halves", tiny_model())
    halved._start()
    halved._update()
    halved._look_at_start()
    halved._update()
    halved._look()
    halved._save()
    del halved  # whatever it holds beside the checkpoint is gone, the model that it changed too
    learner(name, tmp_path / "halves", tiny_model(), resume_from_checkpoint="latest").run()
    assert_same_state(last_state(tmp_path / "whole"), last_state(tmp_path / "halves"))
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "halves")
    for file in result_names(name):
        assert_same_state(load_file(tmp_path / "whole" / file), load_file(tmp_path / "halves" / file))


@pytest.mark.parametrize("name", ["lora", "denoiser", "text_encoder"])
def test_a_run_of_other_weights_is_not_gone_on_with(name: str, tmp_path: Path):
    first = learner(name, tmp_path, tiny_model())
    first._start()
    first._update()
    first._save()
    other = tiny_model()
    with torch.no_grad():
        for module in (other.denoiser, other.text_encoder):
            next(module.parameters()).mul_(1.001)  # as little as any further training
    with pytest.raises(ValueError, match="was made with another text encoder or weights than --model tiny"):
        learner(name, tmp_path, other, resume_from_checkpoint="latest").run()
