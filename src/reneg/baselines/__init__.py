"""What ReNeg is compared with: methods that give every prompt a negative prompt, or that train weights otherwise."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from reneg.baselines.config import DnpConfig, DpoDiffConfig
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


BASELINES: dict[str, Baseline] = {
    "dnp": Baseline(DnpConfig, _dnp, "a negative prompt that describes the opposite picture (DNP)"),
    "dpo-diff": Baseline(DpoDiffConfig, _dpo_diff, "a negative prompt found by discrete search (DPO-Diff)"),
    "ddpo": Baseline(DdpoConfig, _ddpo, "weights trained by policy gradient (DDPO)", partial(policy_preset, "ddpo")),
    "diffusion-dpo": Baseline(
        DiffusionDpoConfig,
        _diffusion_dpo,
        "weights trained on pairs of pictures (Diffusion-DPO)",
        partial(policy_preset, "diffusion-dpo"),
    ),
}
"""Method -> how it is run; importing this table loads nothing heavy."""
