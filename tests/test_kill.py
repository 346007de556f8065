"""kill -9 at any moment: real runs of `reneg.learn` in processes of their own, killed and resumed.

Most kills come from outside, at whatever the run is doing when its metrics show a step. Others come from a fault that
the test plants in the child: halfway through a checkpoint's or a metrics row's write, or between two of its parts.
"""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import pytest
from short_runs import assert_same_run, learn_on_one_thread, quick, save_tiny_world

from reneg import checkpoint, metrics
from reneg.config import LearnConfig
from reneg.metrics import MetricsLog, Row, read_rows

STEPS, CHECKPOINTING = 24, 3
OUTSIDE = "any moment"


@dataclasses.dataclass(frozen=True)
class Kill:
    """Where a run is killed."""

    where: str
    step: int
    """Of the checkpoint or the metrics row that is hit; from outside, the step whose row is waited for."""


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def die_in_tensors(step: int) -> None:
    """Half a tensor file in the hidden folder."""
    write = checkpoint.save_file

    def save_file(tensors: dict, path: Path) -> None:
        write(tensors, path)
        if checkpoint.checkpoint_name(step) in str(path):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            die()

    checkpoint.save_file = save_file


def die_around_rename(step: int, *, before: bool) -> None:
    """The folder is complete, with or without its final name."""
    rename = os.rename

    def wrapped(source: Path, destination: Path) -> None:
        hit = Path(destination).name == checkpoint.checkpoint_name(step)
        if hit and before:
            die()
        rename(source, destination)
        if hit:
            die()

    os.rename = wrapped


def die_in_rotation(step: int) -> None:
    """Half of the oldest checkpoint is deleted."""
    remove = shutil.rmtree

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        for state in Path(path).glob(f"{checkpoint.checkpoint_name(step)}/state.json"):
            state.unlink()
            die()
        remove(path, ignore_errors=ignore_errors)

    shutil.rmtree = rmtree


def die_in_metrics(step: int) -> None:
    """Half a line at the end of metrics.jsonl."""
    append = MetricsLog.append

    def half(self: MetricsLog, row: Row) -> None:
        if row["step"] == step:
            with self.path.open("a") as file:
                file.write(json.dumps(row)[:40])
            die()
        append(self, row)

    MetricsLog.append = half


def die_in_restart(step: int) -> None:
    """At the resume itself: the shortened metrics.jsonl is written, and not yet in place."""

    def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
        write(path.with_name(f".{path.name}.half"))
        die()

    metrics.write_atomically = write_atomically


FAULTS: dict[str, Callable[[int], None]] = {
    "half a tensor file": die_in_tensors,
    "before a checkpoint's rename": lambda step: die_around_rename(step, before=True),
    "after a checkpoint's rename": lambda step: die_around_rename(step, before=False),
    "half a rotation": die_in_rotation,
    "half a metrics row": die_in_metrics,
    "half a restart": die_in_restart,
}

KILLS = [
    *(Kill(OUTSIDE, step) for step in (1, 3, 4, 7, 10, 11, 13, 16, 19, 22, 23)),
    Kill("half a tensor file", 6),
    Kill("half a tensor file", 24),
    Kill("before a checkpoint's rename", 3),
    Kill("before a checkpoint's rename", 15),
    Kill("after a checkpoint's rename", 12),
    Kill("half a rotation", 9),
    Kill("half a metrics row", 2),
    Kill("half a metrics row", 14),
    Kill("half a metrics row", 21),
]

CHAIN = [
    Kill("half a metrics row", 2),
    Kill("before a checkpoint's rename", 3),
    Kill("half a restart", 0),
    Kill("half a tensor file", 6),
    Kill("half a restart", 3),
    Kill("after a checkpoint's rename", 12),
    Kill("half a metrics row", 14),
    Kill("half a restart", 12),
    Kill("half a rotation", 9),
    Kill("half a metrics row", 21),
    Kill("half a tensor file", 24),
]
"""In the order in which one run meets them: it rotates checkpoint 9 away once 15 is written."""


def child(config: LearnConfig, kill: Kill | None) -> None:
    if kill is not None and kill.where != OUTSIDE:
        FAULTS[kill.where](kill.step)
    learn_on_one_thread(config)


def last_step(folder: Path) -> int:
    return max((int(row["step"]) for row in read_rows(folder / "metrics.jsonl")), default=-1)


class Runner:
    """Starts runs in processes forked from one that has imported everything."""

    def __init__(self, world: dict[str, Any]):
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["short_runs"])
        self._world = world

    def config(self, folder: Path, **changes: Any) -> LearnConfig:
        shape = {"train_batch_size": 2, "num_inference_steps": 4, "grad_step_range": (2, 3), "validation_steps": 6}
        steps = {"max_train_steps": STEPS, "checkpointing_steps": CHECKPOINTING}
        return quick(folder, **shape, **steps, **self._world, **changes)

    def start(self, config: LearnConfig, kill: Kill | None = None) -> BaseProcess:
        process = self._context.Process(target=child, args=(config, kill))
        process.start()
        return process

    def finish(self, config: LearnConfig) -> None:
        process = self.start(config)
        process.join(600)
        assert process.exitcode == 0

    def run_and_kill(self, config: LearnConfig, kill: Kill) -> int:
        """Start a run, see it killed, and return the last step that it had recorded."""
        process = self.start(config, kill)
        assert process.pid is not None
        if kill.where == OUTSIDE:
            while process.is_alive() and last_step(config.output_dir) < kill.step:
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
        process.join(600)
        assert process.exitcode == -signal.SIGKILL, kill
        return last_step(config.output_dir)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(save_tiny_world(tmp_path_factory.mktemp("world")))


@pytest.fixture(scope="module")
def uninterrupted(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    runner.finish(runner.config(folder))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_runs_each_killed_once(
    runner: Runner, uninterrupted: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    results = []
    for number, kill in enumerate(KILLS):
        folder = tmp_path / str(number)
        step = runner.run_and_kill(runner.config(folder), kill)
        runner.finish(runner.config(folder, resume_from_checkpoint="latest"))
        assert_same_run(uninterrupted, folder)
        results.append({"where": kill.where, "killed_after_step": step, "of": STEPS, "bit_identical": True})
        shutil.rmtree(folder)
    between = [result for result in results if 0 < result["killed_after_step"] < STEPS]
    print("\n" + "\n".join(json.dumps(result) for result in results))  # noqa: T201 (measured, shown with -s)
    if (path := pytestconfig.getoption("--kill-results")) is not None:
        summary = {"kills": len(results), "between_first_and_last_update": len(between), "runs": results}
        path.write_text(json.dumps(summary, indent=1) + "\n")
    assert len(results) == 20 and len(between) >= 15


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_one_run_killed_again_and_again(runner: Runner, uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for kill in CHAIN:
        resume = "latest" if folder.exists() else None
        runner.run_and_kill(runner.config(folder, resume_from_checkpoint=resume), kill)
    runner.finish(runner.config(folder, resume_from_checkpoint="latest"))
    assert_same_run(uninterrupted, folder)
