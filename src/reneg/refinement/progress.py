"""The progress bar of a refinement."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reneg.refinement.state import PromptState


@contextmanager
def prompt_progress(
    num_prompts: int, max_refine_steps: int, console: Console | None
) -> Iterator[Callable[[PromptState], None]]:
    """A bar over the prompts on a console, or nothing.

    Yields:
        A function to call with a prompt's state after each step of work on it.
    """
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=console is None) as bar:
        task = bar.add_task("", total=num_prompts)
        progress: dict[str, float] = {}

        def show(state: PromptState) -> None:
            progress[state.prompt] = 1.0 if state.done else min(0.99, state.step / (max_refine_steps + 1))
            what = f"step {state.step}/{max_refine_steps}"
            if state.history:
                name = next(iter(state.history[0]))
                first, last = state.history[0][name], state.history[-1][name]
                what += f" · reward {first:.3f} -> {last:.3f}"
            shown = state.prompt if len(state.prompt) <= 40 else state.prompt[:39] + "…"
            finished = sum(value == 1.0 for value in progress.values())
            bar.update(task, completed=finished, description=f"{shown}: {what}")

        yield show
