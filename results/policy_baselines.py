"""DDPO and Diffusion-DPO in the bundled world: a learning rate for each, chosen on learning prompts, then a run.

    python results/policy_baselines.py --output_dir FOLDER

For each method some rates are tried in short runs, and the one whose best look of world/monitor is highest is taken
for the longer run. DDPO-Aesthetic takes DDPO-Alignment's rate. All runs are resumable: the same command goes on.
Every look of the monitor is a line of policy_baselines.jsonl; the longer runs' files stay in FOLDER/METHOD.
"""

import argparse
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

from reneg.baselines import BASELINES
from reneg.baselines.policy_config import DdpoConfig, DiffusionDpoConfig, policy_preset
from reneg.checkpoint import list_checkpoints
from reneg.files import write_atomically
from reneg.metrics import read_rows

RESULTS = Path(__file__).with_name("policy_baselines.jsonl")
PRAISED = "reneg.rewards.praise:praised"
Config = DdpoConfig | DiffusionDpoConfig


def ddpo(folder: Path, **changes) -> DdpoConfig:
    """The world's settings with changes."""
    return replace(DdpoConfig(output_dir=folder, **policy_preset("ddpo", "world", "lora")), **changes)


def diffusion_dpo(folder: Path, **changes) -> DiffusionDpoConfig:
    """The world's settings with changes."""
    settings = policy_preset("diffusion-dpo", "world", "lora")
    return replace(DiffusionDpoConfig(output_dir=folder, **settings), **changes)


def run(method: str, config: Config) -> list[dict]:
    """Start a run, go on with it or leave it as it is done; its looks."""
    folder, rows = config.output_dir, read_rows(config.output_dir / "metrics.jsonl")
    done = max((int(row["step"]) for row in rows), default=-1)
    if done < config.max_train_steps or not (folder / "report.html").is_file():
        resume = "latest" if list_checkpoints(folder) else None
        BASELINES[method].run(replace(config, resume_from_checkpoint=resume))
        rows = read_rows(folder / "metrics.jsonl")
    return [look(folder.name, config, row, rows) for row in rows if row["kind"] == "validation"]


def look(name: str, config: Config, row: dict, rows: list[dict]) -> dict:
    """One line of the results: what the monitor saw, and what had been spent by then."""
    before = [other for other in rows if other["step"] <= row["step"]]
    spent = {
        key: sum(other.get(key, 0) for other in before) for key in ("forward_evaluations", "backward_evaluations")
    }
    seconds = sum(other.get("seconds", 0) for other in before)
    measures = {key: row[key] for key in ("reward", "monitor", "saturation", "diversity")}
    facts = {"run": name, "reward_name": config.reward, "learning_rate": config.learning_rate, "step": row["step"]}
    return facts | measures | spent | {"seconds": round(seconds, 1)}


def best_rate(runs: dict[float, list[dict]]) -> float:
    """That of the run whose best look after the first is the highest by the monitor."""
    return max(runs, key=lambda rate: max(row["monitor"] for row in runs[rate] if row["step"] > 0))


def write(rows: list[dict]) -> None:
    """All rows so far."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(RESULTS, lambda path: path.write_text(text, encoding="utf-8"))


def main() -> None:
    """Try the rates, then run; what is done already is read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--dpo_rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--ddpo_rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--dpo_steps", type=int, nargs=2, default=[20, 60], help="of a short and of the longer run")
    parser.add_argument("--ddpo_rounds", type=int, nargs=2, default=[3, 8], help="of a short and of the longer run")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder, rows, tried = options.output_dir, [], {}
    short, long = options.dpo_steps
    pairs = folder / "diffusion-dpo" / "pairs"
    for rate in options.dpo_rates:
        config = diffusion_dpo(folder / f"try-diffusion-dpo-{rate:g}", learning_rate=rate, max_train_steps=short)
        if pairs.is_dir() and not (config.output_dir / "pairs").is_dir():
            shutil.copytree(pairs, config.output_dir / "pairs")
        tried[rate] = run("diffusion-dpo", config)
        if not pairs.is_dir():
            shutil.copytree(config.output_dir / "pairs", pairs)
        rows += tried[rate]
        write(rows)
    config = diffusion_dpo(folder / "diffusion-dpo", learning_rate=best_rate(tried), max_train_steps=long)
    rows += run("diffusion-dpo", config)
    write(rows)
    tried, (short, long) = {}, options.ddpo_rounds
    for rate in options.ddpo_rates:
        name = f"try-ddpo-alignment-{rate:g}"
        tried[rate] = run("ddpo", ddpo(folder / name, learning_rate=rate, max_train_steps=short))
        rows += tried[rate]
        write(rows)
    chosen = best_rate(tried)
    for name, reward in (("ddpo-alignment", "world/preference"), ("ddpo-aesthetic", PRAISED)):
        config = ddpo(folder / name, learning_rate=chosen, max_train_steps=long, reward=reward)
        rows += run("ddpo", config)
        write(rows)


if __name__ == "__main__":
    main()
