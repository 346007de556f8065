"""The settings of the experiments; each has a file for the bundled world and one with the paper's settings."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from reneg.config import CONFIGS, PRESETS, EvaluateConfig, ModelConfig, TargetName, preset, require


def experiment_preset(experiment: str, model: str, target: TargetName = "negative_embedding") -> dict[str, Any]:
    """The settings of an experiment: the world's file, or the paper's for every other model, over the model's own.

    Args:
        target: not used; experiments name their targets themselves.
    """
    settings = yaml.safe_load(experiment_file(experiment, model).read_text(encoding="utf-8"))
    return preset(model) | settings


def experiment_file(name: str, model: str) -> Path:
    """A file of configs/world for the generators that have the world's preset, or else of configs/paper."""
    return CONFIGS / ("world" if PRESETS.get(model) == PRESETS["world"] else "paper") / f"{name}.yaml"


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


@dataclass
class ComparisonConfig(ModelConfig):
    """What the experiments share that make contenders, tune them and compare them."""

    prompts: Path | None = None
    """What is evaluated on: a public set (hpsv2, parti), or a file; null takes the world's evaluation set."""
    max_prompts: int | None = None
    """Take so many prompts of each group, spread evenly; null takes all."""
    num_seeds: int = 2
    """Noises of each prompt, fresh: no choice ever saw them."""
    rewards: list[str] = field(
        default_factory=lambda: ["world/preference", "world/monitor", "world/judge", "world/aesthetic"]
    )
    """The rewards to report."""
    published: bool = False
    """Score as the rewards' papers did, as evaluate does."""
    evaluation_seed: int = 1234
    """Fixes the noises of the evaluation."""
    batch_size: int = 16
    """Pictures sampled at once; does not change them."""
    evaluations_per_second: float = 110.0
    """Of the denoiser, for the plan: about what one core does in the world."""
    dry_run: bool = False
    """Print the plan, and run nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("num_seeds", "batch_size")
        require(self.max_prompts is None or self.max_prompts >= 1, f"--max_prompts {self.max_prompts}: at least 1")
        rate = self.evaluations_per_second
        require(rate > 0, f"--evaluations_per_second {rate}: must be above 0")

    def evaluation(self, model: str, output_dir: Path) -> EvaluateConfig:
        """How the experiment compares on a generator: all settings that it shares with `reneg evaluate`."""
        own = {setting.name for setting in fields(EvaluateConfig)}
        shared = {name: value for name, value in vars(self).items() if name in own}
        return EvaluateConfig(**shared | {"model": model, "seed": self.evaluation_seed, "output_dir": output_dir})

    def set_name(self) -> str:
        """What the prompts of the evaluation are called in names of folders."""
        return "world" if self.prompts is None else self.prompts.stem.replace(":", "-")


@dataclass
class Table2Config(ComparisonConfig):
    """Table 2: every method made and tuned alike, and all compared on the same prompts and noises."""

    rows: list[str] = field(default_factory=list)
    """Rows to make, in the table's order, with those that they need; none makes all."""
    table: Path | None = None
    """A YAML file of rows (docs/reproduce.md); null takes the world's, or the paper's for other models."""
    learning_prompts: Path | None = None
    """What is learned and tuned on; null takes the world's learning prompts."""
    monitor: str = "world/monitor"
    """The reward that chooses among the values of a sweep and among guidance scales, on the tuning prompts."""
    num_tuning_prompts: int = 100
    """So many of the learning prompts, spread evenly, are kept for tuning, and nothing learns from them."""
    num_tuning_seeds: int = 1
    """Noises of each tuning prompt."""
    tuning_seed: int = 4321
    """Fixes the noises of tuning."""
    guidance_scales: list[float] = field(default_factory=lambda: [3.0, 5.0, 7.5, 10.0])
    """Guidance scales to choose from for every row; fewer than two leave --guidance_scale to all."""
    output_dir: Path = Path("runs/table2")
    """A folder for each stage, results.json, table.md and report.html; an interrupted run goes on there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("num_tuning_prompts", "num_tuning_seeds")
        scales = self.guidance_scales
        require(all(1 < scale < 1000 for scale in scales), f"--guidance_scales {scales}: must be above 1")


@dataclass
class TransferConfig(ComparisonConfig):
    """Table 3 and Fig. 7: embeddings on several generators that share the text encoder."""

    models: list[str] = field(default_factory=lambda: ["sd1.4", "sd1.5", "sd2.1"])
    """The generators: short names, folders or hub ids. --model tells whose preset they learn with."""
    learned: list[str] = field(default_factory=list)
    """Embeddings that are there already, each NAME=FILE with the generator's name; the others are learned."""
    learning_prompts: Path | None = None
    """What is learned on; null takes the world's learning prompts."""
    reward: str = "world/preference"
    """The reward that is learned from; "HPSv2.1" (§4.2) with Stable Diffusion."""
    monitor: str | None = "world/monitor"
    """The reward that picks the best state in learning; null keeps the last."""
    output_dir: Path = Path("runs/table3")
    """results.json, table.md, report.html, wins.png."""
    stages_dir: Path = Path("runs/transfer")
    """A folder for each stage, which both experiments share; an interrupted run goes on there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.models) >= 2, f"--models {self.models}: give two generators at least")
