import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from short_runs import assert_same_state

from reneg import checkpoint as module
from reneg.checkpoint import (
    Best,
    Checkpoint,
    Environment,
    check_settings,
    clean_leftovers,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)


def make_checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    embedding, first, second = (torch.randn(1, 3, 4, generator=generator) for _ in range(3))
    return Checkpoint(
        step=step,
        parameters=[embedding],
        fingerprint=[torch.ones(1, 3, 4)],
        optimizer={2: {"step": torch.tensor(float(step)), "exp_avg": first, "exp_avg_sq": second.square()}},
        best=Best(step, 0.1 + step, [embedding]),
        metrics_rows=step + 1,
        settings={"learning_rate": 0.05, "grad_step_range": [20, 29]},
        environment=Environment("0.1.0", "2.0", 1),
    )


def assert_same_checkpoint(left: Checkpoint, right: Checkpoint) -> None:
    assert (left.step, left.metrics_rows, left.settings, left.environment) == (
        right.step,
        right.metrics_rows,
        right.settings,
        right.environment,
    )
    assert torch.equal(left.parameters[0], right.parameters[0])
    assert torch.equal(left.fingerprint[0], right.fingerprint[0])
    assert left.optimizer.keys() == right.optimizer.keys() == {2}  # the first two had no gradient yet
    assert_same_state(left.optimizer[2], right.optimizer[2])
    assert left.best is not None and right.best is not None
    assert (left.best.step, left.best.value) == (right.best.step, right.best.value)
    assert torch.equal(left.best.parameters[0], right.best.parameters[0])


class CrashError(BaseException):
    """The process is gone; nothing that it would have done next happens."""


class Machine:
    """Counts the operations on the disk, and dies at one of them, halfway through where it has halves."""

    def __init__(self, survives: int):
        self.left = survives

    def wrap(self, operation: Callable[..., Any], half: Callable[..., None] | None = None) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == -1 and half is not None:
                half(*arguments)
            if self.left < 0:
                raise CrashError
            return operation(*arguments, **options)

        return counted


def half_a_file(tensors: dict, path: Path) -> None:
    path.write_bytes(b"half")


def half_a_text(path: Path, text: str) -> None:
    path.write_bytes(text[: len(text) // 2].encode())


def half_a_folder(folder: Path) -> None:
    for path in [path for path in sorted(folder.rglob("*")) if path.is_file()][:1]:
        path.unlink()


@contextmanager
def machine_that_dies(after: int) -> Iterator[None]:
    machine = Machine(after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "save_file", machine.wrap(module.save_file, half_a_file))
        patch.setattr(Path, "write_text", machine.wrap(Path.write_text, half_a_text))
        patch.setattr(Path, "chmod", machine.wrap(Path.chmod))
        patch.setattr(os, "fsync", machine.wrap(os.fsync))
        patch.setattr(os, "rename", machine.wrap(os.rename))
        patch.setattr(shutil, "rmtree", machine.wrap(shutil.rmtree, half_a_folder))
        yield


@pytest.mark.parametrize("total_limit", [1, 2])
def test_a_crash_anywhere_leaves_the_old_or_the_new_checkpoint(tmp_path: Path, total_limit: int) -> None:
    crashes = 0
    for after in range(1000):
        folder = tmp_path / str(after)
        folder.mkdir()
        for step in (10, 20):
            save_checkpoint(folder, make_checkpoint(step), total_limit=total_limit)
        try:
            with machine_that_dies(after):
                save_checkpoint(folder, make_checkpoint(30), total_limit=total_limit)
        except CrashError:
            crashes += 1
        else:
            break
        present = list_checkpoints(folder)
        steps = [module.step_of(path) for path in present]
        assert steps[-1] in (20, 30)
        for path, step in zip(present, steps, strict=True):
            assert_same_checkpoint(load_checkpoint(path), make_checkpoint(step))
        clean_leftovers(folder, ("checkpoint-",))
        assert list_checkpoints(folder) == sorted(folder.iterdir())
        save_checkpoint(folder, make_checkpoint(30), total_limit=total_limit)
        assert [module.step_of(path) for path in list_checkpoints(folder)] == [10, 20, 30][-total_limit:]
    assert crashes >= 10


def test_round_trip_and_rotation(tmp_path: Path) -> None:
    for step in (0, 9, 100, 1_000_000, 1_000_001):
        path = save_checkpoint(tmp_path, make_checkpoint(step), total_limit=3)
        assert_same_checkpoint(load_checkpoint(path), make_checkpoint(step))
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["checkpoint-000100", "checkpoint-1000000", "checkpoint-1000001"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert find_checkpoint(tmp_path, "latest") == tmp_path / "checkpoint-1000001"


def test_holds_no_pickle_and_is_readable_by_others(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make_checkpoint(10), total_limit=1)
    assert sorted(file.name for file in path.iterdir()) == ["state.json", "state.safetensors"]
    assert {"parameter.0", "optimizer.2.exp_avg", "best.0"} <= load_file(path / "state.safetensors").keys()
    assert json.loads((path / "state.json").read_text())["step"] == 10
    assert path.stat().st_mode & 0o777 == 0o755
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in path.iterdir())


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_litter(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make_checkpoint(10), total_limit=1)
    with pytest.MonkeyPatch.context() as patch:

        def full(tensors: dict, path: Path) -> None:
            raise OSError("No space left on device")

        patch.setattr(module, "save_file", full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, make_checkpoint(20), total_limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000010"]


@pytest.mark.parametrize("damage", ["tensors", "state", "missing", "format"])
def test_refuses_a_damaged_checkpoint(tmp_path: Path, damage: str) -> None:
    path = save_checkpoint(tmp_path, make_checkpoint(10), total_limit=1)
    tensors, state = path / "state.safetensors", path / "state.json"
    if damage == "tensors":
        content = bytearray(tensors.read_bytes())
        content[-1] ^= 1
        tensors.write_bytes(bytes(content))
    elif damage == "state":
        state.write_text(state.read_text()[:100])
    elif damage == "missing":
        tensors.unlink()
    else:
        state.write_text(state.read_text().replace("reneg-checkpoint/2", "reneg-checkpoint/9"))
    with pytest.raises(ValueError, match="is no usable checkpoint .*; give an earlier") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_names_each_setting_that_differs() -> None:
    check_settings({"seed": 0}, {"seed": 0}, Path("checkpoint-000010"))
    with pytest.raises(ValueError, match=r"seed \(was 0, is 1\), monitor \(was None, is 'x'\)"):
        check_settings({"seed": 0}, {"seed": 1, "monitor": "x"}, Path("checkpoint-000010"))


def test_finds_nothing_in_a_new_folder(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "new", "latest") is None
    with pytest.raises(ValueError, match="there is no such folder; give latest or a checkpoint"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-000010"))
