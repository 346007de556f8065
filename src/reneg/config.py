"""The settings of every command: one text for the API, `--help` and YAML.

Defaults are the paper's (arXiv 2412.19637). A model with a row in PRESETS, such as the default `--model world`,
applies its preset below any value that is given.
"""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

CONFIGS = Path(__file__).parent / "configs"
PAPER = CONFIGS / "paper" / "learn.yaml"
"""What `reneg learn --config paper` reads."""
MOST_COPIES = 64
"""Of one picture's latents that DRaFT-LV noises again; more say nothing new."""
TargetName = Literal["negative_embedding", "embedding_and_scale", "lora", "denoiser", "text_encoder"]
PRESETS: dict[str, Path] = {
    "world": CONFIGS / "world.yaml",
    "world-small": CONFIGS / "world.yaml",
    "world-v": CONFIGS / "world.yaml",
    "sdxl": CONFIGS / "sdxl.yaml",
    "sd3-medium": CONFIGS / "sd3.yaml",
    "sd3.5-medium": CONFIGS / "sd3.yaml",
    "pixart-alpha": CONFIGS / "pixart.yaml",
    "pixart-sigma": CONFIGS / "pixart.yaml",
    "sana": CONFIGS / "sana.yaml",
}
"""Model -> its preset, of which every command applies the settings that it has."""


LEARNING_RATES: dict[str, float] = {"lora": 1e-3, "denoiser": 1e-5, "text_encoder": 1e-5}
"""Target -> the learning rate that takes the place of an embedding's, under which weights would be ruined."""


def preset(model: str, target: TargetName = "negative_embedding", *, config: type | None = None) -> dict[str, Any]:
    """The settings that suit a model, and what is trained, better than the paper's; often none.

    For `LearnConfig(model=model, target=target, **preset(model, target))`, or with another command's settings,
    `Other(**preset(model, config=Other))`: those that the class has.
    """
    settings = read_preset(PRESETS[model]) if model in PRESETS else {}
    settings |= {"learning_rate": LEARNING_RATES[target]} if target in LEARNING_RATES else {}
    own = {setting.name for setting in fields(config or LearnConfig)}
    return {name: value for name, value in settings.items() if name in own}


def read_preset(path: Path) -> dict[str, Any]:
    """The settings of a packaged YAML file, with the types that they have in Python."""
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def require(condition: bool, message: str) -> None:
    """Raise ValueError with a one-line message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def parse_scales(texts: list[str]) -> dict[str, float]:
    """Texts NAME=NUMBER of `--scales` -> guidance scales by name.

    Raises:
        ValueError: one is no NAME=NUMBER above 1, or a name comes twice.
    """
    scales: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            scale = float(number)
        except ValueError:
            scale = math.nan
        require(
            bool(name) and 1 < scale < 1000, f"--scales {text}: must be NAME=NUMBER, above 1, where guidance begins"
        )
        require(name not in scales, f"--scales: more than one for {name!r}")
        scales[name] = scale
    return scales


@dataclass
class ModelConfig:
    """What generates, with which seed, and where its results go."""

    model: str = "world"
    """A short name, a diffusers folder, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; null takes its main branch."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the model; the embedding and the rewards stay in float32, and with fp16 the VAE too."""
    trust_remote_code: bool = False
    """Run code that a hub repository or folder brings along; weights are read from safetensors alone either way."""
    scheduler: Literal["ddim", "ddpm"] = "ddim"
    """"DDIM scheduler with 30 steps" (§5.1); DDPM predicts x0 worse (Fig. 3). Models that predict a flow have Euler
    steps of their own instead."""
    guidance_scale: float = 7.5
    """"the classifier-free guidance weight is set to 7.5" (§5.1), in learning and inference alike."""
    num_inference_steps: int = 30
    """"we set T = 30" (§4.2)."""
    device: str = "cpu"
    """A torch device such as cpu or cuda; `reneg learn` under accelerate takes accelerate's."""

    seed: int = 0
    """Fixes the noises."""
    output_dir: Path = Path("runs")
    """Where the results go."""

    def __post_init__(self) -> None:
        self.output_dir = Path(self.output_dir)  # Python callers give texts as well
        require(self.seed >= 0, f"--seed {self.seed}: must not be negative")
        self._require_positive("num_inference_steps")
        scale = self.guidance_scale
        require(1 < scale < 1000, f"--guidance_scale {scale}: must be above 1, where guidance begins")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            require(getattr(self, name) >= 1, f"--{name} {getattr(self, name)}: must be at least 1")


