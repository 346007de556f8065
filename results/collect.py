"""Collect what `make results` measured: tables from the evaluation, and the README's before/after picture.

python results/collect.py runs/results/evaluation docs/before_after.png
"""

import argparse
import json
from pathlib import Path

import torch
from portable import portable, write_results

from reneg.evaluation.tables import by_group, mean_rows, paired_rows
from reneg.generation import generate, picture_generators, picture_noise
from reneg.intervals import noises_each
from reneg.models import load_model
from reneg.negatives import resolve_negative
from reneg.report import labelled_rows, markdown_table
from reneg.world import load_prompts

RESULTS = Path(__file__).parent
COLUMNS = 12
"""Prompts in the picture: so many spread evenly over the evaluation set, by their place alone."""


def write_tables(evaluation: Path) -> dict:
    """Copy results.json and write its tables; returns the results."""
    results = json.loads((evaluation / "results.json").read_text())
    write_results(RESULTS / "world.json", portable(results))
    overall, settings = results["overall"], results["settings"]
    parts = [
        "# The bundled world: learned embeddings against the null text and N*",
        "Written by `results/collect.py` from `world.json`; `make results` measures it anew.",
        f"{overall['num_prompts']} evaluation prompts, {noises_each(settings['num_seeds'])}, the same for all; 95 % "
        "intervals from a bootstrap over prompts. The learned embeddings differ in the seed of learning alone.",
        "## Mean scores",
        markdown_table(mean_rows(results, overall)),
        *results["notes"],
        "## Paired differences and wins",
        markdown_table(paired_rows(results, overall)),
        "## Mean scores by style",
        markdown_table(by_group(results, mean_rows)),
        "## Paired by style",
        markdown_table(by_group(results, paired_rows)),
    ]
    (RESULTS / "world.md").write_text("\n\n".join(parts) + "\n")
    return results


@torch.no_grad()
def draw_before_after(results: dict, path: Path) -> None:
    """Null text, N* and the first learned embedding, from the same noises."""
    model = load_model("world")
    groups = load_prompts().evaluate.values()
    each = COLUMNS // len(groups)
    prompts = [prompts[(2 * i + 1) * len(prompts) // (2 * each)] for prompts in groups for i in range(each)]
    rows = {
        label: generate(
            model,
            prompts,
            resolve_negative(negative["value"], model),
            picture_noise(model, picture_generators(results["settings"]["seed"], 0, len(prompts))),
        )
        for label, negative in zip(("null text", "hand-written", "learned"), results["negatives"], strict=False)
    }
    picture = labelled_rows(rows, 2)
    path.parent.mkdir(exist_ok=True)
    picture.save(path, optimize=True)
    path.with_suffix(".txt").write_text("\n".join(prompts) + "\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    draw_before_after(write_tables(arguments.evaluation), arguments.picture)


if __name__ == "__main__":
    main()
