"""Table 2: every method made, tuned alike, and compared on the same prompts and noises."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from reneg.analysis.config import Table2Config, experiment_file
from reneg.analysis.methods import METHODS, Method
from reneg.analysis.output import Outcome, spread, write_outcome
from reneg.analysis.paper import TABLE_2, TABLE_2_COLUMNS
from reneg.analysis.rows import Row, chosen_rows, read_table
from reneg.analysis.stages import Found, Stage, run_stage, write_plan
from reneg.evaluation import evaluate
from reneg.evaluation.comparison import load_groups
from reneg.files import make_output_dir, write_atomically
from reneg.hub import BEFORE_AFTER
from reneg.intervals import interval, noises_each
from reneg.prompts import read_prompts
from reneg.world import load_prompts

PASSED_ON = ("model", "revision", "dtype", "trust_remote_code", "device")
"""Settings of the experiment that every command gets."""


class Table2:
    """The stages of a comparison, row by row, and what they found so far."""

    def __init__(self, config: Table2Config):
        self.config, self.root = config, config.output_dir
        self.rows = chosen_rows(read_table(config.table or experiment_file("table2_rows", config.model)), config.rows)
        groups = load_prompts().learn if config.learning_prompts is None else _flat(config.learning_prompts)
        self.tuning = spread(groups, config.num_tuning_prompts)
        held_out = set(self.tuning)
        self.learning = [prompt for prompt in dict.fromkeys(groups) if prompt not in held_out]
        self.evaluation_folder = self.root / f"evaluation-{config.set_name()}"
        self._evaluated = config.evaluation(config.model, self.evaluation_folder)
        self.num_evaluated = sum(len(prompts) for prompts in load_groups(self._evaluated).values())
        self.found: dict[str, Found] = {}
        """Stage -> what it found."""

    def prompts_file(self, name: str) -> Path:
        return self.root / f"{name}.txt"

    def write_prompts(self) -> None:
        """The two parts of the learning prompts, for the commands."""
        for name, prompts in {"learning": self.learning, "tuning": self.tuning}.items():
            text = "".join(f"{prompt}\n" for prompt in prompts)
            write_atomically(self.prompts_file(name), lambda path, text=text: path.write_text(text, encoding="utf-8"))

    # The stages of a row

    def stages(self, row: Row) -> list[Stage]:
        """Make it with each value of its sweep, choose among them, choose a guidance scale, make what the evaluation
        needs of its own, and evaluate it beside the rows before."""
        stages = []
        method = METHODS[row.command] if row.command else None
        values, scales = self.sweep_values(row), self.config.guidance_scales if row.scales is None else row.scales
        if method:
            stages += [self._make(row, method, value, tuning=True) for value in values]
        if len(values) > 1:
            stages.append(self._choose(row, "value", {str(value): (value, None) for value in values}))
        if len(scales) > 1:
            stages.append(self._choose(row, "scale", {str(scale): (None, scale) for scale in scales}))
        if method and method.promptwise:
            stages.append(self._make(row, method, None, tuning=False))
        pictures = self.num_evaluated * self.config.num_seeds * (2 if len(scales) > 1 else 1)
        stages.append(
            Stage(
                f"{row.name}/evaluated-{self.config.set_name()}-{self.num_evaluated}",
                {"num_seeds": self.config.num_seeds, "seed": self.config.evaluation_seed},
                2 * self.config.num_inference_steps * pictures,
                lambda folder: self._evaluate_up_to(row),
            )
        )
        return stages

    @staticmethod
    def sweep_values(row: Row) -> list:
        return next(iter(row.sweep.values()), [None])

    def _make(self, row: Row, method: Method, value: Any, *, tuning: bool) -> Stage:
        """Run a row's command: for all prompts alike, or for those of tuning, or for those of the evaluation.

        Args:
            value: of the sweep; for the evaluation the one that was chosen is taken.
        """
        given = {name: vars(self.config)[name] for name in PASSED_ON} | {"seed": self.config.seed} | row.settings
        if not method.promptwise:
            given["prompts"], count, name = self.prompts_file("learning"), len(self.learning), "all"
        elif tuning:
            given["prompts"], count, name = self.prompts_file("tuning"), len(self.tuning), "of-tuning"
        else:
            given |= {"prompts": self.config.prompts, "max_prompts": self.config.max_prompts}
            count, name = self.num_evaluated, self.config.set_name()
        if tuning and value is not None:
            name += f"-{value}"

        def settings(folder: Path, value: Any) -> Any:
            swept = {setting: value for setting in row.sweep}
            start = {"negative": self.value(row.starts_from, tuning=True)} if row.starts_from else {}
            return method.settings(self.config.model, given | swept | start | {"output_dir": folder})

        def run(_: Path) -> Found:
            chosen = value if tuning else self.chosen(row)
            return {"file": str(method.run(settings(self.root / row.name / name, chosen))), "value": chosen}

        priced = self.sweep_values(row)[0] if value is None else value
        swept = {setting: priced for setting in row.sweep}
        cost = method.cost(method.settings(self.config.model, given | swept), count)
        depends = given | {"command": row.command, "swept": row.sweep and {next(iter(row.sweep)): value}}
        # More prompts of the evaluation go on in the same folder.
        stage = f"{row.name}/made-{name}" if tuning else self._own_stage(row.name)
        return Stage(stage, depends | self._sets(), cost, run)

    def _own_stage(self, name: str) -> str:
        """The stage that makes what a row has for each prompt of the evaluation."""
        return f"{name}/made-{self.config.set_name()}-{self.num_evaluated}"

    def _sets(self) -> dict[str, Any]:
        """What identifies the prompts."""
        return {"num_tuning_prompts": len(self.tuning), "num_learning_prompts": len(self.learning)}

    def _choose(self, row: Row, what: str, candidates: dict[str, tuple[Any, float | None]]) -> Stage:
        """Draw the tuning prompts with each candidate, (value of the sweep, guidance scale), and keep the best."""
        config = self.config

        def run(_: Path) -> Found:
            negatives = [f"{key}={self.value(row.name, tuning=True, value=v)}" for key, (v, _) in candidates.items()]
            scales = [f"{key}={scale}" for key, (_, scale) in candidates.items() if scale is not None]
            settings = replace(
                self._evaluated,
                negatives=negatives,
                scales=scales,
                prompts=self.prompts_file("tuning"),
                max_prompts=None,
                rewards=[config.monitor],
                published=False,
                num_seeds=config.num_tuning_seeds,
                seed=config.tuning_seed,
                output_dir=self.root / row.name / "tuning",  # of both choices: some pictures serve both
            )
            results = evaluate(settings)
            (reward,) = results["rewards"]
            told = results["overall"]["negatives"]
            scores = {key: told[key]["rewards"][reward]["mean"] for key in candidates}
            best = max(scores, key=lambda key: scores[key]["mean"])
            value, scale = candidates[best]
            return {"scores": scores, "chosen": value if scale is None else scale}

        known = what == "scale" and str(config.guidance_scale) in candidates and len(self.sweep_values(row)) > 1
        pictures = (len(candidates) - known) * len(self.tuning) * config.num_tuning_seeds
        depends = {"candidates": list(candidates), "monitor": config.monitor, "seed": config.tuning_seed}
        depends |= {"num_seeds": config.num_tuning_seeds, "steps": config.num_inference_steps} | self._sets()
        return Stage(f"{row.name}/choose-{what}", depends, 2 * config.num_inference_steps * pictures, run)

    # What was found

    def chosen(self, row: Row) -> Any:
        """The value of the sweep that was chosen; the only one if there is no more; None without a sweep."""
        values = self.sweep_values(row)
        return self.found[f"{row.name}/choose-value"]["chosen"] if len(values) > 1 else values[0]

    def scale(self, name: str) -> float | None:
        """The guidance scale that was chosen for a row; None if there was nothing to choose."""
        found = self.found.get(f"{name}/choose-scale")
        return None if found is None else found["chosen"]

    def value(self, name: str, *, tuning: bool, value: Any = None) -> str:
        """What evaluate takes for a row, on the tuning prompts or on those of the evaluation.

        Args:
            value: of its sweep; None for the one that was chosen.
        """
        row = self.rows[name]
        if row.parts:
            return " + ".join(self.value(part, tuning=tuning) for part in row.parts)
        if row.command is None:
            assert row.value is not None
            return row.value
        promptwise, several = METHODS[row.command].promptwise, self.sweep_values(row) != [None]
        if promptwise and not tuning:
            return self.found[self._own_stage(name)]["file"]
        stage = f"{name}/made-{'of-tuning' if promptwise else 'all'}"
        if several:
            stage += f"-{self.chosen(row) if value is None else value}"
        return self.found[stage]["file"]

    # All together

    def run(self) -> dict:
        """All stages of all rows; gives what evaluate tells of them."""
        self.write_prompts()
        for row in self.rows.values():
            for stage in self.stages(row):
                self.found[stage.name] = run_stage(self.root, stage)
        return self.evaluate(list(self.rows))

    def _evaluate_up_to(self, row: Row) -> Found:
        names = list(self.rows)[: list(self.rows).index(row.name) + 1]
        if len(names) > 1:  # one alone is compared with nothing; its pictures are made with the next
            write_table(self, self.evaluate(names))
        return {}

    def evaluate(self, names: Sequence[str]) -> dict:
        """Compare rows, each with its own guidance scale, and once more with the common one where it chose another;
        pictures that are there are not made again."""
        common = self.config.guidance_scale
        tuned = {name: scale for name in names if (scale := self.scale(name)) is not None}
        again = {name: at_common_scale(name, common) for name, scale in tuned.items() if scale != common}
        # The rows first: wins are counted against the first two, null and N*.
        negatives = [f"{name}={self.value(name, tuning=False)}" for name in names]
        negatives += [f"{other}={self.value(name, tuning=False)}" for name, other in again.items()]
        scales = [f"{name}={scale}" for name, scale in tuned.items()]
        scales += [f"{other}={common}" for other in again.values()]
        return evaluate(replace(self._evaluated, negatives=negatives, scales=scales))


def at_common_scale(name: str, scale: float) -> str:
    """The name of a row's second line, with the guidance scale that all have in common."""
    return f"{name}-at-{scale:g}"


