"""Which learning rate and which steps refine an embedding best? Learning prompts, reward and monitor alone; no judge.

First every way goes its full number of steps from the global embedding, and some of its states are compared with the
global embedding on fresh noises. Then the rules that choose a state are compared along one way: each prompt's states
are judged on two noises, and what a rule chooses is measured on others.

python results/refine_tuning.py GLOBAL.safetensors      # 30 core-minutes; writes refine_tuning.jsonl, resumable
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import torch

from reneg.evaluation.comparison import thin
from reneg.metrics import read_rows
from reneg.models import load_model
from reneg.negative import NegativeEmbedding
from reneg.refinement.algorithm import gradients, judge
from reneg.refinement.config import RefineConfig
from reneg.refinement.run import global_embedding
from reneg.refinement.state import PromptState, is_better
from reneg.rewards import load_reward
from reneg.targets.weights import holding
from reneg.world import load_prompts

FILE = Path(__file__).with_suffix(".jsonl")
STEPS = 10
LATE = {"trajectory_steps": 13, "grad_step_range": (27, 29), "gradient_steps": 3, "gradient_estimator": "late_steps"}
DRAFT = LATE | {"gradient_estimator": "draft"}
WAYS = [
    {"refine_learning_rate": 1e-2, **DRAFT},
    {"refine_learning_rate": 2e-2, **DRAFT},
    {"refine_learning_rate": 5e-3, **DRAFT},
    {"refine_learning_rate": 4e-2, **DRAFT},
    {"refine_learning_rate": 8e-2, **DRAFT},
    {"refine_learning_rate": 4e-2, **LATE},
    {"refine_learning_rate": 4e-2, "noises_per_prompt": 2, **DRAFT},
    {"refine_learning_rate": 4e-2, **LATE, "grad_step_range": (20, 29), "gradient_steps": 1},
]
LOOKS = (4, 10)
"""Steps whose states are compared on fresh noises."""
FRESH_SEED = 1_000_003
"""Of the noises that no way and no rule has seen."""
Scores = list[dict[str, float]]
"""Of each prompt."""
RULES: dict[str, Callable[[dict, dict, dict], bool]] = {
    "reward": lambda scores, best, first: scores["reward"] > best["reward"],
    "monitor": lambda scores, best, first: scores["monitor"] > best["monitor"],
    "reward, and no lower monitor": is_better,
}


class Bench:
    """The world, the global embedding and the prompts, loaded once."""

    def __init__(self, file: Path, num_prompts: int):
        self.model = load_model("world")
        self.start, _ = global_embedding(self.model, NegativeEmbedding.load(file))
        self.prompts = thin(load_prompts().learn, num_prompts)
        self.reward, self.monitor = load_reward("world/preference"), load_reward("world/monitor")

    def states(self, config: RefineConfig) -> list[PromptState]:
        encoded = [self.model.encode_prompt([prompt]).detach() for prompt in self.prompts]
        pairs = zip(self.prompts, encoded, strict=True)
        return [PromptState(prompt, one, self.start, config.refine_learning_rate) for prompt, one in pairs]

    def advance(self, states: list[PromptState], config: RefineConfig) -> None:
        gradients(self.model, states, self.reward, config)
        for state in states:
            state.update()

    def judge(self, states: list[PromptState], config: RefineConfig) -> Scores:
        return judge(self.model, states, self.reward, self.monitor, config)


def compared(scores: Scores, reference: Scores) -> dict[str, float]:
    """Paired differences over the prompts, with their standard errors."""
    found = {}
    for name in ("reward", "monitor"):
        gains = [own[name] - other[name] for own, other in zip(scores, reference, strict=True)]
        found[f"{name}_gain"] = round(fmean(gains), 4)
        found[f"{name}_gain_se"] = round(stdev(gains) / len(gains) ** 0.5, 4)
    return found


def try_way(bench: Bench, way: dict, fresh_noises: int) -> list[dict]:
    """Some states along one way against the global embedding, on fresh noises."""
    config = RefineConfig(**way)
    fresh = replace(config, seed=FRESH_SEED, judged_noises=fresh_noises)
    states, rows = bench.states(config), []
    before = bench.judge(states, fresh)
    for step in range(1, STEPS + 1):
        bench.advance(states, config)
        if step in LOOKS:
            rows.append({"step": step, **compared(bench.judge(states, fresh), before)})
    return rows


def try_rules(bench: Bench, way: dict, fresh_noises: int) -> list[dict]:
    """What each rule chooses along one way, measured on the noises that it chose by and on fresh ones."""
    config = RefineConfig(**way)
    fresh = replace(config, seed=FRESH_SEED, judged_noises=fresh_noises)
    states, kept = bench.states(config), []
    histories = [[scores] for scores in bench.judge(states, config)]
    before = bench.judge(states, fresh)
    kept.append([[parameter.detach().clone() for parameter in state.parameters] for state in states])
    for _ in range(STEPS):
        bench.advance(states, config)
        kept.append([[parameter.detach().clone() for parameter in state.parameters] for state in states])
        for history, scores in zip(histories, bench.judge(states, config), strict=True):
            history.append(scores)
    rows = []
    for name, better in RULES.items():
        chosen = [choose(history, better, config.patience) for history in histories]
        after = []
        for number, state in enumerate(states):
            with holding(state.parameters, kept[chosen[number][0]][number]):
                after += bench.judge([state], fresh)
        judged = compared([h[c] for h, (c, _) in zip(histories, chosen, strict=True)], [h[0] for h in histories])
        rows.append(
            {
                "rule": name,
                "steps_taken": fmean(taken for _, taken in chosen),
                "step_chosen": fmean(step for step, _ in chosen),
                **{f"judged_{key}": value for key, value in judged.items()},
                **compared(after, before),
            }
        )
    return rows


def choose(history: Scores, better: Callable[[dict, dict, dict], bool], patience: int) -> tuple[int, int]:
    """(step of the best, steps taken) by a rule."""
    best = failures = 0
    for step in range(1, len(history)):
        better_now = better(history[step], history[best], history[0])
        best, failures = (step, 0) if better_now else (best, failures + 1)
        if failures == patience:
            return best, step
    return best, len(history) - 1


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="the global embedding")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--fresh_noises", type=int, default=2)
    parser.add_argument("--ways", type=int, default=len(WAYS), help="so many of the ways")
    parser.add_argument("--rules_of", type=int, help="compare the rules along this way, by its number")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench, done = Bench(arguments.file, arguments.prompts), read_rows(FILE)
    sizes = {"prompts": arguments.prompts, "fresh_noises": arguments.fresh_noises}
    tasks = [({"way": way} | sizes, try_way) for way in WAYS[: arguments.ways]]
    if arguments.rules_of is not None:
        tasks.append(({"way": WAYS[arguments.rules_of], "rules": True} | sizes, try_rules))
    for what, attempt in tasks:
        what = json.loads(json.dumps(what))
        if any(what.items() <= row.items() for row in done):
            continue
        with FILE.open("a") as file:
            for row in attempt(bench, what["way"], arguments.fresh_noises):
                file.write(json.dumps(what | row) + "\n")


if __name__ == "__main__":
    main()
