"""Collect what `make results` measured, and write docs/results.md, and the tables of
README.md and docs/memory.md, from the committed files.

python results/write_docs.py [runs/results]
"""

import argparse
import json
import shutil
from pathlib import Path

from portable import portable, write_results

from reneg.analysis import EXPERIMENTS
from reneg.evaluation.tables import mean_rows, paired_rows
from reneg.intervals import noises_each
from reneg.metrics import read_rows
from reneg.report import fill, markdown_table

RESULTS = Path(__file__).parent
ROOT = RESULTS.parent
REWARDS = {
    "world/preference": "training reward",
    "world/monitor": "monitor",
    "world/judge": "judge",
    "world/aesthetic": "aesthetic judge",
}
NAMES = {
    "null": "null text",
    "handcrafted": "hand-written N*",
    "global": "learned, for all prompts",
    "per-sample": "refined for each prompt",
}
"""Contender -> its words in the README; of those of `make results` their seed."""
PEAKS = (
    "Largest batch of one micro-batch in a GPU of so much memory, by `reneg plan`, with bf16, HPSv2.1 as the reward "
    "and PickScore as the monitor; weights and peaks in GiB:"
)
COUNTED = ("world/preference", "world/judge", "world/aesthetic")
"""The rewards of which the README counts wins."""


def collect(runs: Path) -> None:
    """Copy the experiments that are there: results.json without the folders of this machine, and pictures."""
    for name in EXPERIMENTS:
        source = runs / name / "results.json"
        if source.is_file():
            results = json.loads(source.read_text(encoding="utf-8"))
            results["settings"] = {k: portable(v) for k, v in results["settings"].items() if k != "output_dir"}
            write_results(RESULTS / f"{name}.json", results)
            for picture in source.parent.glob("*.png"):
                own = picture.stem == name
                shutil.copyfile(picture, RESULTS / (f"{name}.png" if own else f"{name}-{picture.name}"))


def collect_curves(table: Path) -> None:
    """Table 2's learning runs: each look of the monitor a line of table2_curves.jsonl."""
    looks = [
        json.dumps({"run": str(path.parent.relative_to(table))} | row)
        for path in sorted(table.glob("*/*/metrics.jsonl"))
        for row in read_rows(path)
        if row["kind"] == "validation"
    ]
    if looks:
        (RESULTS / "table2_curves.jsonl").write_text("\n".join(looks) + "\n", encoding="utf-8")


def experiment_section(name: str) -> list[str]:
    """One experiment's part of docs/results.md."""
    results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    version = f"reneg {results['versions']['reneg']}, torch {results['versions']['torch']}"
    pictures = [f"![{path.stem}](../results/{path.name})" for path in sorted(RESULTS.glob(f"{name}*.png"))]
    made = f"Made by `reneg reproduce {name} --model {results['settings']['model']}` ({version}); all settings and "
    made += f"figures are in [`results/{name}.json`](../results/{name}.json)."
    return [f"## {results['title']}", results["text"], *pictures, markdown_table(results["table"]), made]


def evaluation_section(results: dict) -> list[str]:
    """The embeddings of several seeds on the whole evaluation set."""
    overall, seeds = results["overall"], results["settings"]["num_seeds"]
    return [
        "## Learned embeddings against the null text and N*",
        f"{overall['num_prompts']} evaluation prompts, {noises_each(seeds)}, the same for all; 95 % intervals from a "
        "bootstrap over prompts. The learned embeddings differ in the seed of learning alone. By style, and against "
        "N*: [`results/world.md`](../results/world.md).",
        markdown_table(mean_rows(results, overall)),
        *results["notes"],
        markdown_table([row for row in paired_rows(results, overall) if row["against"] == "null"]),
    ]


def refinement_section(results: dict) -> list[str]:
    """A global embedding and those refined from it for each prompt, on noises that refinement did not use."""
    overall, seeds = results["overall"], results["settings"]["num_seeds"]
    return [
        "## An embedding for each prompt",
        f"{overall['num_prompts']} evaluation prompts, {noises_each(seeds)}, the same for all, none of which "
        "refinement used; 95 % intervals from a bootstrap over prompts. The embeddings are those of Table 2, where "
        "each row has its own guidance scale; here all have the same. Made by `results/refinement.py`.",
        markdown_table(mean_rows(results, overall)),
        *results["notes"],
        markdown_table(paired_rows(results, overall)),
    ]


