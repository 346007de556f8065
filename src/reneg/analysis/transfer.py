"""Table 3 and Fig. 7: embeddings on several generators, learned on one and applied to all, and learned on each (§5.4).

Both take the same pictures: Table 3 counts wins against the hand-written negative prompt, Fig. 7 against none.
"""

import io
import json
import logging
from dataclasses import replace
from pathlib import Path

from PIL import Image

from reneg.analysis.config import TransferConfig
from reneg.analysis.methods import METHODS
from reneg.analysis.output import Outcome, write_outcome
from reneg.analysis.paper import TABLE_3
from reneg.analysis.stages import Found, Stage, run_stage, write_plan
from reneg.config import EvaluateConfig, LearnConfig, preset
from reneg.evaluation import evaluate
from reneg.evaluation.comparison import load_groups
from reneg.files import make_output_dir
from reneg.intervals import interval, noises_each
from reneg.models import load_configured
from reneg.negative import NegativeEmbedding

logger = logging.getLogger(__name__)

NULL, N_STAR = "null", "N-star"
"""What both are compared with, by their names in the evaluations."""
LEARNED_ON = "on-"
"""Begins the name of an embedding in the evaluations."""


def short(model: str) -> str:
    """A model's name as a contender's: the folder's own, without what a NAME may not hold."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in Path(model).name)


class Transfer:
    """The stages of both experiments: learn on each generator, then compare on each."""

    def __init__(self, config: TransferConfig):
        self.config, self.root = config, config.stages_dir
        self.given = {short(model): model for model in config.models}
        if len(self.given) < len(config.models):
            raise ValueError(f"--models {config.models}: two have the same name; rename a folder")
        files = [text.partition("=") for text in config.learned]
        self.files = {name: file for name, _, file in files}
        """Model -> an embedding that was learned on it before."""
        if unknown := sorted(self.files.keys() - self.given.keys()):
            raise ValueError(f"--learned: {unknown[0]!r} is none of --models; choose from {', '.join(self.given)}")
        self.found: dict[str, Found] = {}

    def stages(self) -> list[Stage]:
        learning = [self._learn(name) for name in self.given if name not in self.files]
        return learning + [self._evaluate(name) for name in self.given]

    def _learn(self, name: str) -> Stage:
        config, folder = self.config, self.root / name / "learned"
        given = {name: vars(config)[name] for name in ("seed", "revision", "dtype", "device", "reward", "monitor")}
        given |= {"prompts": config.learning_prompts, "model": self.given[name]}
        # The preset is that of the experiment's own model, so that all generators learn alike.
        best = {setting: value for setting, value in preset(config.model).items() if setting not in given}
        folders = {"output_dir": folder, "resume_from_checkpoint": "latest"}
        settings = LearnConfig(trust_remote_code=config.trust_remote_code, **folders | best | given)
        method = METHODS["learn"]

        def run(_: Path) -> Found:
            return {"file": str(method.run(settings))}

        return Stage(f"{name}/learning", given, method.cost(settings, settings.num_validation_prompts), run)

    def _evaluate(self, name: str) -> Stage:
        config = self.config
        settings = config.evaluation(self.given[name], self.root / name / f"evaluation-{config.set_name()}")
        count = sum(len(prompts) for prompts in load_groups(settings).values())

        def run(_: Path) -> Found:
            files = {other: self.files.get(other) or self.found[f"{other}/learning"]["file"] for other in self.given}
            negatives = [f"{NULL}=null", f"{N_STAR}=handcrafted"]
            negatives += [f"{LEARNED_ON}{other}={file}" for other, file in fitting(settings, files).items()]
            evaluate(replace(settings, negatives=negatives))
            return {"folder": str(settings.output_dir)}

        pictures = count * config.num_seeds * (2 + len(self.given))
        depends = {"models": config.models, "prompts": config.prompts, "num_prompts": count, "seed": settings.seed}
        depends |= {"rewards": config.rewards, "num_seeds": config.num_seeds, "learned": config.learned}
        return Stage(self._evaluating(name), depends, 2 * config.num_inference_steps * pictures, run)

    def _evaluating(self, name: str) -> str:
        """The stage that compares the embeddings on a generator."""
        return f"{name}/evaluating-{self.config.set_name()}"

    def run(self) -> dict[str, dict]:
        """All stages; gives what evaluate tells of each generator."""
        for stage in self.stages():
            self.found[stage.name] = run_stage(self.root, stage)
        folders = {name: Path(self.found[self._evaluating(name)]["folder"]) for name in self.given}
        return {
            name: json.loads((folder / "results.json").read_text(encoding="utf-8")) for name, folder in folders.items()
        }


def fitting(settings: EvaluateConfig, files: dict[str, str]) -> dict[str, str]:
    """Those embeddings that are of a model's text encoder: SD 2.1 has another than SD 1.x."""
    model, usable = load_configured(settings, device=settings.device), {}
    null = model.encode_negative_prompt([""]).filled().prompt_embeds
    for name, file in files.items():
        try:
            NegativeEmbedding.load(file).check_encoder(null, model.name)
        except ValueError as error:
            logger.info("%s: left out the embedding learned on %s (%s)", model.name, name, error)
        else:
            usable[name] = file
    return usable


