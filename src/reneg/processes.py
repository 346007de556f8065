"""One process or many: what they run on, the batch that they share out, and what is told when one is lost."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from reneg.checkpoint import Setting, launcher
from reneg.config import RunConfig
from reneg.errors import LostProcessError
from reneg.models import check_device

BATCH = ("train_batch_size", "gradient_accumulation_steps", "num_processes")
"""Settings whose product is the global batch, and which the samples of a step do not depend on otherwise."""


def make_accelerator(config: RunConfig) -> Accelerator:
    """One process or many, on the device that the configuration and accelerate's launcher give.

    Raises:
        ValueError: the device or a tracker is not available.
    """
    trackers: list[Any] = [] if config.report_to == "none" else [name.strip() for name in config.report_to.split(",")]
    available = [str(tracker) for tracker in get_available_trackers()]
    for name in trackers:
        if name not in available:
            choices = ", ".join(["none", *available])
            raise ValueError(f"--report_to {name!r} is unknown or not installed; choose from {choices}")
    check_device(config.device)
    cpu = config.device == "cpu"
    accelerator = Accelerator(cpu=cpu, log_with=trackers or None, project_dir=config.output_dir)
    if not cpu and accelerator.device.type != torch.device(config.device).type:
        raise ValueError(f"--device {config.device} is not available here; use --device {accelerator.device.type}")
    return accelerator


def fitting_batch(global_batch: int, train_batch_size: int, num_processes: int) -> tuple[int, int]:
    """(train_batch_size, gradient_accumulation_steps) with which so many processes, a divisor, have a global batch.

    The micro-batch is the largest that fits, up to the given one.
    """
    share = global_batch // num_processes
    batch = max(size for size in range(1, min(train_batch_size, share) + 1) if share % size == 0)
    return batch, share // batch


def check_global_batch(saved: Mapping[str, Setting], current: Mapping[str, Setting], path: object) -> None:
    """Refuse to go on with another global batch than that of a checkpoint; its factors may change.

    Raises:
        ValueError: so, with flags that fit.
    """
    then, now = ([int(str(settings[name])) for name in BATCH] for settings in (saved, current))
    if prod(then) == prod(now):
        return
    processes = max(count for count in range(1, now[2] + 1) if prod(then) % count == 0)
    batch, accumulation = fitting_batch(prod(then), now[0], processes)
    fits = f"--train_batch_size {batch} --gradient_accumulation_steps {accumulation}"
    if processes != now[2]:
        fits = f"{launcher(processes)} with {fits}"
    raise ValueError(
        f"--train_batch_size {now[0]} x --gradient_accumulation_steps {now[1]} x {_processes(now[2])} make a global "
        f"batch of {prod(now)}, but {path} was made with {prod(then)} "
        f"({then[0]} x {then[1]} x {_processes(then[2])}); what fits is {fits}"
    )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


@contextmanager
def needs_every_process(process_index: int, num_processes: int) -> Iterator[None]:
    """Around a collective, which the loss of a process breaks in all others.

    Raises:
        LostProcessError: the collective failed; in one line, with the way to go on.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo and NCCL have no class of their own for a peer that is gone
        if num_processes == 1:
            raise
        reason = str(error).strip().splitlines()[0]
        raise LostProcessError(
            f"process {process_index} of {num_processes} ends: another one is gone ({reason}); go on from the last "
            "checkpoint with --resume_from_checkpoint latest, with as many processes as you like"
        ) from error
