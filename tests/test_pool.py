"""A pool of trajectories in flight: its gradients, what they cost, and that a run with it can stop anywhere."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import PROMPTS, Brightness, GaussianModel
from short_runs import (
    assert_close_runs,
    assert_same_run,
    fake_learner,
    last_state,
    learn_as_process,
    on_two_processes,
    quick,
    timeless,
)
from test_trainer import Poisoned, run_tiny
from tiny import tiny_clip_reward, tiny_model
from torch import Tensor

from reneg.algorithm import StepSettings, training_steps
from reneg.checkpoint import Cohort, load_checkpoint
from reneg.config import LearnConfig
from reneg.estimators import pool_steps
from reneg.interfaces import Place
from reneg.learning import Learner
from reneg.processes import make_accelerator
from reneg.randomness import Streams
from reneg.run_folder import sample_prompts
from reneg.targets import NegativeEmbeddingTarget
from reneg.training_state import TrainingState, divide

SETTINGS: dict[str, Any] = {"guidance_scale": 7.5, "num_inference_steps": 6, "grad_step_range": (3, 5)}


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reneg.trainer.write_learning_report", lambda *arguments: None)


def pooled(folder: Path, **changes: Any) -> LearnConfig:
    """A run of three steps in flight, two samples each; the first two updates have fewer."""
    return quick(folder, gradient_estimator="pool", **{"train_batch_size": 6} | changes)


def updates_of_a_cohort(model, target, reward, numbers: list[int], **changes: Any) -> Iterator[Tensor]:
    """The losses that its updates give, each from where the one before left it."""
    place, prompts, going_on = None, [PROMPTS[number] for number in numbers], True
    while going_on:
        (output,) = pool_steps(
            model, target, reward, prompts, Streams(0, 2, numbers), StepSettings(**SETTINGS | changes), place
        )
        yield output.loss
        place, going_on = output.onward, output.onward is not None


@pytest.mark.parametrize("trajectory_steps", [None, 2])
def test_a_cohorts_gradients_are_those_of_late_steps_on_the_whole_range(trajectory_steps: int | None):
    model, reward, numbers = tiny_model(torch.float64), tiny_clip_reward(torch.float64), [0, 1]
    target, other = NegativeEmbeddingTarget(model), NegativeEmbeddingTarget(model)
    changes = {"trajectory_steps": trajectory_steps}
    updates = 0
    for loss in updates_of_a_cohort(model, target, reward, numbers, **changes):
        (loss * (1 / 3)).backward()  # its share of late_steps's objective
        updates += 1
    assert updates == 3
    prompts = [PROMPTS[number] for number in numbers]
    settings: dict[str, Any] = {**SETTINGS, "gradient_steps": 3, **changes}
    for output in training_steps(model, other, reward, prompts, Streams(0, 2, numbers), StepSettings(**settings)):
        output.loss.backward()
    (found,), (expected,) = target.parameters(), other.parameters()
    assert found.grad is not None and expected.grad is not None and float(found.grad.norm()) > 0
    assert torch.equal(found.grad, expected.grad)


def test_an_update_averages_gradients_of_all_steps_and_as_many_prompt_sets(tmp_path: Path, monkeypatch) -> None:
    found = []

    def keep(state: TrainingState, learning_rate: float) -> None:
        (parameter,) = state.parameters
        assert parameter.grad is not None
        found.append(parameter.grad.clone())
        parameter.grad = None

    monkeypatch.setattr(TrainingState, "update", keep)
    model, reward, config = tiny_model(torch.float64), tiny_clip_reward(torch.float64), pooled(tmp_path)
    learner = Learner(config, model, reward, None, PROMPTS, make_accelerator(config))
    learner._start()
    for _ in range(4):
        learner._update()

    def gradient(begun: int, step_index: int) -> Tensor:
        """By the paper's step, of the samples that began at an update, at one step."""
        numbers, target = [2 * begun, 2 * begun + 1], NegativeEmbeddingTarget(model)
        prompts = sample_prompts(config.seed, PROMPTS, numbers, 1)
        assert prompts == [learner._prompts_of([number])[0] for number in numbers]
        settings: dict[str, Any] = {**SETTINGS, "grad_step_range": (step_index, step_index)}
        (output,) = training_steps(
            model, target, reward, prompts, Streams(config.seed, 0, numbers), StepSettings(**settings)
        )
        return torch.autograd.grad(output.loss, target.parameters())[0]

    for update, of_update in enumerate(found):
        in_flight = [(begun, 3 + update - begun) for begun in range(max(0, update - 2), update + 1)]
        expected = torch.stack([gradient(*samples) for samples in in_flight]).mean(0)
        torch.testing.assert_close(of_update, expected, rtol=1e-10, atol=1e-14)


def test_an_update_costs_one_trajectory_and_an_evaluation_for_each_gradient(tmp_path: Path) -> None:
    model = GaussianModel()
    learner = fake_learner(pooled(tmp_path, gradient_accumulation_steps=2), model=model)
    learner._start()
    for in_flight in (1, 2, 3, 3, 3):
        model.calls = 0
        learner._update()
        assert model.calls == 2 * 2 * 2 * (3 + in_flight)  # branches, micro-batches, samples of each that begin


