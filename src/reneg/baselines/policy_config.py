"""The settings of the baselines that train weights without the reward's gradient; defaults are their authors'."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reneg.config import CONFIGS, RunConfig, TargetName, read_preset, require

PRESETS: dict[str, Path] = {
    "ddpo": CONFIGS / "baselines" / "ddpo-world.yaml",
    "diffusion-dpo": CONFIGS / "baselines" / "diffusion-dpo-world.yaml",
}
"""Method -> its settings for the bundled world, for LoRA."""
LEARNING_RATES: dict[str, dict[str, float]] = {
    "ddpo": {"denoiser": 1e-5, "text_encoder": 1e-5, "negative_embedding": 5e-3, "embedding_and_scale": 5e-3},
    "diffusion-dpo": {"denoiser": 2.048e-8, "text_encoder": 2.048e-8},
}
"""Method -> target other than LoRA -> its learning rate. The denoiser's are the papers', the others ours."""


def policy_preset(method: str, model: str, target: str) -> dict[str, Any]:
    """The settings of a method that suit a model, and what is trained, better than its defaults; often none."""
    settings = read_preset(PRESETS[method]) if model == "world" else {}
    rates = LEARNING_RATES[method]
    return settings | ({"learning_rate": rates[target]} if target in rates else {})


@dataclass
class DdpoConfig(RunConfig):
    """DDPO (Black et al. 2023, arXiv 2305.13301): policy gradient, with every denoising step an action. The reward
    needs no gradient."""

    output_dir: Path = Path("runs/ddpo")
    """Run folder: config, metrics, checkpoints, samples, report and the result."""
    target: TargetName = "lora"
    """What is trained: LoRA of the denoiser, as in the authors' code, or all of its weights, as in their paper; any
    other target of reneg learn as well."""
    lora_rank: int = 4
    """Rank of LoRA; alpha is the same (authors' code: 4)."""
    reward: str = "world/preference"
    """The reward that is maximised, whether or not it has a gradient. DDPO-Aesthetic: aesthetic, and in the world
    reneg.rewards.praise:praised; DDPO-Alignment: clipscore or imagereward, and in the world world/preference."""
    guidance_scale: float = 5.0
    """In sampling and in training alike (authors: 5)."""
    num_inference_steps: int = 50
    """Steps of a trajectory (authors: 50)."""
    eta: float = 1.0
    """Of DDIM, which gives its steps their noise (authors: 1); the monitor samples with 0."""
    max_train_steps: int = 100
    """Rounds, each of sampling and then learning from the samples (authors: 100 epochs). What counts steps counts
    rounds: the learning rate's schedule, checkpoints, looks of the monitor."""
    num_samples: int = 256
    """Pictures of a round, over all processes (authors: 256)."""
    updates_per_round: int = 4
    """Optimiser steps of a round, each on its own share of the samples (paper: 4; 1 is plain REINFORCE)."""
    num_inner_epochs: int = 1
    """How often the samples of a round are gone through (authors: 1)."""
    train_batch_size: int = 8
    """Samples that are sampled, and then trained on, at once on one process (authors: 8)."""
    timestep_fraction: float = 1.0
    """Share of the trajectory's steps that are trained on, evenly apart from a random start (authors: 1)."""
    noises_per_prompt: int = 1
    """Consecutive samples that share a prompt (authors: 1, with few prompts, which come again)."""
    history_size: int = 32
    """The last so many rewards of a prompt give its mean and standard deviation (authors: 32)."""
    history_min_count: int = 16
    """With fewer rewards of a prompt than this, those of the whole round stand in (authors: 16)."""
    clip_range: float = 1e-4
    """How far an importance ratio may lead away from 1. Log-probabilities are means over a latent's numbers (authors:
    1e-4)."""
    advantage_clip: float = 5.0
    """Advantages are cut off at this (authors: 5)."""
    learning_rate: float = 3e-4
    """Of LoRA (authors' code: 3e-4). Other targets have their own: 1e-5 for the denoiser (paper) and the text encoder,
    5e-3 for an embedding."""
    lr_scheduler: Literal["cosine", "constant", "linear"] = "constant"
    """Over the rounds (authors: constant)."""
    adam_weight_decay: float = 1e-4
    """Of AdamW (authors: 1e-4)."""
    max_grad_norm: float | None = 1.0
    """Longer gradients are cut to this length (authors: 1); null for no clipping."""
    checkpointing_steps: int = 10
    """A checkpoint each so many rounds."""
    validation_steps: int = 10
    """The monitor looks each so many rounds, and at the first and the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("num_samples", "updates_per_round", "num_inner_epochs", "noises_per_prompt")
        self._require_positive("history_size", "history_min_count")
        fits = self.num_samples % self.updates_per_round == 0
        require(fits, f"--updates_per_round {self.updates_per_round}: must divide --num_samples {self.num_samples}")
        share, eta = self.timestep_fraction, self.eta
        require(0 < share <= 1, f"--timestep_fraction {share}: must be above 0, and 1 at most")
        require(0 < eta <= 1, f"--eta {eta}: must be above 0, where steps are random, and 1 at most")
        for name in ("clip_range", "advantage_clip"):
            require(getattr(self, name) > 0, f"--{name} {getattr(self, name)}: must be above 0")


@dataclass
class DiffusionDpoConfig(RunConfig):
    """Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908): learn from pairs, of which one picture is preferred."""

    output_dir: Path = Path("runs/diffusion-dpo")
    """Run folder: the pairs' latents, config, metrics, checkpoints, samples, report and the result."""
    target: TargetName = "lora"
    """What is trained: LoRA of the denoiser, as in diffusers' example, or all of its weights, as in the paper; or the
    text encoder. The method has no negative branch, so embeddings are refused."""
    pairs: Path | None = None
    """A .jsonl file of {"prompt", "chosen", "rejected"}, the latter two picture files beside it. Null lets the model
    make its own: of several pictures of a prompt, the best and the worst by --reward."""
    num_pairs: int = 1000
    """How many pairs the model makes; prompts are taken in turn."""
    pictures_per_pair: int = 4
    """Pictures of which the best and the worst by --reward make a pair."""
    pair_inference_steps: int | None = None
    """Steps to sample these pictures in; null takes num_inference_steps."""
    reward: str = "world/preference"
    """What ranks the model's own pictures, and what the monitor's looks report beside the monitor."""
    beta: float = 5000.0
    """How strongly the model is held to where it began: 2000 for SD 1.5, 5000 for SDXL in the paper, 5000 in the
    authors' code, for errors that are means over a latent's numbers, halved."""
    proportion_empty_prompts: float = 0.2
    """Share of the prompts that are replaced with the empty one (authors' code: 0.2)."""
    max_train_steps: int = 2000
    """Optimiser steps (authors: 2,000)."""
    train_batch_size: int = 16
    """Pairs of one micro-batch on one process, which share a timestep."""
    gradient_accumulation_steps: int = 128
    """Micro-batches of one optimiser step: 2,048 pairs in all (authors)."""
    learning_rate: float = 1e-5
    """Of LoRA (diffusers' example: 1e-5). For the denoiser it is the paper's, 2000 / beta * 2.048e-8 at beta 2000."""
    lr_scheduler: Literal["cosine", "constant", "linear"] = "constant"
    """Authors: constant after the warm-up."""
    lr_warmup_steps: int = 500
    """Authors: 500, a quarter of the steps."""
    adam_weight_decay: float = 1e-2
    """Of AdamW (authors: 1e-2)."""
    max_grad_norm: float | None = 1.0
    """Longer gradients are cut to this length (authors: 1); null for no clipping."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("num_pairs", "gradient_accumulation_steps")
        if self.pair_inference_steps is not None:
            self._require_positive("pair_inference_steps")
        require(self.pictures_per_pair >= 2, f"--pictures_per_pair {self.pictures_per_pair}: must be at least 2")
        require(self.beta > 0, f"--beta {self.beta}: must be above 0")
        share = self.proportion_empty_prompts
        require(0 <= share < 1, f"--proportion_empty_prompts {share}: must be 0 or more, and below 1")
        weights = self.target in ("lora", "denoiser", "text_encoder")
        require(weights, f"--target {self.target}: the method trains weights; choose lora, denoiser or text_encoder")
