"""Checkpoints: all that a run needs to go on bit for bit.

A checkpoint is a folder `checkpoint-000100` of two files: tensors in safetensors, and a JSON file with the rest. It is
written under a hidden name, flushed to the disk and renamed, so a kill at any moment leaves it whole or absent.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reneg.interfaces import Place

FORMAT = "reneg-checkpoint/2"
TENSORS, STATE = "state.safetensors", "state.json"
PROCESSES = "num_processes"
"""The one setting that is no flag of reneg, but of accelerate's launcher."""
NAME = re.compile(r"checkpoint-(\d{6,})")

Setting = str | int | float | bool | None | list
"""A setting as JSON has it."""


@dataclass(frozen=True)
class Environment:
    """What the last bits of the sums depend on, beside the settings."""

    reneg: str
    torch: str
    threads: int


@dataclass(frozen=True)
class Best:
    """The state that the monitor liked best so far."""

    step: int
    value: float
    """The monitor's mean reward on its fixed pictures."""
    parameters: list[Tensor]


@dataclass(frozen=True)
class Cohort:
    """Samples that go from update to update together."""

    numbers: list[int]
    """The run's numbers of the samples, which tell their prompts and noises."""
    place: Place


@dataclass(frozen=True)
class Checkpoint:
    """The state after a number of optimiser steps; everything else is a function of it and the settings."""

    step: int
    """Optimiser steps done."""
    parameters: list[Tensor]
    fingerprint: list[Tensor]
    """Of the model that they belong to, as the target tells it."""
    optimizer: dict[int, dict[str, Tensor]]
    """The optimiser's tensors by the parameter's number; none for a parameter that never had a gradient."""
    best: Best | None
    metrics_rows: int
    """Rows of metrics.jsonl that belong to this state."""
    settings: dict[str, Setting]
    environment: Environment
    reward_scales: dict[str, float] = field(default_factory=dict)
    """Of the parts of a mixture of rewards; empty for a single reward."""
    reward_history: dict[str, list[float]] = field(default_factory=dict)
    """Prompt -> its last rewards; empty for methods that do not look back."""
    in_flight: list[Cohort] = field(default_factory=list)
    """Samples of all processes that later updates go on with, one cohort a step, those that began first in front."""