@pytest.mark.parametrize("stop", [1, 2, 5])
@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 2, "trajectory_steps": 2}], ids=str)
def test_resumed_equals_uninterrupted(tmp_path: Path, stop: int, changes: dict[str, Any]) -> None:
    changes = changes | {"checkpointing_steps": 1, "checkpoints_total_limit": 9}
    fake_learner(pooled(tmp_path / "whole", **changes)).run()
    path = tmp_path / "whole" / f"checkpoint-{stop:06d}"
    fake_learner(pooled(tmp_path / "again", **changes, resume_from_checkpoint=str(path))).run()
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "again")
    whole, again = last_state(tmp_path / "whole"), last_state(tmp_path / "again")
    assert whole.keys() == again.keys() >= {"in_flight.0", "in_flight.1"}
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_resumes_on_a_model_that_lets_go_of_its_text_encoders(tmp_path: Path) -> None:
    changes = {"train_batch_size": 3, "num_validation_prompts": 1}
    run_tiny(pooled(tmp_path, **changes), torch.float32)
    before = last_state(tmp_path)
    path = tmp_path / "checkpoint-000006"
    cohorts = load_checkpoint(path).in_flight
    assert [(cohort.numbers, cohort.place.step_index) for cohort in cohorts] == [([4], 5), ([5], 4)]
    run_tiny(pooled(tmp_path, **changes, resume_from_checkpoint=str(path)), torch.float32)
    assert all(torch.equal(before[name], tensor) for name, tensor in last_state(tmp_path).items())


@pytest.mark.parametrize("kind", ["reward", "gradient"])
def test_a_failed_update_leaves_the_samples_of_the_one_before(tmp_path: Path, kind: str) -> None:
    fake_learner(pooled(tmp_path / "good")).run()
    # Calls: a look, updates of 1, 2, 3 and 3 gradients, a look, an update, and the second gradient of the sixth.
    with pytest.raises(FloatingPointError, match="step 6: .*checkpoint-000005"):
        fake_learner(pooled(tmp_path / "bad"), reward=Poisoned(1 + 9 + 1 + 3 + 2, kind)).run()
    fake_learner(pooled(tmp_path / "bad", resume_from_checkpoint="latest")).run()
    assert_same_run(tmp_path / "good", tmp_path / "bad")


NARROW = {"grad_step_range": (4, 5), "max_train_steps": 6}


def test_batchings_agree(tmp_path: Path) -> None:
    fake_learner(pooled(tmp_path / "whole", train_batch_size=8, **NARROW)).run()
    parts = {"train_batch_size": 2, "gradient_accumulation_steps": 4}
    fake_learner(pooled(tmp_path / "parts", **parts, **NARROW)).run()
    assert_close_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_two_processes_agree_with_one_and_go_on_from_what_both_had_in_flight(tmp_path: Path) -> None:
    fake_learner(pooled(tmp_path / "one", train_batch_size=8, **NARROW)).run()
    config = pooled(tmp_path / "two", train_batch_size=2, gradient_accumulation_steps=2, **NARROW)
    assert on_two_processes(learn_as_process, config) == [0, 0]
    assert_close_runs(tmp_path / "one", tmp_path / "two")
    path = str(config.output_dir / "checkpoint-000004")
    assert on_two_processes(learn_as_process, dataclasses.replace(config, resume_from_checkpoint=path)) == [0, 0]
    assert_close_runs(tmp_path / "one", tmp_path / "two")


def test_samples_in_flight_divide_whatever_divided_them_before():
    whole = [
        Cohort(list(range(first, first + 8)), Place(step, torch.randn(8, 3, 2, 2))) for first, step in ((0, 5), (8, 4))
    ]
    parts = divide(whole, 4)
    assert [cohort.numbers for cohort in parts[:4]] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [cohort.place.step_index for cohort in parts] == [5] * 4 + [4] * 4
    again = divide(parts[1::2] + parts[0::2], 1)  # as processes bring them together
    assert [cohort.numbers for cohort in again] == [cohort.numbers for cohort in whole]
    assert all(torch.equal(new.place.latents, old.place.latents) for new, old in zip(again, whole, strict=True))


def test_reward_rises(tmp_path: Path) -> None:
    fake_learner(pooled(tmp_path, max_train_steps=30, trajectory_steps=3), reward=Brightness()).run()
    looks = [row for row in timeless(tmp_path) if row["kind"] == "validation"]
    assert float(looks[-1]["reward"]) > float(looks[0]["reward"]) + 0.03


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train_batch_size": 4}, "--train_batch_size 4: --gradient_estimator pool divides it among the 3 steps"),
        ({"scheduler": "ddpm"}, "--gradient_estimator pool: goes with --scheduler ddim"),
    ],
)
def test_refuses_what_does_not_go_with_it(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        pooled(tmp_path, **changes)
