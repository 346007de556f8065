"""Reward against cost: the paper's scheme, after its own sweep, and the others of the field, on the judges.

    python results/frontier.py sweep     # rate, then batch, of the paper's scheme and of `fast`, by the monitor
    python results/frontier.py pairs     # both as they were chosen, five seeds, judged along the way
    python results/frontier.py others    # the estimators at the rate and batch of `fast`, three seeds
    python results/frontier_summary.py   # writes frontier.json, frontier.md and frontier.png from what is there

Every run of a stage has the same budget of evaluations of the denoiser, a backward pass counted as two. Each stage
goes on where it was interrupted, and several may run beside each other with different `--seeds` or `--schemes`. A
learning run takes about five minutes of one core, or two for the others, and a judged state half a minute.
"""

import argparse
import json
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from reneg.checkpoint import checkpoint_name, list_checkpoints, load_checkpoint
from reneg.config import LearnConfig
from reneg.effort import learning_effort
from reneg.evaluation.comparison import thin
from reneg.files import write_atomically
from reneg.generation import generate, picture_generators, picture_noise
from reneg.interfaces import Conditioning, GradientPolicy
from reneg.learning import learn
from reneg.metrics import read_rows
from reneg.models import load_model
from reneg.rewards import load_reward
from reneg.run_folder import METRICS
from reneg.world import load_prompts

BUDGET = 30_000
"""Evaluations of the denoiser for a run, a backward pass counted as two."""
OTHERS_BUDGET = 9_600
"""For the stage `others`: a third of that, where the judges still rise."""
BATCH = 16
RATES = {"paper": (2.5e-3, 5e-3, 1e-2), "fast": (2e-2, 4e-2)}
BATCHES = {"paper": (8, 32), "fast": ()}
"""Tried at the best rate, beside BATCH. The paper's scheme gets the wider sweep."""
JUDGED_PROMPTS, JUDGED_SEED = 60, 4321
FOLDER = Path("runs/results/frontier")
JUDGES = ("world/judge", "world/aesthetic", "world/preference")
FINE, COARSE, LAST_POINT = (1, 2, 3, 4, 6, 16), (8, 16), (16,)
"""Sixteenths of the budget at which a run's states are judged."""
LAST = {"grad_step_range": (27, 29), "gradient_steps": 3}
FAST = {"trajectory_steps": 13}
PAIR: dict[str, dict] = {
    "paper": {"grad_step_range": (20, 29), "gradient_steps": 1},
    "fast": {**LAST, "trajectory_steps": 9},
}
OTHERS: dict[str, dict] = {
    "last three, fast": {**LAST, **FAST},
    "last three": LAST,
    "one of the last three, fast": {"grad_step_range": (27, 29), "gradient_steps": 1, **FAST},
    "all of the last ten, fast": {"grad_step_range": (20, 29), "gradient_steps": 10, **FAST},
    "draft-3, fast": {**LAST, **FAST, "gradient_estimator": "draft"},
    "draft-lv-3, fast": {**LAST, **FAST, "gradient_estimator": "draft_lv"},
    "antithetic, fast": {**LAST, **FAST, "noises_per_prompt": 2, "antithetic": True},
    "pool of the last three, fast": {**LAST, **FAST, "gradient_estimator": "pool", "train_batch_size": 15},
}
SCHEMES = PAIR | OTHERS
POINTS = {"paper": COARSE, "fast": FINE}
SEEDS = {"pairs": range(5), "others": range(3)}
POLICY = GradientPolicy(positive=False, negative=True)


def cost(config: LearnConfig, updates: int) -> dict[str, int]:
    """What so many updates take, without the monitor's looks."""
    return learning_effort(config, POLICY, updates=updates, num_processes=1, pictures_of_a_look=0)


def evaluations(counts: dict[str, int]) -> int:
    """Of the denoiser; a backward pass counts as two."""
    return counts["denoiser_evaluations"] + 2 * counts["denoiser_backward_evaluations"]


def configure(folder: Path, scheme: str, rate: float, batch: int, seed: int, budget: int = BUDGET) -> LearnConfig:
    """A run of one scheme: as many updates as come next to the budget, every state kept."""
    config = LearnConfig(
        **{"train_batch_size": batch} | SCHEMES[scheme],
        learning_rate=rate,
        seed=seed,
        checkpointing_steps=1,
        checkpoints_total_limit=1000,
        num_validation_prompts=24,
        output_dir=folder / f"{scheme}, {rate:g}, {batch}" / f"seed-{seed}",
    )
    updates = round(budget / (evaluations(cost(config, 100)) / 100))
    return replace(config, max_train_steps=updates, validation_steps=updates)