def summary_table(results: dict) -> str:
    """A table of the README."""
    overall, rows = results["overall"], []
    for name, figures in overall["negatives"].items():
        row = {"": NAMES.get(name, f"learned, {name.replace('-', ' ')}")}
        row |= {word: f"{figures['rewards'][reward]['mean']['mean']:.2f}" for reward, word in REWARDS.items()}
        for reward in COUNTED:
            row[f"wins against null: {REWARDS[reward]}"] = wins(figures["rewards"][reward])
        rows.append(row)
    real = {word: f"{overall['real']['rewards'][reward]['mean']:.2f}" for reward, word in REWARDS.items()}
    rows.append({column: "–" for column in rows[0]} | {"": "real pictures"} | real)
    return markdown_table(rows)


def wins(figures: dict) -> str:
    """The win rate against the null text, in whole percent; a dash for the null text itself."""
    rate = figures["win_rate"].get("null") if "win_rate" in figures else None
    if rate is None:
        return "–"
    return f"{100 * rate['mean']:.0f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"


def plan_check_table() -> str:
    """What autograd keeps in SD1.5's gradient step, measured, and what `reneg plan` says of it."""
    rows = json.loads((RESULTS / "plan_check.json").read_text(encoding="utf-8"))
    return markdown_table(
        [
            {
                "phase": row["phase"],
                "checkpointing": "yes" if row["gradient_checkpointing"] else "no",
                "pixels": str(row["pixels"]),
                "kept, MiB": f"{row['bytes'] / 2**20:,.1f}",
                "planned, MiB": f"{row['planned'] / 2**20:,.1f}",
                "planned / kept": f"{row['ratio']:.3f}",
                "how": row["how"],
            }
            for row in rows
        ]
    )


def estimators_table() -> str:
    """What each way to a gradient costs, and what it is worth at the null text."""
    found = json.loads((RESULTS / "estimators.json").read_text(encoding="utf-8"))
    rows = [{"gradient": "null text, before any step"} | _measures(found["null"])]
    for name, way in found["ways"].items():
        cost, worth = way["cost_of_a_sample"], way["squared_signal_to_noise_per_1000_evaluations"]
        rows.append(
            {
                "gradient": name,
                "forward": f"{cost['forwards']:.3g}",
                "backward": f"{cost['backwards']:.3g}",
                "cosine with the exact": f"{way['cosine_with_exact']:.2f}",
                "(signal / noise)^2 of 1,000 evaluations": f"{worth:.2f}",
            }
            | _measures(way["after_a_step_along"])
        )
    columns = dict.fromkeys(key for row in reversed(rows) for key in row)
    return markdown_table([dict.fromkeys(columns, "") | row for row in rows])


def _measures(look: dict) -> dict[str, str]:
    return {f"{name} after a step": f"{look[name]:.2f}" for name in ("reward", "monitor")}


def write_docs() -> None:
    """docs/results.md and the tables of other pages, from the files beside this script alone."""
    world = json.loads((RESULTS / "world.json").read_text(encoding="utf-8"))
    parts = [
        "# Results",
        "Written by `results/write_docs.py` from the files in `results/`; `make results` measures them anew. "
        "How to run one of them, or the same on Stable Diffusion: [`reproduce.md`](reproduce.md). All of this is the "
        "bundled world; no Stable Diffusion weights were run.",
        *evaluation_section(world),
    ]
    refinement = json.loads((RESULTS / "refinement.json").read_text(encoding="utf-8"))
    parts += refinement_section(refinement)
    for name in EXPERIMENTS:
        if (RESULTS / f"{name}.json").is_file():
            parts += experiment_section(name)
    (ROOT / "docs" / "results.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    fill(ROOT / "README.md", "results", summary_table(world))
    fill(ROOT / "README.md", "refinement", summary_table(refinement))
    peaks = (RESULTS / "plan_table.md").read_text(encoding="utf-8").strip()
    fill(ROOT / "docs" / "how_to_choose.md", "results", estimators_table())
    fill(ROOT / "docs" / "memory.md", "results", f"{plan_check_table()}\n\n{PEAKS}\n\n{peaks}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", help="folder with one folder an experiment")
    arguments = parser.parse_args()
    if arguments.runs:
        collect(arguments.runs)
        collect_curves(arguments.runs / "table2")
    write_docs()