def check_gradient_steps(
    config: ModelConfig,
    grad_step_range: tuple[int, int],
    gradient_steps: int,
    gradient_estimator: str,
    trajectory_steps: int | None,
) -> None:
    """Refuse gradient steps that the sampler does not have; raises ValueError."""
    low, high = grad_step_range
    last = config.num_inference_steps - 1
    require(0 <= low <= high <= last, f"--grad_step_range [{low}, {high}]: must lie in 0 … {last}, in order")
    count = high - low + 1
    within = count, "the steps of --grad_step_range"
    limits = {
        "late_steps": within,
        "draft": (config.num_inference_steps, "--num_inference_steps"),
        "draft_lv": (MOST_COPIES, "copies"),
        "pool": within,
    }
    limit, what = limits[gradient_estimator]
    require(1 <= gradient_steps <= limit, f"--gradient_steps {gradient_steps}: must be 1 to {limit}, {what}")
    fast = trajectory_steps
    require(fast is None or fast >= 1, f"--trajectory_steps {fast}: must be at least 1, or null")
    plain = {"--trajectory_steps": fast is None, "--gradient_estimator pool": gradient_estimator != "pool"}
    for flag, absent in plain.items():
        require(
            absent or config.scheduler == "ddim", f"{flag}: goes with --scheduler ddim; ddpm draws noise on the way"
        )


