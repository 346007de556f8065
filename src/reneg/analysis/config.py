"""The settings of the experiments; each has a file for the bundled world and one with the paper's settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reneg.config import CONFIGS, ModelConfig, preset, require


def experiment_preset(experiment: str, model: str) -> dict[str, Any]:
    """The settings of an experiment: the world's file, or the paper's for every other model, over the model's own."""
    path = CONFIGS / ("world" if model == "world" else "paper") / f"{experiment}.yaml"
    return preset(model) | yaml.safe_load(path.read_text(encoding="utf-8"))


@dataclass
class ExperimentConfig(ModelConfig):
    """What the experiments share."""

    prompts: Path | None = None
    """A public set (refl, hpsv2, parti; some groups: hpsv2:anime,photo), or a .txt, .json, .jsonl, .tsv or .csv file;
    null takes the world's evaluation set."""
    batch_size: int = 16
    """Pictures sampled at once; does not change them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("batch_size")


@dataclass
class Table1Config(ExperimentConfig):
    """Table 1: how far small changes of each set of parameters move the sampled latents."""

    num_prompts: int = 64
    """N, the same for all rows; the paper does not give its own."""
    num_probes: int = 8
    """Random directions in the space of the latents, from which the norms are estimated."""
    lora_ranks: tuple[int, int] = (8, 16)
    """"rank r = 8 and r = 16" (§4.1)."""
    batch_size: int = 1
    """Prompts whose gradients are summed: fewer give narrower intervals, more are faster."""
    output_dir: Path = Path("runs/table1")
    """results.json, table.md, report.html, and what each probe gave; an interrupted run goes on there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("num_prompts")
        require(self.num_probes >= 2, f"--num_probes {self.num_probes}: an interval needs two at least")
        require(min(self.lora_ranks) >= 1, f"--lora_ranks {list(self.lora_ranks)}: must be at least 1")


@dataclass
class Fig3Config(ExperimentConfig):
    """Fig. 3: how like the finished picture its one-step prediction is at every step, by DDIM and by DDPM."""

    num_prompts: int = 64
    """Samples: so many prompts, spread evenly, one noise each, the same for both samplers."""
    output_dir: Path = Path("runs/fig3")
    """results.json, table.md, report.html, fig3.png; an interrupted run goes on there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_prompts >= 2, f"--num_prompts {self.num_prompts}: an interval needs two at least")


@dataclass
class Fig6Config(ModelConfig):
    """Fig. 6: what negative embeddings look like, drawn as if they were prompts."""

    negative: str = "runs/learn/negative_embedding.safetensors"
    """The learned embedding, drawn beside the null text and the hand-written negative prompt."""
    num_noises: int = 32
    """Pictures of each embedding, from the same noises for all."""
    reward: str = "world/aesthetic"
    """A reward of the picture alone: no prompt goes with these."""
    batch_size: int = 16
    """Pictures sampled at once; does not change them."""
    seed: int = 1234
    """Fixes the noises."""
    output_dir: Path = Path("runs/fig6")
    """results.json, table.md, report.html, fig6.png."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("num_noises", "batch_size")
