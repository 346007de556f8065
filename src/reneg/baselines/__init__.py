"""What ReNeg is compared with: methods that give every prompt a negative prompt of its own, or rewrite it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reneg.baselines.config import BeautifulPromptConfig, DnpConfig, DpoDiffConfig, PromptistConfig


@dataclass(frozen=True)
class Baseline:
    """One method: its settings, what runs it, and its line in `reneg baseline --help`."""

    config: type
    run: Callable[[Any], Path]
    """Gives the file that it leaves, which `reneg evaluate --negatives` takes."""
    help: str


def _dnp(config: DnpConfig) -> Path:
    from reneg.baselines.dnp import run_dnp

    return run_dnp(config)


def _dpo_diff(config: DpoDiffConfig) -> Path:
    from reneg.baselines.dpo_diff import run_dpo_diff

    return run_dpo_diff(config)


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
}
"""Method -> how it is run; importing this table loads nothing heavy."""
