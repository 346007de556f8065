"""Null text, N*, global and per-sample embeddings on evaluation prompts, by noises that played no part in any choice.

For each global embedding: refine it for the prompts by the world's settings, and evaluate the four beside each other.
Evaluation draws its noises from its own seed and by picture numbers, refinement from the prompt's text and its step,
so that they share none. Paired differences are against the global embedding and against the null text.

python results/refinement.py runs/results/seed-0/negative_embedding.safetensors [others …]

An embedding takes about 55 core-minutes to refine for 201 prompts and 15 to evaluate. The stage goes on where it was
interrupted; `accelerate launch results/refinement.py …` shares the prompts out to processes. It writes
refinement-NAME.json, where NAME is the folder of the global embedding; `write_docs.py` makes its tables.
"""

import argparse
import logging
from pathlib import Path

from portable import portable, write_results
from rich.console import Console

from reneg.config import EvaluateConfig, preset
from reneg.evaluation import evaluate
from reneg.refinement.config import RefineConfig
from reneg.refinement.run import run_refine


def measure(file: Path, folder: Path, max_prompts: int, num_seeds: int, console: Console) -> None:
    """Refine one global embedding, and write what the evaluation finds."""
    name = file.resolve().parent.name
    refined = RefineConfig(
        negative=str(file),
        max_prompts=max_prompts,
        output_dir=folder / f"refined-{name}",
        **preset("world", config=RefineConfig),
    )
    index = run_refine(refined, console=console)
    config = EvaluateConfig(
        # The first two are what the others are compared with.
        negatives=[f"global={file}", "null", "handcrafted", f"per-sample={index}"],
        max_prompts=max_prompts,
        num_seeds=num_seeds,
        output_dir=folder / f"evaluation-{name}",
    )
    results = evaluate(config, console=console)
    write_results(Path(__file__).parent / f"refinement-{name}.json", portable(results))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="global embeddings, one for each seed of learning")
    parser.add_argument("--folder", type=Path, default=Path("runs/results/refinement"))
    parser.add_argument("--max_prompts", type=int, default=67, help="of each of the three styles")
    parser.add_argument("--num_seeds", type=int, default=2, help="noises of each prompt in the evaluation")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for file in arguments.files:
        measure(file, arguments.folder, arguments.max_prompts, arguments.num_seeds, Console(stderr=True))


if __name__ == "__main__":
    main()
