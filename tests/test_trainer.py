import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fakes import PROMPTS, Brightness, GaussianModel, Tone
from safetensors import safe_open
from short_runs import (
    assert_close_runs,
    assert_same_run,
    assert_same_state,
    fake_learner,
    last_state,
    quick,
    save_tiny_world,
    timeless,
)
from tiny import tiny_clip_reward, tiny_model
from torch import Tensor

from reneg import trainer
from reneg.checkpoint import load_checkpoint
from reneg.config import LearnConfig
from reneg.learning import Learner, learn
from reneg.negative import NegativeEmbedding
from reneg.processes import make_accelerator


class StoppedError(Exception):
    """What stands for a kill where a test stays in one process."""


class StopAfter:
    """A reward that ends the run at one of its calls."""

    name = "stop"

    def __init__(self, calls: int):
        self.left = calls

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        if self.left == 0:
            raise StoppedError
        self.left -= 1
        return Tone()(images, prompts)


class Poisoned:
    """A reward that gives NaN, or a NaN gradient, at one of its calls."""

    name = "poisoned"

    def __init__(self, call: int, kind: str):
        self.left, self.kind = call, kind

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.left -= 1
        rewards = Tone()(images, prompts)
        if self.left == 0 and self.kind == "reward":
            return rewards + torch.tensor([0.0, torch.nan, *[0.0] * (len(rewards) - 2)], dtype=rewards.dtype)
        if self.left == 0 and self.kind == "gradient":
            return rewards + (images * 0).flatten(1).sum(1).clamp(min=0).sqrt()  # infinite slope at zero
        return rewards


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the page, for tests of many runs."""
    monkeypatch.setattr(trainer, "write_learning_report", lambda *arguments: None)


def run_tiny(config: LearnConfig, dtype: torch.dtype = torch.float64) -> Learner:
    rewards = (tiny_clip_reward(dtype), tiny_clip_reward(dtype, seed=2))
    learner = Learner(config, tiny_model(dtype), *rewards, PROMPTS, make_accelerator(config))
    learner.run()
    return learner


@pytest.mark.parametrize("batch, accumulation", [(1, 4), (2, 2)])
@pytest.mark.parametrize("gradient_steps", [1, 3])
def test_batchings_agree_on_the_fake(
    tmp_path: Path, no_report: None, batch: int, accumulation: int, gradient_steps: int
) -> None:
    fake_learner(quick(tmp_path / "whole", gradient_steps=gradient_steps)).run()
    parts = {"train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    fake_learner(quick(tmp_path / "parts", gradient_steps=gradient_steps, **parts)).run()
    assert_close_runs(tmp_path / "whole", tmp_path / "parts")


def test_batchings_agree_on_the_tiny_model(tmp_path: Path, no_report: None) -> None:
    shape = {"max_train_steps": 3, "num_inference_steps": 4, "grad_step_range": (2, 3)}
    run_tiny(quick(tmp_path / "4x1", **shape))
    run_tiny(quick(tmp_path / "1x4", train_batch_size=1, gradient_accumulation_steps=4, **shape))
    assert_close_runs(tmp_path / "4x1", tmp_path / "1x4")


@pytest.mark.parametrize(
    "shape",
    [
        {},
        pytest.param({"gradient_steps": 2}, marks=pytest.mark.slow),
        pytest.param(
            {"gradient_estimator": "draft_lv", "gradient_steps": 2, "trajectory_steps": 2}, marks=pytest.mark.slow
        ),
        {"gradient_estimator": "draft", "noises_per_prompt": 2, "antithetic": True},
    ],
    ids=str,
)
def test_resumed_equals_uninterrupted_at_every_stop(tmp_path: Path, no_report: None, shape: dict[str, Any]) -> None:
    fake_learner(quick(tmp_path / "whole", **shape)).run()
    stops = 0
    while True:
        folder = tmp_path / str(stops)
        try:
            fake_learner(quick(folder, **shape), reward=StopAfter(stops)).run()
        except StoppedError:
            fake_learner(quick(folder, **shape, resume_from_checkpoint="latest")).run()
            assert_same_run(tmp_path / "whole", folder)
            stops += 1
        else:
            break
    assert stops >= 8 * shape.get("gradient_steps", 1) + 3  # before each gradient, and before each look


def test_resumes_bit_for_bit_on_the_tiny_model_beyond_an_epoch(tmp_path: Path, no_report: None) -> None:
    # Seven prompts and steps of four: after the restart, prompts come back that the first part had encoded.
    run_tiny(quick(tmp_path / "whole"), torch.float32)
    run_tiny(quick(tmp_path / "parts"), torch.float32)
    path = tmp_path / "parts" / "checkpoint-000006"
    run_tiny(quick(tmp_path / "parts", resume_from_checkpoint=str(path)), torch.float32)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_resume_drops_rows_and_checkpoints_that_lie_ahead(tmp_path: Path, no_report: None) -> None:
    config = quick(tmp_path, checkpoints_total_limit=9)
    fake_learner(config).run()
    rows = timeless(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "update", "step": 9, "rew')
    (tmp_path / ".checkpoint-000004.left").mkdir()
    path = tmp_path / "checkpoint-000004"
    with pytest.raises(StoppedError):
        again = quick(tmp_path, checkpoints_total_limit=9, resume_from_checkpoint=str(path))
        fake_learner(again, reward=StopAfter(0)).run()
    assert timeless(tmp_path) == [row for row in rows if int(row["step"]) <= 4]
    assert [path.name for path in sorted(tmp_path.glob("*checkpoint-*"))] == ["checkpoint-000002", "checkpoint-000004"]


def test_resume_into_another_folder_takes_the_metrics_along(tmp_path: Path, no_report: None) -> None:
    fake_learner(quick(tmp_path / "first", checkpoints_total_limit=9)).run()
    path = tmp_path / "first" / "checkpoint-000004"
    fake_learner(quick(tmp_path / "second", resume_from_checkpoint=str(path))).run()
    assert timeless(tmp_path / "first") == timeless(tmp_path / "second")


@pytest.mark.parametrize("estimator", ["late_steps", "draft", "draft_lv"])
def test_reward_rises_on_the_fake(tmp_path: Path, estimator: str) -> None:
    config = quick(tmp_path, max_train_steps=30, gradient_estimator=estimator, gradient_steps=2, trajectory_steps=3)
    negative = fake_learner(config, reward=Brightness()).run()
    looks = [row for row in timeless(tmp_path) if row["kind"] == "validation"]
    assert float(looks[-1]["reward"]) > float(looks[0]["reward"]) + 0.03
    assert negative.metadata["step"] == "30"


def test_reward_rises_on_the_tiny_model_and_only_the_embedding_changes(tmp_path: Path) -> None:
    model = tiny_model(torch.float64)
    modules = (model.denoiser, model.vae, model.text_encoder)
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    config = quick(tmp_path, max_train_steps=12, learning_rate=0.2, monitor=None)
    learner = Learner(config, model, Brightness(), None, PROMPTS, make_accelerator(config))
    learner.run()
    looks = [row for row in timeless(tmp_path) if row["kind"] == "validation"]
    assert float(looks[-1]["reward"]) > float(looks[0]["reward"])
    assert not torch.equal(learner.state.parameters[0], learner.state.initial[0])
    for module, old in zip(modules, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())


def test_best_state_by_the_monitor_is_the_result(tmp_path: Path) -> None:
    class Darkness(Brightness):
        """The opposite of what is trained on, so that the null text stays best."""

        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return -super().__call__(images, prompts)

    learner = fake_learner(quick(tmp_path), reward=Brightness(), monitor=Darkness())
    negative = learner.run()
    assert negative.metadata["step"] == "0"
    saved, last = (NegativeEmbedding.load(tmp_path / f"negative_embedding{end}.safetensors") for end in ("", "_last"))
    assert saved.null_prompt_embeds is not None
    assert torch.equal(saved.negative_prompt_embeds, saved.null_prompt_embeds)
    assert last.metadata["step"] == "8"
    assert torch.equal(last.negative_prompt_embeds, learner.state.parameters[0].detach().float())


def test_the_first_update_is_told_before_the_monitor_looks_at_the_start(
    tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    learner, tracked, told_at_look = fake_learner(quick(tmp_path)), [], []
    looks = learner.monitor.measure

    def measure(*arguments: Any, **options: Any) -> Any:
        told_at_look.append((timeless(tmp_path)[-1]["step"], "step 1 of 8: reward" in caplog.text))
        return looks(*arguments, **options)

    monkeypatch.setattr(learner.monitor, "measure", measure)
    monkeypatch.setattr(learner.accelerator, "log", lambda values, step: tracked.append(step))
    learner.run()
    rows = timeless(tmp_path)
    assert told_at_look[0] == (1, True)
    assert [(row["kind"], row["step"]) for row in rows[:3]] == [("update", 1), ("validation", 0), ("update", 2)]
    assert tracked == sorted(tracked) and tracked[:2] == [0, 1]  # a tracker may refuse to go back


def test_a_late_look_at_the_start_sees_what_an_early_one_would(tmp_path: Path, no_report: None) -> None:
    late, early = fake_learner(quick(tmp_path / "late")), fake_learner(quick(tmp_path / "early"))
    early._begin = early._look  # and so the one behind the first update finds nothing to do
    late.run()
    early.run()
    assert_same_state(last_state(tmp_path / "late"), last_state(tmp_path / "early"))
    late_rows, early_rows = timeless(tmp_path / "late"), timeless(tmp_path / "early")
    assert late_rows == [early_rows[1], early_rows[0], *early_rows[2:]]


def test_without_a_monitor_the_last_state_is_the_result(tmp_path: Path, no_report: None) -> None:
    config = quick(tmp_path, monitor=None)
    Learner(config, GaussianModel(), Tone(), None, PROMPTS, make_accelerator(config)).run()
    assert NegativeEmbedding.load(tmp_path / "negative_embedding.safetensors").metadata["step"] == "8"
    assert load_checkpoint(tmp_path / "checkpoint-000008").best is None


@pytest.mark.parametrize("kind", ["reward", "gradient"])
def test_stops_at_nan_and_leaves_the_last_good_state(tmp_path: Path, no_report: None, kind: str) -> None:
    fake_learner(quick(tmp_path / "good")).run()
    # Calls: the look at step 0, which follows the first update, and six updates with the look at step 4 among them.
    with pytest.raises(
        FloatingPointError, match=rf"^step 6: the .*{kind} became NaN or infinite.*learning_rate"
    ) as stop:
        fake_learner(quick(tmp_path / "bad"), reward=Poisoned(1 + 5 + 1 + 1, kind)).run()
    assert str(tmp_path / "bad" / "checkpoint-000005") in str(stop.value)
    assert timeless(tmp_path / "bad") == [row for row in timeless(tmp_path / "good") if int(row["step"]) <= 5]
    NegativeEmbedding.load(tmp_path / "bad" / "negative_embedding.safetensors")
    # The state that it left is good: without the poison the run goes on as if nothing had happened.
    fake_learner(quick(tmp_path / "bad", resume_from_checkpoint="latest")).run()
    assert_same_run(tmp_path / "good", tmp_path / "bad")


def test_stops_at_nan_before_anything_was_learned(tmp_path: Path, no_report: None) -> None:
    with pytest.raises(FloatingPointError, match="step 1: .*nothing was learned yet"):
        fake_learner(quick(tmp_path), reward=Poisoned(1, "reward")).run()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_stops_when_the_pictures_break_and_keeps_the_best(tmp_path: Path, no_report: None) -> None:
    with pytest.raises(FloatingPointError, match="step 4: the reward of the monitor's pictures .*step 0, is kept"):
        fake_learner(quick(tmp_path), reward=Poisoned(1 + 4 + 1, "reward")).run()
    assert NegativeEmbedding.load(tmp_path / "negative_embedding.safetensors").metadata["step"] == "0"
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-000002"]


def test_refuses_a_folder_with_a_run(tmp_path: Path, no_report: None) -> None:
    fake_learner(quick(tmp_path)).run()
    with pytest.raises(ValueError, match="already holds a run .*`--resume_from_checkpoint latest`.*--output_dir"):
        learn(quick(tmp_path))
    elsewhere = tmp_path / "other"
    fake_learner(quick(elsewhere)).run()
    with pytest.raises(ValueError, match="already holds a run, and not that of"):
        learn(quick(elsewhere, resume_from_checkpoint=str(tmp_path / "checkpoint-000008")))


def test_refuses_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="--output_dir .* cannot be written"):
        learn(quick(tmp_path / "file" / "run"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"learning_rate": 0.1}, r"learning_rate \(was 0.05, is 0.1\)"),
        ({"seed": 5}, r"seed \(was 0, is 5\)"),
        ({"max_train_steps": 9}, "max_train_steps"),
        ({"grad_step_range": (4, 5)}, r"grad_step_range \(was \[3, 5\], is \[4, 5\]\)"),
    ],
)
def test_refuses_to_resume_with_other_settings(tmp_path: Path, no_report: None, changes: dict, message: str) -> None:
    fake_learner(quick(tmp_path)).run()
    with pytest.raises(ValueError, match=message):
        fake_learner(quick(tmp_path, resume_from_checkpoint="latest", **changes)).run()


def test_refuses_to_resume_with_other_prompts_or_another_encoder(tmp_path: Path, no_report: None) -> None:
    fake_learner(quick(tmp_path)).run()
    config = quick(tmp_path, resume_from_checkpoint="latest")
    with pytest.raises(ValueError, match="prompts_sha256"):
        fake_learner(config, prompts=PROMPTS[:-1]).run()
    with pytest.raises(ValueError, match="another text encoder"):
        Learner(config, tiny_model(), Tone(), Brightness(), PROMPTS, make_accelerator(config)).run()


def test_resumes_with_settings_that_do_not_matter(tmp_path: Path, no_report: None) -> None:
    fake_learner(quick(tmp_path)).run()
    config = quick(tmp_path, resume_from_checkpoint="latest", checkpoints_total_limit=1, checkpointing_steps=3)
    fake_learner(config).run()


def test_warns_when_there_is_nothing_to_resume_yet(
    tmp_path: Path, no_report: None, caplog: pytest.LogCaptureFixture
) -> None:
    fake_learner(quick(tmp_path / "whole")).run()
    fake_learner(quick(tmp_path / "new", resume_from_checkpoint="latest")).run()
    assert "holds no checkpoint yet: starting from the beginning" in caplog.text
    assert_same_run(tmp_path / "whole", tmp_path / "new")


def test_warns_about_another_thread_count(tmp_path: Path, no_report: None, caplog: pytest.LogCaptureFixture) -> None:
    fake_learner(quick(tmp_path)).run()
    path = tmp_path / "checkpoint-000008" / "state.json"
    state = json.loads(path.read_text())
    state["environment"]["threads"] = 7
    path.write_text(json.dumps(state))
    fake_learner(quick(tmp_path, resume_from_checkpoint="latest")).run()
    assert "threads=7" in caplog.text and "the last bits may differ" in caplog.text


def test_refuses_unusable_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--report_to 'chalkboard' is unknown or not installed; choose from none"):
        learn(quick(tmp_path, report_to="chalkboard", prompts=_prompts_file(tmp_path)))
    (tmp_path / "long.txt").write_text("a" * 99)
    with pytest.raises(ValueError, match="1 of 1 prompts are beyond the limit of 16 tokens"):
        learn(quick(tmp_path, **(save_tiny_world(tmp_path / "world") | {"prompts": tmp_path / "long.txt"})))
    with pytest.raises(ValueError, match="--resume_from_checkpoint .*there is no such folder"):
        learn(quick(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-000099")))


def test_writes_to_tensorboard(tmp_path: Path, no_report: None) -> None:
    fake_learner(quick(tmp_path, report_to="tensorboard")).run()
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_a_step_wastes_no_denoiser_evaluation(tmp_path: Path, no_report: None) -> None:
    model = GaussianModel()
    learner = fake_learner(quick(tmp_path), model=model)
    learner._start()
    model.calls = 0
    row = learner._update()
    assert model.calls == 4 * 2 * (int(row["step_index"]) + 1)


def test_learn_leaves_a_folder_that_explains_itself(tmp_path: Path) -> None:
    """The public function on real files: a tiny pipeline, CLIP rewards and prompts."""
    names = save_tiny_world(tmp_path / "world")
    config = quick(tmp_path / "run", max_train_steps=4, validation_steps=2, lr_warmup_steps=1, **names)
    negative = learn(config)
    folder = config.output_dir
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "samples",
        "checkpoint-000002",
        "checkpoint-000004",
        "negative_embedding.safetensors",
        "negative_embedding_last.safetensors",
        "report.html",
    }
    assert sorted(path.name for path in (folder / "samples").iterdir()) == [f"step-00000{i}.png" for i in (0, 2, 4)]
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["learning_rate"] == 0.05 and settings["grad_step_range"] == [3, 5]
    assert (folder / "config.yaml").read_text().startswith("# reneg 0.")
    report = (folder / "report.html").read_text()
    assert "Training reward" in report and "data:image/png;base64" in report and PROMPTS[0] in report
    with safe_open(folder / "negative_embedding.safetensors", "pt") as file:
        metadata = file.metadata()
    assert negative.metadata.items() <= metadata.items()
    assert metadata["guidance_formula"] == "pred_uncond + guidance_scale * (pred_cond - pred_uncond)"
    assert (
        metadata["num_prompts"] == str(len(PROMPTS)) and "monitor_before" in metadata and "monitor_after" in metadata
    )
    assert "license" not in metadata  # that of the bundled world alone is known
    assert str(tmp_path / "run") not in json.dumps(metadata)


def _prompts_file(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path