def learned(config: LearnConfig) -> list[dict]:
    """Run it, go on with it, or leave it as it is done; the rows of its metrics."""
    if not (config.output_dir / "report.html").is_file():
        resume = "latest" if list_checkpoints(config.output_dir) else None
        learn(replace(config, resume_from_checkpoint=resume))
    return read_rows(config.output_dir / METRICS)


@cache
def scorers():
    """The model, and the judges, which only judging loads."""
    return load_model("world"), {name: load_reward(name) for name in JUDGES}


@torch.no_grad()
def judged(negative: torch.Tensor) -> dict[str, float]:
    """Means of each judge over evaluation prompts, always from the same noises, which learning never saw."""
    model, judges = scorers()
    prompts = thin([prompt for group in load_prompts().evaluate.values() for prompt in group], JUDGED_PROMPTS)
    totals = dict.fromkeys(judges, 0.0)
    for first in range(0, len(prompts), BATCH):
        part = prompts[first : first + BATCH]
        noise = picture_noise(model, picture_generators(JUDGED_SEED, first, len(part)))
        pictures = generate(model, part, Conditioning(negative), noise)
        for name, judge in judges.items():
            totals[name] += float(judge(pictures, part).sum())
    return {name: total / len(prompts) for name, total in totals.items()}


def judge_run(config: LearnConfig, points: tuple[int, ...]) -> list[dict]:
    """The judged states of a finished run, in order; what was judged before is not judged again."""
    path = config.output_dir / "judged.json"
    rows = json.loads(path.read_text()) if path.is_file() else {}
    updates = config.max_train_steps
    for step in sorted({round(updates * point / 16) for point in points}):
        if str(step) not in rows:
            state = load_checkpoint(config.output_dir / checkpoint_name(step))
            rows[str(step)] = judged(state.parameters[0])
            write_json(path, rows)
    seconds = [row["seconds"] for row in read_rows(config.output_dir / METRICS) if row["kind"] == "update"]
    return [
        {"step": step, **cost(config, step), "seconds": round(sum(seconds[:step]), 1)}
        | {"judged": {name: round(mean, 4) for name, mean in rows[str(step)].items()}}
        for step in sorted(map(int, rows))
    ]


def write_json(path: Path, content: dict) -> None:
    """Whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1)))


def null_scores(folder: Path) -> dict[str, float]:
    """The judges' means of the null text, on the same prompts and noises."""
    path = folder / "null.json"
    if not path.is_file():
        null = scorers()[0].encode_prompt([""]).prompt_embeds
        write_json(path, judged(null))
    return json.loads(path.read_text())


def monitor_at_end(config: LearnConfig) -> float:
    """The monitor's mean at a run's last look."""
    return [row["monitor"] for row in learned(config) if row["kind"] == "validation"][-1]


def choose(folder: Path, scheme: str) -> tuple[float, int, list[dict]]:
    """The rate at BATCH, then the batch at that rate, by the monitor, seed 0."""
    rows = []

    def tried(rate: float, batch: int) -> float:
        config = configure(folder, scheme, rate, batch, 0)
        rows.append({"learning_rate": rate, "train_batch_size": batch, "updates": config.max_train_steps})
        rows[-1]["monitor"] = round(monitor_at_end(config), 4)
        return rows[-1]["monitor"]

    rate = max(RATES[scheme], key=lambda rate: tried(rate, BATCH))
    tried_at = {BATCH: max(row["monitor"] for row in rows)} | {batch: tried(rate, batch) for batch in BATCHES[scheme]}
    return rate, max(tried_at, key=tried_at.__getitem__), rows


def pair_of(folder: Path, scheme: str, seed: int) -> LearnConfig:
    """A scheme with what its sweep chose."""
    return configure(folder, scheme, *choose(folder, scheme)[:2], seed)


def other_of(folder: Path, scheme: str, seed: int) -> LearnConfig:
    """A scheme with what the sweep of `fast` chose; nothing is chosen here, so the monitor hardly looks."""
    rate, batch, _ = choose(folder, "fast")
    config = configure(folder / "others", scheme, rate, batch, seed, OTHERS_BUDGET)
    return replace(config, num_validation_prompts=2)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["sweep", "pairs", "others"])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--schemes", nargs="+", choices=list(SCHEMES))
    parser.add_argument("--seeds", type=int, nargs="+")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stage = arguments.stage
    if stage == "sweep":
        for scheme in arguments.schemes or PAIR:
            logging.info("%s: rate %g, batch %d, of %s", scheme, *choose(arguments.folder, scheme))
        return
    run_of, schemes = (pair_of, PAIR) if stage == "pairs" else (other_of, OTHERS)
    for scheme in arguments.schemes or schemes:
        for seed in arguments.seeds or SEEDS[stage]:
            config = run_of(arguments.folder, scheme, seed)
            learned(config)
            judge_run(config, POINTS[scheme] if stage == "pairs" else LAST_POINT)


if __name__ == "__main__":
    main()
