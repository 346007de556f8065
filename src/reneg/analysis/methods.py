"""The commands that make a row of a table: their settings, what runs them, and what they cost."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from reneg.baselines import BASELINES
from reneg.baselines.policy_config import DdpoConfig, DiffusionDpoConfig
from reneg.config import LearnConfig, preset
from reneg.effort import learning_effort
from reneg.interfaces import GradientPolicy
from reneg.learning import learn
from reneg.monitor import NOISES
from reneg.refinement.config import RefineConfig
from reneg.refinement.run import run_refine
from reneg.refinement.state import gradient_cost, gradient_step_indices
from reneg.run_folder import result_names

BACKWARD = 2
"""Evaluations of the denoiser that a backward pass takes the time of."""
BRANCHES = 2
"""Of Eq. 5: evaluations of a step."""
ONE_BRANCH = ("negative_embedding", "embedding_and_scale")
"""Targets that keep a graph in the negative branch alone."""


@dataclass(frozen=True)
class Method:
    """One command."""

    config: type
    run: Callable[[Any], Path]
    """Gives the file that evaluate takes."""
    preset: Callable[[str, Any], dict[str, Any]]
    """(model, target) -> settings below those that are given."""
    cost: Callable[[Any, int], int]
    """(settings, number of prompts) -> evaluations of the denoiser at most; a backward pass counts as two."""

    @property
    def promptwise(self) -> bool:
        """Whether it finds something for each prompt, and not one thing for all."""
        return "max_prompts" in {field.name for field in fields(self.config)}

    def settings(self, model: str, given: dict[str, Any]) -> Any:
        """The command's settings: what is given, over the preset of the model and the target.

        Raises:
            TypeError, ValueError: one that the command does not have or allow.
        """
        own = {field.name for field in fields(self.config)}
        best = self.preset(model, given.get("target", self._target()))
        values = {name: value for name, value in best.items() if name in own} | {"model": model} | given
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        if "resume_from_checkpoint" in own:
            values["resume_from_checkpoint"] = "latest"
        return self.config(**values)

    def _target(self) -> str:
        """What is trained where nothing says so."""
        defaults = {field.name: field.default for field in fields(self.config)}
        return str(defaults.get("target", "negative_embedding"))


def _learn(config: LearnConfig) -> Path:
    learn(config)
    return config.output_dir / result_names(config.target)[0]


def _learn_cost(config: LearnConfig, prompts: int) -> int:
    policy = GradientPolicy(positive=config.target not in ONE_BRANCH, negative=True)
    pictures = NOISES * min(config.num_validation_prompts, prompts)
    counts = learning_effort(
        config, policy, updates=config.max_train_steps, num_processes=1, pictures_of_a_look=pictures
    )
    return counts["denoiser_evaluations"] + BACKWARD * counts["denoiser_backward_evaluations"]


def _looks_cost(config: Any, prompts: int) -> int:
    """The monitor's looks of a run."""
    looks = 1 + -(-config.max_train_steps // config.validation_steps)
    return looks * NOISES * min(config.num_validation_prompts, prompts) * BRANCHES * config.num_inference_steps


def _ddpo_cost(config: DdpoConfig, prompts: int) -> int:
    trained = round(config.timestep_fraction * config.num_inference_steps) * config.num_inner_epochs * (1 + BACKWARD)
    picture = BRANCHES * (config.num_inference_steps + trained)
    return config.max_train_steps * config.num_samples * picture + _looks_cost(config, prompts)


def _diffusion_dpo_cost(config: DiffusionDpoConfig, prompts: int) -> int:
    steps = config.pair_inference_steps or config.num_inference_steps
    made = 0 if config.pairs else config.num_pairs * config.pictures_per_pair * BRANCHES * steps
    # Two pictures of a pair, each by the model that is trained, with a gradient, and by the reference.
    pair = 2 * (1 + BACKWARD + 1)
    learned = config.max_train_steps * config.train_batch_size * config.gradient_accumulation_steps * pair
    return made + learned + _looks_cost(config, prompts)


def _refine_cost(config: RefineConfig, prompts: int) -> int:
    """Every step of every prompt: a gradient, and each candidate judged on whole pictures, as is the global one."""
    one = gradient_cost(config, gradient_step_indices(config, 0))
    gradient = config.noises_per_prompt * (one.denoiser_evaluations + BACKWARD * one.backward_passes)
    judged = config.judged_noises * BRANCHES * config.num_inference_steps
    return prompts * (config.max_refine_steps * (gradient + judged) + judged)


COSTS: dict[str, Callable[[Any, int], int]] = {
    "dnp": lambda config, prompts: prompts * BRANCHES * config.num_inference_steps,
    "dpo-diff": lambda config, prompts: (
        prompts * config.num_noises * config.num_candidates * BRANCHES * config.num_inference_steps
    ),
    "promptist": lambda config, prompts: 0,
    "beautifulprompt": lambda config, prompts: 0,
    "ddpo": _ddpo_cost,
    "diffusion-dpo": _diffusion_dpo_cost,
}
"""Baseline -> its cost. Rewriters of the prompt never run the denoiser."""
METHODS: dict[str, Method] = {
    "learn": Method(LearnConfig, _learn, preset, _learn_cost),
    "refine": Method(RefineConfig, run_refine, partial(preset, config=RefineConfig), _refine_cost),
    **{f"baseline {name}": Method(row.config, row.run, row.preset, COSTS[name]) for name, row in BASELINES.items()},
}
"""Command -> how a row is made with it."""