def checkpoint_name(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"checkpoint-{step:06d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint folder's name."""
    return int(path.name.removeprefix("checkpoint-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, total_limit: int) -> Path:
    """Write a checkpoint atomically, and only then delete the oldest beyond the limit.

    A checkpoint of the same step is left alone: within a run it holds the same state.

    Raises:
        OSError: the folder cannot be written, or the disk is full; earlier checkpoints stay.
    """
    path = folder / checkpoint_name(checkpoint.step)
    if not path.exists():
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f".{path.name}."))
        try:
            _write_files(temporary, checkpoint)
            temporary.chmod(0o755)
            os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _sync(folder)
    for old in list_checkpoints(folder)[:-total_limit]:
        discard_checkpoint(old)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ValueError: the folder is no checkpoint, or is damaged; in one line.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        if state["format"] != FORMAT:
            raise ValueError(f"its format is {state['format']!r}, this version reads {FORMAT!r}")
        if state["sha256"] != _hash(path / TENSORS):
            raise ValueError(f"{TENSORS} does not match its checksum")
        tensors = load_file(path / TENSORS)
        best = None
        if state["best"] is not None:
            best = Best(state["best"]["step"], state["best"]["value"], _unflatten(tensors, "best"))
        return Checkpoint(
            step=state["step"],
            parameters=_unflatten(tensors, "parameter"),
            fingerprint=_unflatten(tensors, "fingerprint"),
            optimizer=_unflatten_optimizer(tensors),
            best=best,
            metrics_rows=state["metrics_rows"],
            settings=state["settings"],
            environment=Environment(**state["environment"]),
            reward_scales=state.get("reward_scales", {}),  # checkpoints of before have none
            reward_history=state.get("reward_history", {}),
            in_flight=[
                Cohort(cohort["numbers"], Place(cohort["step_index"], latents))
                for cohort, latents in zip(state.get("in_flight", []), _unflatten(tensors, "in_flight"), strict=True)
            ],
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--resume_from_checkpoint {path} is no usable checkpoint ({error}); give an earlier checkpoint folder, "
            "or start again in another --output_dir"
        ) from error


def find_checkpoint(folder: Path, resume_from_checkpoint: str) -> Path | None:
    """The checkpoint that "latest" or a folder names; None when there is none yet.

    Raises:
        ValueError: the named folder does not exist.
    """
    present = list_checkpoints(folder)
    if resume_from_checkpoint == "latest":
        return present[-1] if present else None
    path = Path(resume_from_checkpoint)
    if not path.is_dir():
        names = ", ".join(str(checkpoint) for checkpoint in present) or f"{folder} holds none"
        raise ValueError(
            f"--resume_from_checkpoint {resume_from_checkpoint}: there is no such folder; "
            f"give latest or a checkpoint ({names})"
        )
    return path


def launcher(num_processes: int) -> str:
    """The beginning of a command that starts so many processes; without --multi_gpu a machine without GPUs has one."""
    several = "--multi_gpu " if num_processes > 1 else ""
    return f"accelerate launch {several}--num_processes {num_processes}"


def check_settings(
    saved: Mapping[str, Setting], current: Mapping[str, Setting], path: Path, *, free: Sequence[str] = ()
) -> None:
    """Refuse to go on with other settings than those that the checkpoint was made with.

    Args:
        free: settings that may differ.

    Raises:
        ValueError: another setting differs; the message names each.
    """
    names = [name for name in {**saved, **current} if name not in free and saved.get(name) != current.get(name)]
    if names:
        launch = f" ({launcher(int(str(saved[PROCESSES])))})" if PROCESSES in names else ""
        changes = ", ".join(f"{name} (was {saved.get(name)!r}, is {current.get(name)!r})" for name in names)
        raise ValueError(
            f"a resumed run keeps its settings, but these differ from {path}: {changes}; give the old values{launch}, "
            "or start again in another --output_dir"
        )


def discard_checkpoint(path: Path) -> None:
    """Delete a checkpoint; a kill in between leaves no half of it under its name."""
    trash = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    os.rename(path, trash / path.name)
    shutil.rmtree(trash)


def clean_leftovers(folder: Path, names: tuple[str, ...]) -> None:
    """Delete what a killed run left half-written: hidden files and folders whose names begin with one of these."""
    prefixes = tuple(f".{name}" for name in names)
    for path in [path for path in folder.iterdir() if path.name.startswith(prefixes)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    best = checkpoint.best
    tensors = {
        **{f"parameter.{i}": tensor for i, tensor in enumerate(checkpoint.parameters)},
        **{f"fingerprint.{i}": tensor for i, tensor in enumerate(checkpoint.fingerprint)},
        **{f"optimizer.{i}.{key}": t for i, state in checkpoint.optimizer.items() for key, t in state.items()},
        **{f"best.{i}": tensor for i, tensor in enumerate(best.parameters if best else [])},
        **{f"in_flight.{i}": cohort.place.latents for i, cohort in enumerate(checkpoint.in_flight)},
    }
    # Copies, because safetensors refuses tensors that share memory.
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, folder / TENSORS)
    state = {
        "format": FORMAT,
        "step": checkpoint.step,
        "best": None if best is None else {"step": best.step, "value": best.value},
        "metrics_rows": checkpoint.metrics_rows,
        "settings": checkpoint.settings,
        "environment": asdict(checkpoint.environment),
        "reward_scales": checkpoint.reward_scales,
        "reward_history": checkpoint.reward_history,
        "in_flight": [
            {"numbers": cohort.numbers, "step_index": cohort.place.step_index} for cohort in checkpoint.in_flight
        ],
        "sha256": _hash(folder / TENSORS),
    }
    (folder / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    (folder / TENSORS).chmod(0o644)  # safetensors writes files that only their owner can read
    for path in (folder / TENSORS, folder / STATE, folder):
        _sync(path)


def _unflatten(tensors: dict[str, Tensor], prefix: str) -> list[Tensor]:
    names = [name for name in tensors if name.startswith(f"{prefix}.")]
    return [tensors[f"{prefix}.{i}"] for i in range(len(names))]


def _unflatten_optimizer(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            states.setdefault(int(number), {})[key] = tensor
    return states


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    """Flush a file's or a folder's content to the disk, so that a power cut cannot undo it after the rename."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
