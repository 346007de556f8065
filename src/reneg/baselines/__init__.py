"""What ReNeg is compared with: other prompts for every prompt, or weights that are trained otherwise."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from reneg.baselines.config import BeautifulPromptConfig, DnpConfig, DpoDiffConfig, PromptistConfig
from reneg.baselines.policy_config import DdpoConfig, DiffusionDpoConfig, policy_preset
from reneg.config import preset


@dataclass(frozen=True)
class Baseline:
    """One method: its settings, what runs it, and its line in `reneg baseline --help`."""

    config: type
    run: Callable[[Any], Path]
    """Gives the file that it leaves, which `reneg evaluate --negatives` takes."""
    help: str
    preset: Callable[[str, Any], dict[str, Any]] = preset
    """(model, target) -> settings that suit them better than the defaults."""


def _dnp(config: DnpConfig) -> Path:
    from reneg.baselines.dnp import run_dnp

    return run_dnp(config)


def _dpo_diff(config: DpoDiffConfig) -> Path:
    from reneg.baselines.dpo_diff import run_dpo_diff

    return run_dpo_diff(config)


def _ddpo(config: DdpoConfig) -> Path:
    from reneg.baselines.ddpo import run_ddpo

    return run_ddpo(config)


def _diffusion_dpo(config: DiffusionDpoConfig) -> Path:
    from reneg.baselines.diffusion_dpo import run_diffusion_dpo

    return run_diffusion_dpo(config)


def _promptist(config: PromptistConfig) -> Path:
    from reneg.baselines.rewriters import run_promptist

    return run_promptist(config)


def _beautiful_prompt(config: BeautifulPromptConfig) -> Path:
    from reneg.baselines.rewriters import run_beautiful_prompt

    return run_beautiful_prompt(config)


BASELINES: dict[str, Baseline] = {
    "dnp": Baseline(DnpConfig, _dnp, "a negative prompt that describes the opposite picture (DNP)"),
    "dpo-diff": Baseline(DpoDiffConfig, _dpo_diff, "a negative prompt found by discrete search (DPO-Diff)"),
    "promptist": Baseline(PromptistConfig, _promptist, "the prompt rewritten by a language model (Promptist)"),
    "beautifulprompt": Baseline(
        BeautifulPromptConfig, _beautiful_prompt, "the prompt rewritten by a language model (BeautifulPrompt)"
    ),
    "ddpo": Baseline(DdpoConfig, _ddpo, "weights trained by policy gradient (DDPO)", partial(policy_preset, "ddpo")),
    "diffusion-dpo": Baseline(
        DiffusionDpoConfig,
        _diffusion_dpo,
        "weights trained on pairs of pictures (Diffusion-DPO)",
        partial(policy_preset, "diffusion-dpo"),
    ),
}
"""Method -> how it is run; importing this table loads nothing heavy."""
