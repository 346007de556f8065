"""What a run spends, against a model and rewards that count it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import PROMPTS, Brightness, GaussianModel, Tone
from short_runs import fake_learner, quick
from torch import Tensor

from reneg.effort import LEARNING_COUNTS
from reneg.interfaces import Conditioning
from reneg.monitor import NOISES


class Counting(GaussianModel):
    """Counts evaluations, those with a graph, and decoded pictures."""

    def __init__(self):
        super().__init__()
        self.with_graph, self.decoded = 0, 0

    def predict(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        prediction = super().predict(latents, timestep, conditioning)
        self.with_graph += len(latents) * prediction.requires_grad
        return prediction

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded += len(latents)
        return super().decode(latents)


class CountingReward:
    """Another reward, counted."""

    def __init__(self, reward: Any, counts: list[int]):
        self.name, self._reward, self._counts = reward.name, reward, counts

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self._counts.append(len(images))
        return self._reward(images, prompts)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reneg.trainer.write_learning_report", lambda *arguments: None)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"gradient_steps": 3, "gradient_accumulation_steps": 2, "max_train_steps": 5},
        {"trajectory_steps": 2, "validation_steps": 3, "max_train_steps": 7},
        {"gradient_estimator": "draft", "gradient_steps": 3},
        {"gradient_estimator": "draft", "gradient_steps": 6, "target": "embedding_and_scale"},
        {"gradient_estimator": "draft_lv", "gradient_steps": 2, "trajectory_steps": 3},
        {"gradient_estimator": "pool", "train_batch_size": 6, "trajectory_steps": 2},
        {
            "gradient_estimator": "pool",
            "grad_step_range": (2, 5),
            "max_train_steps": 3,
            "gradient_accumulation_steps": 2,
        },
    ],
    ids=str,
)
def test_the_metadata_tell_what_was_spent(tmp_path: Path, shape: dict[str, Any]):
    config, model, counts = quick(tmp_path, **shape), Counting(), list[int]()
    rewards = [CountingReward(reward, counts) for reward in (Tone(), Brightness())]
    metadata = fake_learner(config, model=model, reward=rewards[0], monitor=rewards[1]).run().metadata
    shown = len(PROMPTS[: config.num_validation_prompts])  # in the report alone, which does not count
    spent = {
        "denoiser_evaluations": model.calls - 2 * config.num_inference_steps * shown,
        "denoiser_backward_evaluations": model.with_graph,
        "decoded_pictures": model.decoded - shown,
        "scored_pictures": sum(counts),
    }
    assert {name: int(metadata[name]) for name in LEARNING_COUNTS} == spent


def test_without_a_monitor_it_scores_less(tmp_path: Path):
    with_monitor = fake_learner(quick(tmp_path / "with")).run().metadata
    config = quick(tmp_path / "without", monitor=None)
    without = fake_learner(config).run().metadata
    looked_at = 3 * config.num_validation_prompts * NOISES
    assert int(with_monitor["scored_pictures"]) - int(without["scored_pictures"]) == looked_at
    assert with_monitor["denoiser_evaluations"] == without["denoiser_evaluations"]
