"""What `frontier.py` found, as numbers, a table and a picture; see there.

python results/frontier_summary.py [FOLDER]    # writes frontier.json, frontier.md and frontier.png
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
from frontier import (
    BUDGET,
    FOLDER,
    JUDGED_PROMPTS,
    JUDGES,
    LAST_POINT,
    OTHERS,
    OTHERS_BUDGET,
    PAIR,
    POINTS,
    SEEDS,
    choose,
    evaluations,
    judge_run,
    null_scores,
    other_of,
    pair_of,
)

from reneg.config import LearnConfig
from reneg.intervals import interval
from reneg.report import markdown_table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
JUDGE = JUDGES[0]
BASE = "last three, fast"
"""What the other estimators are compared with."""
STUDENT = {3: 4.303, 5: 2.776}
"""Of so many runs: the 97.5 % point of Student's t, for 95 % intervals of their mean."""
COUNTS = ("denoiser_evaluations", "denoiser_backward_evaluations", "decoded_pictures", "scored_pictures", "seconds")
WORDS = ("forward", "backward", "decodes")
"""The first of them in the table."""


def summarise(folder: Path) -> None:
    """Write frontier.json, frontier.md and frontier.png."""
    null = null_scores(folder)
    curves = {scheme: finished(pair_of, "pairs", folder, scheme, POINTS[scheme]) for scheme in PAIR}
    others = {s: found for s in OTHERS if (found := finished(other_of, "others", folder, s, LAST_POINT))}
    result = {
        "budget": BUDGET,
        "judged_prompts": JUDGED_PROMPTS,
        "null": null,
        "sweeps": {scheme: choose(folder, scheme)[2] for scheme in PAIR},
        "chosen": {scheme: choose(folder, scheme)[:2] for scheme in PAIR},
        "curves": curves,
        "at_the_end": {scheme: at_the_end(found, curves["paper"], null) for scheme, found in curves.items()},
        "others_budget": OTHERS_BUDGET,
        "others": {scheme: at_the_end(found, others[BASE], null) for scheme, found in others.items()},
        "crossing": crossings(curves["paper"], curves["fast"], null),
    }
    (HERE / "frontier.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "frontier.md").write_text(as_markdown(result))
    draw(curves, null, HERE / "frontier.png")


def finished(
    run_of: Callable[[Path, str, int], LearnConfig], stage: str, folder: Path, scheme: str, points: tuple[int, ...]
) -> dict[int, list[dict]]:
    """Seed -> judged states in order, of a stage's runs that are finished and judged."""
    runs = {seed: run_of(folder, scheme, seed) for seed in SEEDS[stage]}
    return {s: judge_run(run, points) for s, run in runs.items() if (run.output_dir / "judged.json").is_file()}


def over_seeds(values: list[float]) -> dict[str, float | None]:
    """Mean over seeds with its 95 % interval by Student's t."""
    mean = fmean(values)
    half = STUDENT[len(values)] * stdev(values) / len(values) ** 0.5 if len(values) in STUDENT else None
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high}


def at_the_end(curves: dict[int, list[dict]], base: dict[int, list[dict]], null: dict[str, float]) -> dict:
    """Each judge's gain over the null text at the end of the budget, and over another scheme with the same seed."""
    ends = {seed: curve[-1] for seed, curve in curves.items()}
    return {
        "seeds": len(ends),
        "gain": {name: over_seeds([end["judged"][name] - null[name] for end in ends.values()]) for name in JUDGES},
        "over": {
            name: over_seeds([end["judged"][name] - base[seed][-1]["judged"][name] for seed, end in ends.items()])
            for name in JUDGES
        },
        "counts": {name: fmean([end[name] for end in ends.values()]) for name in COUNTS},
    }


def crossings(paper: dict[int, list[dict]], fast: dict[int, list[dict]], null: dict[str, float]) -> dict:
    """Where FAST's smoothed curve first reaches what the paper's scheme of the same seed ends with; ratios of cost."""
    pairs = {}
    for seed in sorted(paper.keys() & fast.keys()):
        end, curve = paper[seed][-1], fast[seed]
        level = end["judged"][JUDGE]
        values = [null[JUDGE], *(state["judged"][JUDGE] for state in curve)]
        smooth = [values[0], *(fmean(values[i - 1 : i + 2]) for i in range(1, len(values) - 1)), values[-1]]
        place = first_reach(smooth, level)
        if place is None:
            pairs[seed] = {"level": level, "ratios": None}
            continue
        begin = dict.fromkeys(COUNTS, 0.0) | {"evaluations": 0.0}
        spent = [begin, *(counts_of(state) for state in curve)]
        total = counts_of(end)
        low, part = int(place), place - int(place)
        before, after = spent[low], spent[min(low + 1, len(curve))]
        at = {name: before[name] + part * (after[name] - before[name]) for name in begin}
        pairs[seed] = {"level": level, "ratios": {name: at[name] / total[name] for name in begin}}
    reached = [pair["ratios"] for pair in pairs.values() if pair["ratios"]]
    means = {name: over_seeds([ratios[name] for ratios in reached]) for name in (reached[0] if reached else {})}
    return {"judge": JUDGE, "pairs": pairs, "reached": len(reached), "mean_ratios": means}


