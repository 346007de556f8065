"""The paper's tables and figures, each made anew by one command, with the paper's figures beside the new ones."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reneg.analysis.config import Fig3Config, Fig6Config, Table1Config, Table2Config, TransferConfig


@dataclass(frozen=True)
class Experiment:
    """One table or figure: its settings, what runs it, and its line in `reneg reproduce --help`."""

    config: type
    run: Callable[[Any], Path]
    """Gives the Markdown file of its table, beside which the rest lies; in a dry run that of its plan."""
    help: str


def _table_1(config: Table1Config) -> Path:
    from reneg.analysis.efficiency import run_table_1

    return run_table_1(config)


def _table_2(config: Table2Config) -> Path:
    from reneg.analysis.comparison import run_table_2

    return run_table_2(config)


def _table_3(config: TransferConfig) -> Path:
    from reneg.analysis.transfer import run_table_3

    return run_table_3(config)


def _fig_3(config: Fig3Config) -> Path:
    from reneg.analysis.prediction_similarity import run_fig_3

    return run_fig_3(config)


def _fig_6(config: Fig6Config) -> Path:
    from reneg.analysis.pseudo_prompts import run_fig_6

    return run_fig_6(config)


def _fig_7(config: TransferConfig) -> Path:
    from reneg.analysis.transfer import run_fig_7

    return run_fig_7(config)


EXPERIMENTS: dict[str, Experiment] = {
    "table1": Experiment(Table1Config, _table_1, "parameter efficiency: embedding, all weights, LoRA"),
    "table2": Experiment(Table2Config, _table_2, "every method made, tuned alike and compared, in stages"),
    "table3": Experiment(TransferConfig, _table_3, "wins against N* on several generators, in stages"),
    "fig3": Experiment(Fig3Config, _fig_3, "how well x0 is predicted at every step, DDIM against DDPM"),
    "fig6": Experiment(Fig6Config, _fig_6, "negative embeddings drawn as if they were prompts"),
    "fig7": Experiment(TransferConfig, _fig_7, "wins against no negative on several generators, in stages"),
}
"""Name -> how it is made; importing this table loads nothing heavy."""
