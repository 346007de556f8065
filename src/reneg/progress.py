"""The progress bar of a learning run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reneg.checkpoint import Best
from reneg.metrics import Row


@contextmanager
def progress_bar(max_train_steps: int, *, enabled: bool) -> Iterator[Callable[[int, Row, Best | None], None]]:
    """A bar on a terminal's standard error; nothing elsewhere, where the log lines tell the same.

    Yields:
        A function to call after each update with the step, its metrics row and the best state so far.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("learning"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (enabled and console.is_terminal)) as progress:
        task = progress.add_task("", total=max_train_steps, facts="")

        def show(step: int, row: Row, best: Best | None) -> None:
            monitor = "" if best is None else f" · best monitor {best.value:.3f} (step {best.step})"
            facts = f"reward {row['reward_mean']:.3f}{monitor} · {1 / max(float(row['seconds']), 1e-3):.2f} steps/s"
            progress.update(task, completed=step, facts=facts)

        yield show
