"""The settings of `reneg refine`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reneg.config import ModelConfig, check_gradient_steps, require


@dataclass
class RefineConfig(ModelConfig):
    """Refine a global negative embedding for each prompt by itself (Algorithm 1, §4.3)."""

    negative: str = "null"
    """The global embedding to start from: a file (.safetensors), hub:owner/name, or null for the null text."""
    prompt: list[str] = field(default_factory=list)
    """One or more prompts."""
    prompts: Path | None = None
    """Or a public set (parti, or some groups: hpsv2:anime,photo), or a .txt, .json, .jsonl, .tsv or .csv file; without
    either the world's evaluation set, as evaluate takes it."""
    max_prompts: int | None = None
    """Take so many prompts of each group, spread evenly, as evaluate does; null takes all."""
    reward: str = "world/preference"
    """The reward that is raised; "HPSv2.1" (§4.2) with Stable Diffusion."""
    monitor: str | None = "world/monitor"
    """Another reward, which no candidate of mode keep_best may lower; null lets the raised reward decide alone."""
    mode: Literal["keep_best", "paper"] = "keep_best"
    """keep_best returns the best on the judged noises, and never what is worse there than the global embedding by the
    reward or by the monitor. paper is Algorithm 1 as
    printed: the last state is returned, the rewards are those of one-step predictions of fresh noises, and the best
    starts at 0, so that rewards below 0 end it after `patience` steps."""
    max_refine_steps: int = 10
    """"for an additional 10 steps" (§5.1): N."""
    patience: int = 3
    """"with a patience value of 3" (§5.1): so many steps without a better reward end it."""
    refine_learning_rate: float = 1e-2
    """Of AdamW, constant, without decay. Not in the paper; the world's preset has the one that was best there
    (docs/refine.md)."""
    noises_per_prompt: int = 1
    """Fresh noises of each step, whose gradients are averaged. Algorithm 1 has one."""
    judged_noises: int = 2
    """Noises on whose fully sampled pictures the candidates of a prompt are judged, the same for all of them."""
    grad_step_range: tuple[int, int] = (20, 29)
    """First and last step_index that may carry the gradient, as in learning."""
    gradient_steps: int = 1
    """How many steps of one trajectory carry a gradient, as in learning."""
    gradient_estimator: Literal["late_steps", "draft", "draft_lv"] = "late_steps"
    """As in learning (docs/how_to_choose.md)."""
    trajectory_steps: int | None = None
    """As in learning: reach the first step with a gradient in so many steps of DPM-Solver++(2M)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them, as in learning."""
    batch_size: int = 16
    """Pictures sampled at once; does not change the result."""
    seed: int = 0
    """Fixes the noises: they depend on the seed, the prompt's text and the step alone."""
    output_dir: Path = Path("runs/refine")
    """One file a prompt, index.jsonl and report.html; what is there already, for the same settings, is not made
    again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("max_refine_steps", "patience", "noises_per_prompt", "judged_noises", "batch_size")
        rate = self.refine_learning_rate
        require(rate > 0, f"--refine_learning_rate {rate}: must be above 0")
        require(self.max_prompts is None or self.max_prompts >= 1, f"--max_prompts {self.max_prompts}: at least 1")
        require(not (self.prompt and self.prompts), "give either --prompt TEXT or --prompts FILE")
        require(all(p.strip() for p in self.prompt), "--prompt: got an empty text; write what to draw")
        check_gradient_steps(
            self,
            self.grad_step_range,
            self.gradient_steps,
            self.gradient_estimator,
            self.trajectory_steps,
        )
