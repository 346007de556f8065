"""Null text, N*, global and per-sample embeddings on evaluation prompts, by noises that played no part in any choice.

The four are rows of Table 2: what is not yet made in its folder is made there, and the pictures are shared with it.
Here all have the same guidance scale, and the paired differences are against the global embedding and against the null
text. Evaluation draws its noises from its own seed and by picture numbers, refinement from the prompt's text and its
step, so that they share none.

python results/refinement.py --output_dir runs/results/table2 [other flags of `reneg reproduce table2`]

It writes refinement.json, of which `write_docs.py` makes a section of docs/results.md.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

from portable import portable, write_results
from rich.console import Console

from reneg.analysis.comparison import Table2
from reneg.analysis.config import Table2Config
from reneg.analysis.stages import run_stage
from reneg.cli import parse
from reneg.evaluation import evaluate

CONTENDERS = {"null": "null", "global": "reneg", "handcrafted": "handcrafted", "per-sample": "per-sample"}
"""Name -> row of Table 2. The first two are what the others are compared with."""


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _, config = parse(["reproduce", "table2", *sys.argv[1:], "--rows", *CONTENDERS.values()])
    assert isinstance(config, Table2Config)
    table = Table2(config)
    table.write_prompts()
    for row in table.rows.values():
        *made, _ = table.stages(row)  # the last one evaluates each row in its own scale
        for stage in made:  # one by one: a stage needs what the one before found
            table.found[stage.name] = run_stage(table.root, stage)
    negatives = [f"{name}={table.value(row, tuning=False)}" for name, row in CONTENDERS.items()]
    settings = replace(config.evaluation(config.model, table.evaluation_folder), negatives=negatives)
    results = evaluate(settings, console=Console(stderr=True))
    write_results(Path(__file__).parent / "refinement.json", portable(results))


if __name__ == "__main__":
    main()