@dataclass
class RunConfig(ModelConfig):
    """What every run that trains something shares."""

    output_dir: Path = Path("runs/learn")
    """Run folder: config, metrics, checkpoints, samples, report and the result."""
    target: TargetName = "negative_embedding"
    """What is trained: the negative embedding (§4.2), with a guidance scale learned along, LoRA of the denoiser, all
    of its weights (ReFL) or the text encoder's (TextCraftor). docs/targets.md compares them."""
    lora_rank: int = 8
    """Rank of LoRA; alpha is the same. "rank r = 8 and r = 16" (§4.1)."""
    reward: list[str] | str = "world/preference"
    """The reward that is maximised; "HPSv2.1" (§4.2) with Stable Diffusion. Several as NAME=WEIGHT, the flag repeated,
    are each divided by their spread before learning; your own is MODULE:FUNCTION (docs/rewards.md)."""
    monitor: str | None = "world/monitor"
    """Another reward, which watches fixed learning prompts and picks the best state; null keeps the last."""
    prompts: Path | None = None
    """A public set by name (refl), or a .txt, .json, .jsonl, .tsv or .csv file of learning prompts; null takes the
    world's own. "10,000 prompts" of ReFL (§5.1)."""
    max_train_steps: int = 4000
    """"4,000 steps" (§5.1)."""
    train_batch_size: int = 64
    """Samples of one micro-batch on one process. "batch size of 64" (§5.1) is this times
    gradient_accumulation_steps times the processes."""
    gradient_checkpointing: bool = False
    """Compute the denoiser's and the VAE's activations again in the backward pass instead of keeping them: far less
    memory, one more evaluation a gradient, the same gradient to the last bit (docs/memory.md)."""
    learning_rate: float = 5e-3
    """"a learning rate of 5e-3" (§5.1). Other targets have their own: 1e-3 for lora, 1e-5 for denoiser and
    text_encoder."""
    lr_scheduler: Literal["cosine", "constant", "linear"] = "cosine"
    """"a Cosine Scheduler" (§5.1), to zero."""
    lr_warmup_steps: int = 0
    """Not in the paper: none."""
    adam_beta1: float = 0.9
    """Not in the paper: AdamW's default."""
    adam_beta2: float = 0.999
    """Not in the paper: AdamW's default."""
    adam_weight_decay: float = 0.0
    """Not in the paper. Zero, because decay pulls the embedding to the origin, which no text encodes to."""
    max_grad_norm: float | None = None
    """Not in the paper: no clipping; AdamW already makes the step's size independent of the gradient's."""
    seed: int = 0
    """Fixes prompts' order, noises and step indices (design: they do not depend on batching, processes, restarts)."""
    checkpointing_steps: int = 100
    """A checkpoint each so many optimiser steps."""
    checkpoints_total_limit: int = 2
    """How many checkpoints are kept."""
    resume_from_checkpoint: str | None = None
    """"latest", or a checkpoint folder; continues bit for bit."""
    validation_steps: int = 100
    """The monitor looks each so many optimiser steps, and at the first and the last."""
    num_validation_prompts: int = 32
    """How many fixed learning prompts the monitor sees, two noises each."""
    report_to: str = "none"
    """Trackers by accelerate's names, comma separated, such as tensorboard; metrics.jsonl is always written."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("train_batch_size", "max_train_steps", "checkpointing_steps")
        self._require_positive("checkpoints_total_limit", "validation_steps", "num_validation_prompts", "lora_rank")
        require(self.learning_rate > 0, f"--learning_rate {self.learning_rate}: must be above 0")
        warm_up, steps = self.lr_warmup_steps, self.max_train_steps
        require(0 <= warm_up <= steps, f"--lr_warmup_steps {warm_up}: must be 0 to max_train_steps ({steps})")
        clip = self.max_grad_norm
        require(clip is None or clip > 0, f"--max_grad_norm {clip}: must be above 0, or null for no clipping")


@dataclass
class LearnConfig(RunConfig):
    """Learn a negative embedding (§4.2), or train weights by the same loop."""

    gradient_accumulation_steps: int = 1
    """Micro-batches of one optimiser step."""
    offload: bool = False
    """Let wait on the CPU what a phase does not need: the text encoders, the monitor's reward between its looks, and
    at a look the model and the rewards in turn (docs/memory.md). Nothing changes but memory and time."""
    vae_slicing: bool = False
    """Decode and score one picture after the other, each with its way back to the latents, so that the activations of
    decoder and reward are never held for more than one: the same gradient up to rounding (docs/memory.md)."""
    prompt_cache: Path | None = None
    """A folder that keeps the prompts' encodings for runs that go on and for other runs, on whatever models; null
    encodes them at each start (docs/speed.md)."""
    reward_dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of the training rewards that are CLIP models, cosines apart; the monitor stays in float32."""
    tf32: bool = False
    """Let a GPU round the factors of float32 matrix products to 10 bits, as torch lets it in convolutions by default:
    several times as fast, for a reward and a model in fp32. Nothing on a CPU."""
    grad_step_range: tuple[int, int] = (20, 29)
    """First and last step_index that may carry the gradient. "randomly sample t in [0, 10]" (§4.2) counts the steps
    that remain; with none remaining nothing is predicted, so the last ten of thirty."""
    gradient_steps: int = 1
    """How many steps of one trajectory carry a gradient, evenly apart within grad_step_range, and are averaged. The
    paper has one; several give more gradient for the same trajectory (docs/paper_map.md)."""
    gradient_estimator: Literal["late_steps", "draft", "draft_lv", "pool"] = "late_steps"
    """late_steps is the paper's, on one or several steps. draft goes back through the last gradient_steps steps to
    the finished picture (DRaFT-K); draft_lv noises the finished latents again, gradient_steps times (DRaFT-LV). pool
    keeps as many parts of the batch in flight as grad_step_range has steps, and takes a gradient of each at a step of
    its own: an update begins one of them alone."""
    trajectory_steps: int | None = None
    """Reach the first step with a gradient in so many steps of DPM-Solver++(2M); null takes the sampler's own, as in
    the paper. Fewer steps cost less and give slightly other latents (docs/how_to_choose.md)."""
    noises_per_prompt: int = 1
    """Consecutive samples that share a prompt, each with a noise of its own."""
    antithetic: bool = False
    """Of each two consecutive samples, give the second the first's noise with its sign turned; needs an even
    noises_per_prompt."""

    def cohorts(self) -> int:
        """Parts of a micro-batch that begin at updates of their own; but for the pool the whole begins at once."""
        low, high = self.grad_step_range
        return high - low + 1 if self.gradient_estimator == "pool" else 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("gradient_accumulation_steps", "noises_per_prompt")
        check_gradient_steps(
            self, self.grad_step_range, self.gradient_steps, self.gradient_estimator, self.trajectory_steps
        )
        paired = self.noises_per_prompt % 2 == 0
        require(
            paired or not self.antithetic, f"--noises_per_prompt {self.noises_per_prompt}: --antithetic needs pairs"
        )
        batch, steps = self.train_batch_size, self.cohorts()
        require(
            batch % steps == 0,
            f"--train_batch_size {batch}: --gradient_estimator pool divides it among the {steps} steps of "
            f"--grad_step_range {list(self.grad_step_range)}; choose a multiple of {steps}",
        )
        fixed = not self.offload or self.target in ("negative_embedding", "embedding_and_scale")
        require(fixed, f"--offload: goes with a model that stays as it is, and --target {self.target} trains it")