def run_table_3(config: TransferConfig) -> Path:
    """`reneg reproduce table3`; gives the table's file, or the plan's.

    Raises:
        ValueError, OSError: with one line that names the flag.
        FloatingPointError: a reward or the gradient became NaN or infinite in learning.
    """
    return _run(config, N_STAR, "Table 3: wins against the hand-written negative prompt on several generators")


def run_fig_7(config: TransferConfig) -> Path:
    """`reneg reproduce fig7`, as `run_table_3`."""
    return _run(config, NULL, "Fig. 7: wins against no negative on several generators")


def _run(config: TransferConfig, base: str, title: str) -> Path:
    make_output_dir(config.output_dir)
    transfer = Transfer(config)
    if config.dry_run:
        return write_plan(config.stages_dir, transfer.stages(), config.evaluations_per_second)
    results = transfer.run()
    images = {"wins.png": ("Wins by embedding on each generator; 95 % intervals", _bars(results, base))}
    return write_outcome(
        config, Outcome(title, _text(config, base), _rows(results, base), _content(results, base), images)
    )


def win_rates(results: dict, base: str) -> dict[str, dict[str, dict[str, dict]]]:
    """Embedding -> reward -> group, and "average" over all prompts -> win rate against a base."""
    scopes = results["groups"] | {"average": results["overall"]}
    names = [name for name in results["overall"]["negatives"] if name.startswith(LEARNED_ON)]
    return {
        name: {
            reward: {
                group: scope["negatives"][name]["rewards"][reward]["win_rate"][base] for group, scope in scopes.items()
            }
            for reward in results["rewards"]
        }
        for name in names
    }


def _rows(results: dict[str, dict], base: str) -> list[dict[str, str]]:
    rows = []
    for model, told in results.items():
        for name, of_rewards in win_rates(told, base).items():
            for reward, rates in of_rewards.items():
                judge = " (judge)" if reward in told["judges"] else ""
                row = {"generator": model, "learned on": name.removeprefix(LEARNED_ON), "reward": f"{reward}{judge}"}
                row |= {group: interval(rate, percent=True) for group, rate in rates.items()}
                if base == N_STAR and reward == "hpsv2.1":
                    row |= {f"paper: {group}": f"{rate:.0%}" for group, rate in TABLE_3.get(model, {}).items()}
                rows.append(row)
    return rows


def _content(results: dict[str, dict], base: str) -> dict:
    generators = {
        model: {
            "num_prompts": told["overall"]["num_prompts"],
            "rewards": told["rewards"],
            "judges": told["judges"],
            "means": {
                name: {reward: figures["rewards"][reward]["mean"] for reward in told["rewards"]}
                for name, figures in told["overall"]["negatives"].items()
            },
            "wins": win_rates(told, base),
        }
        for model, told in results.items()
    }
    return {"against": base, "generators": generators, "paper": TABLE_3 if base == N_STAR else {}}


def _text(config: TransferConfig, base: str) -> str:
    what = "the hand-written negative prompt N*" if base == N_STAR else "the null text"
    said = (
        "The paper's figures are by HPSv2.1 on HPSv2."
        if base == N_STAR
        else "The paper's bars are on PartiPrompts, and print no figures; its caption says without ReNeg, its text "
        "against N*, so both are counted here (Table 3 has the other)."
    )
    return (
        f"Wins against {what} on the same prompts and noises, ties as halves, with 95 % intervals over prompts; "
        f"{noises_each(config.num_seeds)}, guidance {config.guidance_scale:g}. Every embedding is applied to every "
        "generator that has its text encoder: learned on the same one or on another. All are learned with the "
        f"settings of {config.model}.\n\n{said}"
    )


def _bars(results: dict[str, dict], base: str) -> Image.Image:
    """Bars of the wins on every generator, by the judges or, without them, by all rewards."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(results) + 1, 3.2), layout="constrained", dpi=100)
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (model, told) in zip(panels, results.items(), strict=True):
        rates, rewards = win_rates(told, base), told["judges"] or told["rewards"]
        width = 0.8 / max(1, len(rewards))
        for number, reward in enumerate(rewards):
            values = [of[reward]["average"] for of in rates.values()]
            places = [place + (number - (len(rewards) - 1) / 2) * width for place in range(len(rates))]
            means = [100 * value["mean"] for value in values]
            ends = [[100 * abs(value[end] - value["mean"]) for value in values] for end in ("low", "high")]
            axes.bar(places, means, 0.9 * width, yerr=ends, label=reward, error_kw={"linewidth": 0.8})
        axes.axhline(50, color="black", linewidth=0.8)
        axes.set_xticks(range(len(rates)), [name.replace(LEARNED_ON, "on ") for name in rates], fontsize=8)
        axes.set_title(model, fontsize=10)
        axes.set_ylim(0, 100)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(f"wins against {base}, %")
    figure.axes[0].legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return Image.open(buffer).convert("RGB")