def _flat(prompts: Path) -> list[str]:
    return [prompt for group in read_prompts(prompts).values() for prompt in group]


def run_table_2(config: Table2Config) -> Path:
    """`reneg reproduce table2`; gives the table's file, or the plan's.

    Raises:
        ValueError, OSError: with one line that names the flag.
        FloatingPointError: a reward or the gradient became NaN or infinite while a row was made.
    """
    make_output_dir(config.output_dir)
    table = Table2(config)
    if not config.dry_run:
        return write_table(table, table.run())
    stages = [stage for row in table.rows.values() for stage in table.stages(row)]
    return write_plan(config.output_dir, stages, config.evaluations_per_second)


def write_table(table: Table2, results: dict) -> Path:
    """Write what an evaluation tells of the rows, with what was chosen for each and the paper's figures."""
    config, told = table.config, {negative["name"]: negative for negative in results["negatives"]}
    rows, content = [], {}
    figures_of, common = results["overall"]["negatives"], config.guidance_scale
    lines = [(own, row) for row in table.rows.values() for own in (row.name, at_common_scale(row.name, common))]
    for name, row in [line for line in lines if line[0] in figures_of]:
        figures = figures_of[name]
        chosen = table.chosen(row) if row.sweep else None
        cells = {"method": name, "scale": f"{told[name]['guidance_scale']:g}"}
        cells |= {"chosen": "" if chosen is None else f"{next(iter(row.sweep))} {chosen}"}
        for reward in results["rewards"]:
            judge = " (judge)" if reward in results["judges"] else ""
            cells[f"{reward}{judge}"] = interval(figures["rewards"][reward]["mean"], digits=2)
        for reward in results["judges"] or results["rewards"]:
            for base in results["bases"]:
                rate = figures["rewards"][reward].get("win_rate", {}).get(base)
                cells[f"wins on {reward} against {base}"] = "" if rate is None else interval(rate, percent=True)
        cells |= _costs(told[name]["cost"]) | _paper(row)
        rows.append(cells)
        content[name] = {"chosen": chosen, "guidance_scale": told[name]["guidance_scale"], "cost": told[name]["cost"]}
        content[name]["figures"] = figures
    kept = {name: results[name] for name in ("rewards", "judges", "bases", "prompts_sha256", "notes")}
    kept |= {"num_prompts": results["overall"]["num_prompts"], "num_seeds": config.num_seeds}
    kept["groups"] = results["groups"]
    tuning = {stage: found for stage, found in table.found.items() if "/choose-" in stage}
    outcome = Outcome(
        "Table 2: the methods compared",
        _text(table, results),
        rows,
        {"rows": content, "evaluation": kept, "tuning": tuning, "paper": TABLE_2},
        {
            "before_after.png": (
                "The first noise of prompts spread evenly, in each row's own scale",
                _pictures(table.evaluation_folder),
            )
        },
    )
    return write_outcome(config, outcome)


