"""Long experiments in stages: each has a folder, is made once, and costs what can be told before it runs."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reneg.analysis.output import write_json
from reneg.files import write_atomically
from reneg.report import markdown_table

logger = logging.getLogger(__name__)

DONE, PLAN = "done.json", "plan.md"
LONGEST = 2 * 60
"""Minutes of a stage above which the plan warns."""
Found = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One step of an experiment."""

    name: str
    """Its folder, below the experiment's."""
    settings: dict[str, Any]
    """What its result depends on, as far as it is known beforehand, as JSON has it."""
    evaluations: int
    """What it costs at most, in evaluations of the denoiser; a backward pass counts as two."""
    run: Callable[[Path], Found]
    """Makes it in a folder; goes on where it was interrupted."""


def is_done(root: Path, stage: Stage) -> bool:
    """Whether a stage has nothing left to do."""
    return (root / stage.name / DONE).is_file()


def run_stage(root: Path, stage: Stage) -> Found:
    """What a stage found, now or in an earlier run.

    Raises:
        ValueError: its folder was made with other settings.
    """
    path, settings = root / stage.name / DONE, json.loads(json.dumps(stage.settings, default=str))
    if path.is_file():
        then = json.loads(path.read_text(encoding="utf-8"))
        different = [n for n in then["settings"] | settings if then["settings"].get(n) != settings.get(n)]
        if different:
            name = min(different)
            raise ValueError(
                f"--output_dir {root}: the stage {stage.name} was made with {name} {then['settings'].get(name)!r}, "
                f"and not {settings.get(name)!r}; choose another folder, or delete that of the stage"
            )
        return then["found"]
    logger.info("stage %s", stage.name)
    start = time.perf_counter()
    found = stage.run(path.parent)
    write_json(path, {"settings": settings, "seconds": round(time.perf_counter() - start, 1), "found": found})
    return found


def write_plan(root: Path, stages: Sequence[Stage], evaluations_per_second: float) -> Path:
    """Write plan.md: the stages and what they cost; gives the file."""
    rows, left, total = [], 0.0, 0.0
    for stage in stages:
        minutes, done = stage.evaluations / evaluations_per_second / 60, is_done(root, stage)
        total += minutes
        left += 0 if done else minutes
        note = "done" if done else "over two hours; resumable within" if minutes > LONGEST else ""
        rows.append(
            {"stage": stage.name, "evaluations": f"{stage.evaluations:,.0f}", "minutes": f"{minutes:.1f}", "": note}
        )
    text = (
        f"{len(stages)} stages, {total:,.0f} minutes at {evaluations_per_second:g} evaluations of the denoiser a "
        f"second, of which {left:,.0f} are left. A backward pass counts as two evaluations; methods that stop early "
        f"take less, and loading, scoring and reports come on top.\n\n{markdown_table(rows)}\n"
    )
    path = root / PLAN
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path