def counts_of(state: dict) -> dict[str, float]:
    """Each count, and the evaluations with a backward pass as two."""
    return {name: float(state[name]) for name in COUNTS} | {"evaluations": float(evaluations(state))}


def first_reach(values: list[float], level: float) -> float | None:
    """Where a piecewise linear curve through points 0, 1, 2 … first is at a level or above; None if never."""
    if values[0] >= level:
        return 0.0
    for i in range(1, len(values)):
        if values[i] >= level:
            return i - 1 + (level - values[i - 1]) / (values[i] - values[i - 1])
    return None


def as_markdown(result: dict) -> str:
    """The tables."""
    crossing = result["crossing"]
    parts = [
        "# Reward against cost",
        "Written by `results/frontier_summary.py`. Gains over the null text on "
        f"{result['judged_prompts']} evaluation prompts, always from the same noises; every run spent about "
        f"{result['budget']:,} evaluations of the denoiser, a backward pass counted as two. 95 % intervals over "
        "seeds.",
        markdown_table(table_rows(result["at_the_end"], "paper")),
        f"What the paper's scheme ends with is reached by `fast` in {crossing['reached']} of "
        f"{len(crossing['pairs'])} pairs, for this share of its cost at the first crossing of the smoothed curve:",
        "\n".join(f"- {name}: {interval(ratio)}" for name, ratio in crossing["mean_ratios"].items()),
        "## The estimators",
        f"At the rate and batch of `fast`, not chosen again, three seeds, about {result['others_budget']:,} "
        "evaluations each, a third of the budget above, where the judges still rise; prompts, noises and intervals as "
        "there. Here `fast` stands for thirteen steps of DPM-Solver++ down to the steps that carry the gradient.",
        markdown_table(table_rows(result["others"], BASE)),
        "## The sweeps",
        "By the monitor's mean at the end, seed 0:",
        "\n".join(f"- {scheme}: {'; '.join(map(tried, rows))}" for scheme, rows in result["sweeps"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def table_rows(ends: dict[str, dict], base: str) -> list[dict[str, str]]:
    """Schemes at the end of their budget, one a row; `base` is what the others are compared with."""
    rows = []
    for scheme, end in ends.items():
        row = {"scheme": scheme, "seeds": str(end["seeds"])}
        row |= {name: interval(end["gain"][name], sign=True, digits=2) for name in JUDGES}
        row[f"judge, over {base}"] = "" if scheme == base else interval(end["over"][JUDGE], sign=True, digits=2)
        rows.append(row | {word: f"{end['counts'][name]:,.0f}" for word, name in zip(WORDS, COUNTS, strict=False)})
    return rows


def tried(row: dict) -> str:
    """One setting of a sweep."""
    where = f"rate {row['learning_rate']:g}, batch {row['train_batch_size']}, {row['updates']} updates"
    return f"{where}: {row['monitor']:.3f}"


def draw(curves: dict[str, dict[int, list[dict]]], null: dict[str, float], path: Path) -> None:
    """Gain of the judge against the evaluations spent: thin lines are seeds, thick ones their means."""
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for number, (scheme, runs) in enumerate(curves.items()):
        color = f"C{number}"
        lines = [[0.0, *(state["judged"][JUDGE] - null[JUDGE] for state in curve)] for curve in runs.values()]
        costs = [0, *(evaluations(state) for state in next(iter(runs.values())))]
        for line in lines:
            axis.plot(costs, line, color=color, alpha=0.25, linewidth=0.8)
        axis.plot(costs, [fmean(values) for values in zip(*lines, strict=True)], color=color, label=scheme, marker=".")
    axis.set(xlabel="evaluations of the denoiser (a backward pass: two)", ylabel=f"{JUDGE}, gain over the null text")
    axis.axhline(0, color="grey", linewidth=0.5)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    summarise(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