@dataclass
class GenerateConfig(ModelConfig):
    """Make pictures with a negative embedding."""

    prompt: list[str] = field(default_factory=list)
    """One or more prompts."""
    prompts: Path | None = None
    """Or a public set (parti, or some groups: hpsv2:anime,photo), or a .txt, .json, .jsonl, .tsv or .csv file."""
    negative: str = "null"
    """null, handcrafted, a file (weight-file suffix or a path separator in it), hub:owner/name, or any other text as a
    prompt."""
    strength: float = 1.0
    """How far from the null text to the negative: 0 is the null text, 1 the negative, above 1 goes beyond it."""
    weights: str | None = None
    """Weights to draw with: the file of a LoRA, a whole denoiser or text encoder, a folder with a denoiser's file, or
    hub:owner/name:FILE; null takes the model's."""
    refine: bool = False
    """Refine the negative for each prompt before drawing, as `reneg refine` does (Algorithm 1); the embeddings are
    kept in the folder `refined` of output_dir."""
    refine_config: Path | None = None
    """A YAML file of reneg refine's settings, such as reward and monitor; what this command sets stays."""
    num_images_per_prompt: int = 1
    """Pictures of each prompt, from different noises."""
    seed: int = 0
    """Fixes the noises: a picture's noise depends on the seed and the picture's number alone."""
    batch_size: int = 8
    """Pictures sampled at once; does not change them."""
    output_dir: Path = Path("runs/generate")
    """Where the pictures go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("num_images_per_prompt", "batch_size")
        require(0 <= self.strength <= 10, f"--strength {self.strength}: must be 0 (the null text) to 10")
        require(self.refine or self.refine_config is None, "--refine_config: goes with --refine")
        plain = not self.refine or self.weights is None
        require(
            plain, f"--weights {self.weights}: --refine refines for the model's own weights; leave out one of them"
        )
        given = bool(self.prompt) + (self.prompts is not None)
        require(given == 1, "give either --prompt TEXT or --prompts FILE")
        require(all(p.strip() for p in self.prompt), "--prompt: got an empty text; write what to draw")


@dataclass
class EvaluateConfig(ModelConfig):
    """Compare negative embeddings on the same prompts and the same noises."""

    negatives: list[str] = field(default_factory=lambda: ["null", "handcrafted"])
    """What to compare, as for generate's --negative, a weights file, or a .jsonl of what each prompt has of its own;
    " + " joins parts. NAME=VALUE names one. Wins are counted against the first two (docs/evaluation.md)."""
    scales: list[str] = field(default_factory=list)
    """Guidance scales of single contenders, as NAME=5.0; others take the one they learned, or --guidance_scale."""
    prompts: Path | None = None
    """A public set (hpsv2, parti, drawbench, vbench; some groups: hpsv2:anime,photo), or a .txt, .json, .jsonl, .tsv
    or .csv file; null takes the world's evaluation set, grouped by style."""
    rewards: list[str] = field(
        default_factory=lambda: ["world/preference", "world/monitor", "world/judge", "world/aesthetic"]
    )
    """The rewards to report; claims are decided on the judges, which nothing else loads."""
    published: bool = False
    """Score as the rewards' papers did (8-bit pictures, PIL's resize, HPSv2's JPEG), to compare with their numbers;
    otherwise by the path that learning takes. docs/rewards.md has the difference."""
    num_seeds: int = 2
    """Noises of each prompt."""
    max_prompts: int | None = None
    """Take so many prompts of each group, spread evenly; null takes all."""
    seed: int = 1234
    """Fixes the noises; other than any learning seed's by construction."""
    batch_size: int = 16
    """Pictures sampled at once; does not change them."""
    output_dir: Path = Path("runs/evaluate")
    """Where pictures, scores, results.json and report.html go; an interrupted evaluation continues there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("num_seeds", "batch_size")
        require(self.max_prompts is None or self.max_prompts >= 1, f"--max_prompts {self.max_prompts}: at least 1")
        require(len(self.negatives) >= 2, "--negatives: give at least two to compare, such as null FILE.safetensors")
        parse_scales(self.scales)


@dataclass
class PlanConfig:
    """What `reneg learn` will need of a GPU's memory, from configurations alone: no weight is loaded."""

    model: str = "sd1.5"
    """world, sd1.5, sdxl, sd3.5-medium, pixart-alpha, pixart-sigma, sana, or a diffusers folder (its weights are not
    read)."""
    reward: str = "hpsv2.1"
    """The reward that is maximised, by name, or a CLIPModel's folder."""
    monitor: str | None = None
    """The reward that watches; null for none."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the model; with fp16 the VAE is in float32."""
    reward_dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of the reward; the monitor is in float32."""
    train_batch_size: int = 64
    """Samples of one micro-batch on one GPU; gradient_accumulation_steps make up for a small one."""
    gradient_checkpointing: bool = False
    """Compute the denoiser's and the VAE's activations again in the backward pass instead of keeping them."""
    vae_slicing: bool = False
    """Decode and score one picture after the other, each with its way back to the latents."""
    offload: bool = False
    """Let wait on the CPU what a phase does not need."""
    resolution: int | None = None
    """Height and width of the pictures in pixels; null takes the model's own, at which learning runs."""
    gpu_memory: float | None = None
    """Memory of the GPU in GiB, for a verdict."""

    def __post_init__(self) -> None:
        require(self.train_batch_size >= 1, f"--train_batch_size {self.train_batch_size}: must be at least 1")
        resolution, memory = self.resolution, self.gpu_memory
        require(resolution is None or resolution >= 1, f"--resolution {resolution}: must be at least 1, or null")
        require(memory is None or memory > 0, f"--gpu_memory {memory}: must be above 0, or null for no verdict")