def _text(table: Table2, results: dict) -> str:
    config, overall = table.config, results["overall"]
    return (
        f"{overall['num_prompts']} prompts, {noises_each(config.num_seeds)} that no choice ever saw, the same for all "
        "rows; means, and wins with ties as halves, with 95 % intervals over prompts. Claims are decided on the "
        "judges.\n\n"
        f"Every row is tuned alike, by {config.monitor} on {len(table.tuning)} learning prompts from which nothing is "
        "learned: first the value of its sweep, then its guidance scale. Where that is another than "
        f"{config.guidance_scale:g}, a second line has the row at {config.guidance_scale:g}. Costs are evaluations of "
        "the denoiser and of its backward pass, in one learning run; tuning comes on top, alike for all.\n\n"
        f"The paper's figures are of SD 1.5, and stand on other scales.\n\n{' '.join(results['notes'])}"
    ).strip()


def _costs(cost: dict) -> dict[str, str]:
    learning, prompt = cost["learning"], cost["per_prompt"]
    return {
        "to learn": f"{learning['denoiser_evaluations']:,}" if "denoiser_evaluations" in learning else "",
        "for a prompt": f"{prompt['denoiser_evaluations']:,.0f}" if "denoiser_evaluations" in prompt else "",
        "bytes": f"{cost['bytes']:,}",
    }


def _paper(row: Row) -> dict[str, str]:
    """The paper's figures of a row, in columns of their own."""
    figures = TABLE_2.get(row.paper or "", ())
    return {f"paper: {column}": f"{figure:.2f}" for column, figure in zip(TABLE_2_COLUMNS, figures, strict=False)}


def _pictures(folder: Path) -> Image.Image:
    return Image.open(folder / BEFORE_AFTER).convert("RGB")
