"""Scores -> the figures of results.json."""

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from reneg.config import EvaluateConfig
from reneg.effort import LEARNING_COUNTS
from reneg.evaluation.comparison import Comparison
from reneg.evaluation.contenders import Contender
from reneg.evaluation.negatives import OneForAll
from reneg.evaluation.statistics import bootstrap, prompt_means, prompt_wins
from reneg.files import write_atomically
from reneg.provenance import code_version

RESULTS = "results.json"
JUDGES = ("world/judge", "world/aesthetic")
"""Rewards that nothing is trained on or picked by: claims are decided on them."""


@dataclass(frozen=True)
class Scores:
    """What was measured, by negative, prompt and noise."""

    rewards: Float[ndarray, "n r p s"]
    """The score of each negative's picture by each reward."""
    measures: dict[str, Float[ndarray, "n p"]]
    """Each prompt's saturation and share of clipped values, and its diversity where it has more than one noise."""
    real: Float[ndarray, "r m"] | None
    """The scores of the real pictures."""


def summarise(comparison: Comparison, config: EvaluateConfig, scores: Scores) -> dict:
    """Everything of results.json but the work that it took."""
    names = [reward.name for reward in comparison.rewards]
    groups = np.array(comparison.prompt_groups)
    group_of = dict(zip(comparison.prompts, comparison.prompt_groups, strict=True))
    real_groups = np.array([group_of.get(p, "") for p in comparison.real.prompts] if comparison.real else [])
    overall = _scope(comparison, scores, np.full(len(groups), True), np.full(len(real_groups), True))
    return {
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()},
        "versions": versions(),
        "negatives": [described(contender, config.num_inference_steps) for contender in comparison.contenders],
        "bases": [contender.name for contender in comparison.contenders[:2]],
        "rewards": names,
        "judges": [name for name in names if name in JUDGES],
        "fingerprints": comparison.fingerprints,
        "prompts_sha256": hashlib.sha256("\n".join(comparison.prompts).encode()).hexdigest(),
        "overall": overall,
        "groups": {
            group: _scope(comparison, scores, groups == group, real_groups == group) for group in comparison.groups
        },
        "notes": notes(overall),
    }


def described(contender: Contender, num_inference_steps: int) -> dict:
    """What a contender is, and what it costs, for results.json.

    `sha256` and `metadata` are those of a negative that all prompts share; `read_evaluation` finds a file by it, so
    that contenders which change more have none.
    """
    alone = len(contender.parts) == 1 and isinstance(contender.negative, OneForAll) and contender.weights is None
    return {
        "name": contender.name,
        "value": contender.value,
        "kind": contender.kind,
        "guidance_scale": contender.guidance_scale,
        "sha256": contender.negative.content() if alone else None,
        "metadata": contender.parts[0].metadata if alone else {},
        "parts": [
            {
                "value": part.value,
                "kind": part.kind,
                "sha256": part.sha256,
                "bytes": part.num_bytes,
                "metadata": part.metadata,
            }
            for part in contender.parts
        ],
        "cost": cost_of(contender, num_inference_steps),
    }


def cost_of(contender: Contender, num_inference_steps: int) -> dict:
    """What a contender takes: to store, for each picture, for each prompt beforehand, and once to learn.

    Counts that a part does not tell are left out, so that nothing unknown reads as nothing spent.
    """
    learning: dict[str, int] = {}
    per_prompt: dict[str, float] = {}
    for part in contender.parts:
        for name in LEARNING_COUNTS:
            if part.metadata.get(name, "").isdecimal():
                learning[name] = learning.get(name, 0) + int(part.metadata[name])
        for name, mean in part.counts.items():
            per_prompt[name] = per_prompt.get(name, 0) + mean
    return {
        "bytes": sum(part.num_bytes for part in contender.parts),
        "denoiser_evaluations_per_picture": 2 * num_inference_steps,
        "per_prompt": per_prompt,
        "learning": learning,
    }


def _scope(comparison: Comparison, scores: Scores, prompts: Bool[ndarray, " p"], real: Bool[ndarray, " m"]) -> dict:
    """The figures over some of the prompts, and over some of the real pictures."""
    columns: dict[tuple[str, ...], Float[ndarray, " q"]] = {}
    for n, contender in enumerate(comparison.contenders):
        for r, reward in enumerate(comparison.rewards):
            own, path = scores.rewards[n, r, prompts], (contender.name, "rewards", reward.name)
            columns[*path, "mean"] = prompt_means(own)
            for b, base in enumerate(comparison.contenders[:2]):
                if b != n:
                    other = scores.rewards[b, r, prompts]
                    columns[*path, "difference", base.name] = prompt_means(own - other)
                    columns[*path, "win_rate", base.name] = prompt_wins(own, other)
        for measure, values in scores.measures.items():
            columns[contender.name, measure] = values[n, prompts]
    tree: dict = {}
    estimates = bootstrap(np.stack(list(columns.values()), axis=1))
    for path, estimate in zip(columns, estimates, strict=True):
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = asdict(estimate)
    scope = {"num_prompts": int(prompts.sum()), "negatives": tree, "real": None}
    if scores.real is not None and real.any():
        of_real = bootstrap(scores.real[:, real].T)
        of_reward = {reward.name: asdict(e) for reward, e in zip(comparison.rewards, of_real, strict=True)}
        scope["real"] = {"num_pictures": int(real.sum()), "rewards": of_reward}
    return scope


def notes(overall: dict) -> list[str]:
    """What a reader should not miss: negatives that score above real pictures."""
    if overall["real"] is None:
        return []
    found = []
    for reward, real in overall["real"]["rewards"].items():
        means = {name: figures["rewards"][reward]["mean"]["mean"] for name, figures in overall["negatives"].items()}
        best = max(means, key=means.__getitem__)
        if means[best] > real["mean"]:
            found.append(
                f"Warning: on {reward}, {best} ({means[best]:.3f}) scores above the real clean pictures "
                f"({real['mean']:.3f}). If its pictures look worse than real ones, this is reward hacking."
            )
    return found


def versions() -> dict[str, str]:
    """The versions that the figures were made with."""
    packages = {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
    return {"reneg": code_version(), "python": platform.python_version()} | packages


def write_results(comparison: Comparison, config: EvaluateConfig, scores: Scores, results: dict) -> None:
    """Write scores.jsonl (one line a picture), then results.json, each atomically."""
    rewards = [reward.name for reward in comparison.rewards]

    def write_scores(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            for n, contender in enumerate(comparison.contenders):
                for p, prompt in enumerate(comparison.prompts):
                    for s in range(config.num_seeds):
                        values = scores.rewards[n, :, p, s].tolist()
                        line = {
                            "negative": contender.name,
                            "group": comparison.prompt_groups[p],
                            "prompt": prompt,
                            "noise": s,
                            "picture": p * config.num_seeds + s,
                            "scores": dict(zip(rewards, values, strict=True)),
                        }
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")

    write_atomically(config.output_dir / "scores.jsonl", write_scores)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(config.output_dir / RESULTS, lambda path: path.write_text(text, encoding="utf-8"))
