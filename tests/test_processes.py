"""Runs of several processes: equal to one, gone on with by another number of them, and ended when one is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import Tone
from short_runs import assert_close_runs, fake_learner, learn_as_process, on_two_processes, quick, save_tiny_world
from tiny import tiny_model
from torch import Tensor

from reneg import trainer
from reneg.checkpoint import check_settings, list_checkpoints
from reneg.config import LearnConfig
from reneg.errors import LostProcessError
from reneg.metrics import read_rows
from reneg.processes import check_global_batch, fitting_batch, needs_every_process

BRIEF = {"max_train_steps": 6, "num_inference_steps": 4, "grad_step_range": (2, 3), "validation_steps": 3}


class DiesAt(Tone):
    """A reward whose call kills the process that makes it, as kill -9 does."""

    def __init__(self, call: int, rank: str):
        self.left, self.rank = call, rank

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.left -= 1
        if self.left == 0 and os.environ["RANK"] == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(images, prompts)


def tiny_process(rank: int, port: int, config: LearnConfig, dies: DiesAt | None, told: Path) -> None:
    """One of two processes on the tiny model, without the page; how it lost the other one is written."""
    trainer.write_learning_report = lambda *arguments: None
    try:
        learn_as_process(rank, port, config, model=tiny_model(torch.float64), reward=dies)
    except LostProcessError as error:
        told.write_text(str(error))
        raise SystemExit(1) from error


def two_processes(config: LearnConfig, told: Path, dies: DiesAt | None = None) -> list[int | None]:
    """The exit codes of a run of two processes."""
    return on_two_processes(tiny_process, config, dies, told)


def one_process(config: LearnConfig, reward: Tone | None = None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "write_learning_report", lambda *arguments: None)
        fake_learner(config, model=tiny_model(torch.float64), reward=reward).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, never interrupted, four samples a step."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    one_process(quick(folder, **BRIEF))
    return folder


@pytest.mark.slow
def test_two_processes_agree_with_one(whole: Path, tmp_path: Path) -> None:
    config = quick(tmp_path / "two", train_batch_size=1, gradient_accumulation_steps=2, **BRIEF)
    assert two_processes(config, tmp_path / "told") == [0, 0]
    assert_close_runs(whole, tmp_path / "two")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_one_process_finishes(whole: Path, tmp_path: Path, rank: int) -> None:
    config, told = quick(tmp_path / "run", train_batch_size=2, **BRIEF), tmp_path / "told"
    # The monitor's one batch of pictures, before the second update and after the third, is process 0's.
    died = two_processes(config, told, DiesAt(5 + 2 * (rank == 0), str(rank)))
    assert died == [-signal.SIGKILL, 1] if rank == 0 else [1, -signal.SIGKILL]
    line = told.read_text()
    assert line.startswith(f"process {1 - rank} of 2 ends: another one is gone (") and "\n" not in line
    assert "--resume_from_checkpoint latest" in line
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-000002", "checkpoint-000004"]
    alone = {"train_batch_size": 4} if rank == 0 else {"train_batch_size": 2, "gradient_accumulation_steps": 2}
    one_process(quick(tmp_path / "run", resume_from_checkpoint="latest", **alone, **BRIEF))
    assert_close_runs(whole, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(whole: Path, tmp_path: Path) -> None:
    class Stops(DiesAt):
        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return Tone.__call__(self, images, prompts)

    with pytest.raises(KeyboardInterrupt):
        one_process(quick(tmp_path / "run", **BRIEF), Stops(7, ""))
    config = quick(tmp_path / "run", train_batch_size=2, resume_from_checkpoint="latest", **BRIEF)
    assert two_processes(config, tmp_path / "told") == [0, 0]
    assert_close_runs(whole, tmp_path / "run")


def test_other_factors_of_the_batch_go_on_and_are_told(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, parts = whole / "checkpoint-000004", {"train_batch_size": 1, "gradient_accumulation_steps": 4}
    one_process(quick(tmp_path, resume_from_checkpoint=str(path), **parts, **BRIEF))
    assert_close_runs(whole, tmp_path)
    assert "train_batch_size was 4 and is 1: the same samples" in caplog.text
    assert "num_processes was" not in caplog.text


def test_another_global_batch_is_refused(whole: Path, tmp_path: Path) -> None:
    config = quick(tmp_path, train_batch_size=2, resume_from_checkpoint=str(whole / "checkpoint-000004"), **BRIEF)
    with pytest.raises(ValueError, match="make a global batch of 2, but .*made with 4") as refused:
        one_process(config)
    assert str(refused.value).endswith("what fits is --train_batch_size 2 --gradient_accumulation_steps 2")


@pytest.mark.parametrize("global_batch", [1, 6, 16, 60, 64])
@pytest.mark.parametrize("batch, accumulation, processes", [(4, 1, 1), (64, 3, 1), (7, 2, 3), (5, 1, 4), (16, 1, 64)])
def test_what_is_said_to_fit_fits(global_batch: int, batch: int, accumulation: int, processes: int) -> None:
    then = {"train_batch_size": global_batch, "gradient_accumulation_steps": 1, "num_processes": 1}
    now = dict(zip(then, (batch, accumulation, processes), strict=True))
    assert prod(now.values()) != global_batch
    with pytest.raises(ValueError, match="make a global batch of") as refused:
        check_global_batch(then, now, "there")
    fits = str(refused.value).partition("what fits is ")[2]
    flags = {name: int(value) for name, value in re.findall(r"--(\w+) (\d+)", fits)}
    assert flags["train_batch_size"] <= batch
    assert prod((now | flags).values()) == global_batch
    check_global_batch(then, now | flags, "there")
    assert fits.startswith("accelerate launch") == (global_batch % processes > 0)


def test_the_largest_micro_batch_fits() -> None:
    assert fitting_batch(64, 64, 1) == (64, 1)
    assert fitting_batch(64, 64, 4) == (16, 1)
    assert fitting_batch(64, 24, 2) == (16, 2)


def test_what_keeps_its_processes_says_how_to_start_them() -> None:
    saved = {"seed": 0, "train_batch_size": 4, "num_processes": 2}
    with pytest.raises(ValueError, match=r"num_processes \(was 2, is 1\); give the old values \(accelerate launch "):
        check_settings(saved, saved | {"num_processes": 1}, Path("there"))
    with pytest.raises(ValueError, match=r"train_batch_size \(was 4, is 2\); give the old values, or"):
        check_settings(saved, saved | {"train_batch_size": 2}, Path("there"))


def test_only_a_collective_of_several_processes_tells_of_a_lost_one() -> None:
    with pytest.raises(LostProcessError, match=r"process 3 of 4 ends: another one is gone \(broken pipe\)"):
        with needs_every_process(3, 4):
            raise RuntimeError("broken pipe\nwith details")
    with pytest.raises(RuntimeError, match="broken"), needs_every_process(0, 1):
        raise RuntimeError("broken")
    with pytest.raises(torch.OutOfMemoryError), needs_every_process(0, 2):
        raise torch.OutOfMemoryError("out of memory")


# As users start it


def workers_of(launcher: subprocess.Popen) -> dict[int, int]:
    """Rank -> process id of the processes that a launcher started."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher.pid:
                text = (folder / "environ").read_bytes().split(b"\0")
                ranks = [int(line[5:]) for line in text if line.startswith(b"RANK=")]
                found |= {rank: int(folder.name) for rank in ranks}
        except OSError:
            continue  # it has just ended
    return found


