"""The progress bar of a learning run."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reneg.checkpoint import Best
from reneg.metrics import Row

SPEED_SECONDS = 900
"""How far back the time left is estimated from: steps of a large model take a minute each."""


def told_value(row: Row) -> tuple[str, float]:
    """Name and value of what is told of an update: the reward, or the loss of a method without one."""
    name, key = ("reward", "reward_mean") if "reward_mean" in row else ("loss", "loss")
    return name, float(row[key])


@contextmanager
def progress_bar(max_train_steps: int, *, enabled: bool) -> Iterator[Callable[[int, Row, Best | None], None]]:
    """A bar on a terminal's standard error; nothing elsewhere, where the log lines tell the same.

    Yields:
        A function to call after each update with the step, its metrics row and the best state so far, whose value and
        step are shown.
    """
    console = Console(stderr=True)
    columns = (
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    )
    visible = enabled and console.is_terminal
    bar = Progress(*columns, console=console, disable=not visible, speed_estimate_period=SPEED_SECONDS)
    with bar as progress, _logs_above_the_bar():
        task = progress.add_task("", total=max_train_steps, facts="")

        def show(step: int, row: Row, best: Best | None) -> None:
            monitor = "" if best is None else f" · monitor {best.value:.3f} at {best.step}"
            name, value = told_value(row)
            facts = f"{name} {value:.3f}{monitor} · {1 / max(float(row['seconds']), 1e-3):.2f} steps/s"
            progress.update(task, completed=step, facts=facts)

        yield show


@contextmanager
def _logs_above_the_bar() -> Iterator[None]:
    """While a bar is shown, rich replaces sys.stderr by a stream that prints above it: let the log handlers use it."""
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
    streams = {handler: handler.setStream(sys.stderr) for handler in handlers if handler.stream is sys.__stderr__}
    try:
        yield
    finally:
        for handler, stream in streams.items():
            if stream is not None:
                handler.setStream(stream)