def launch(world: dict[str, Any], folder: Path, *more: str) -> subprocess.Popen:
    """`reneg learn` by accelerate's launcher, on two processes of the CPU."""
    learn = [*("learn", "--output_dir", str(folder), "--max_train_steps", "400", "--train_batch_size", "2")]
    learn += ["--num_inference_steps", "4", "--grad_step_range", "[2,3]", "--validation_steps", "400"]
    learn += [part for name, value in world.items() for part in (f"--{name}", str(value))]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [*accelerate, "-m", "reneg.cli", *learn, "--checkpointing_steps", "2", *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_kill_9_of_one_worker_ends_the_launched_run_with_one_line(tmp_path: Path, rank: int) -> None:
    folder, world = tmp_path / "run", save_tiny_world(tmp_path / "world")
    launcher = launch(world, folder)
    while launcher.poll() is None and max([int(r["step"]) for r in read_rows(folder / "metrics.jsonl")] or [0]) < 3:
        time.sleep(0.05)
    os.kill(workers_of(launcher)[rank], signal.SIGKILL)
    _, stderr = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    lines = [line for line in stderr.splitlines() if line.startswith("reneg: error: ")]
    assert len(lines) == 1, stderr
    assert "--resume_from_checkpoint latest" in lines[0] and ("is gone" in lines[0] or "when one died" in lines[0])
    assert os.sep + "reneg" + os.sep not in "".join(re.findall(r'File "(.*?)"', stderr)), stderr
    assert list_checkpoints(folder)
