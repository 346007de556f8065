"""`reneg plan` against what autograd really keeps, and its figures for the models of the field (docs/memory.md).

Measured: SD1.5's UNet and decoder and CLIP ViT-H as the reward, with random weights, in float32 on a CPU, one sample;
the bytes that autograd keeps for the backward pass by its own hooks (tests/saved_bytes.py), on the code that learns.
Two small pictures give a line in the number of pixels, which is followed to 512 pixels.

PYTHONPATH=tests python results/plan_check.py check    # needs 10 GiB of memory; writes plan_check.json
PYTHONPATH=tests python results/plan_check.py table    # from configurations alone; writes plan_table.json and .md
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from saved_bytes import Saved
from tiny import tiny_tokenizer

from reneg.algorithm import one_step_x0
from reneg.config import PlanConfig
from reneg.generation import picture_generators
from reneg.interfaces import Conditioning, GradientPolicy
from reneg.models.sd import StableDiffusion
from reneg.planning import Plan, plan
from reneg.planning.plan import GIB, GPUS, GRADIENT, SCORING
from reneg.planning.skeletons import MODELS, build, read_model, read_reward
from reneg.randomness import draw_noise
from reneg.rewards.clip import ClipReward
from reneg.rewards.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocess

HERE = Path(__file__).parent
SIDES, FULL = (128, 192), 512
"""Pixels of the pictures that are measured, and of the one that the line is followed to."""
POLICY = GradientPolicy(positive=False, negative=True)


def check() -> None:
    """Measure and plan at both sizes, follow the line, and write what came out."""
    torch.set_num_threads(1)
    model, reward = real_model(), real_reward()
    rows = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        measured = {side: measure(model, reward, side) for side in SIDES}
        planned = {side: planned_bytes(side, checkpointing) for side in (*SIDES, FULL)}
        for phase in (GRADIENT, SCORING):
            found = {side: measured[side][phase] for side in SIDES}
            found[FULL] = line([found[side] for side in SIDES])
            for side, size in found.items():
                how = "measured" if side in SIDES else f"line through {SIDES[0]} and {SIDES[1]} pixels"
                row = {"gradient_checkpointing": checkpointing, "phase": phase, "pixels": side, "how": how}
                wanted = planned[side][phase]
                rows.append(row | {"bytes": round(size), "planned": wanted, "ratio": round(wanted / size, 4)})
    (HERE / "plan_check.json").write_text(json.dumps(rows, indent=1) + "\n")


def real_model() -> StableDiffusion:
    """SD1.5's UNet and VAE with random weights; the texts are given as encodings, so that no encoder is needed."""
    configs = read_model("sd1.5")
    unet, vae = (build(configs[part], torch.float32) for part in ("unet", "vae"))
    parts = {"text_encoder": None, "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler: Any = DDIMScheduler(steps_offset=1, clip_sample=False)  # diffusers annotates another type
    pipe = StableDiffusionPipeline(unet=unet, vae=vae, tokenizer=tiny_tokenizer(), scheduler=scheduler, **parts)
    return StableDiffusion(pipe, name="sd1.5 with random weights")


def real_reward() -> ClipReward:
    """CLIP ViT-H, HPSv2's architecture, with random weights."""
    config = read_reward("hpsv2.1", "--reward")
    size = config["vision_config"]["image_size"]
    model = build(config, torch.float32)
    return ClipReward(model, tiny_tokenizer(), ImagePreprocess(size, CLIP_MEAN, CLIP_STD), name="random CLIP ViT-H")


def measure(model: StableDiffusion, reward: ClipReward, side: int) -> dict[str, float]:
    """Bytes kept after the denoiser, and after the decoder and the reward, in a step as learning takes it."""
    generators = picture_generators(0, 0, 1)
    config, latent = model.denoiser.config, side // model.pipe.vae_scale_factor
    latents = draw_noise(generators, (config.in_channels, latent, latent), torch.float32, torch.device("cpu"))
    texts = torch.randn(2, 77, config.cross_attention_dim, generator=generators[0])
    positive, negative = Conditioning(texts[:1]), Conditioning(torch.nn.Parameter(texts[1:]))
    timestep = model.set_timesteps(30)[25]
    saved = Saved(model.denoiser, model.vae, reward.model)
    with saved.recording():
        x0, _ = one_step_x0(model, latents, timestep, positive, negative, 7.5, POLICY)
        denoiser = 1024 * saved.kilobytes
        reward(model.decode(x0), ["a cat"]).mean()
        return {GRADIENT: denoiser, SCORING: 1024 * saved.kilobytes}


def planned_bytes(side: int, checkpointing: bool) -> dict[str, int]:
    """What `reneg plan` says is kept, by phase."""
    config = PlanConfig(model="sd1.5", train_batch_size=1, resolution=side, gradient_checkpointing=checkpointing)
    return {phase.name: phase.kept for phase in plan(config).phases}


def line(sizes: list[float]) -> float:
    """At FULL pixels, of the line in the number of pixels through the sizes at SIDES."""
    few, many = (side**2 for side in SIDES)
    return sizes[0] + (sizes[1] - sizes[0]) / (many - few) * (FULL**2 - few)


def table() -> None:
    """Peaks and largest batches of all models in bfloat16 with HPSv2.1 and PickScore as the monitor."""
    rows = []
    for model in MODELS:
        for checkpointing in (False, True):
            settings = {"train_batch_size": 1, "gradient_checkpointing": checkpointing}
            found = plan(PlanConfig(model=model, dtype="bf16", reward="hpsv2.1", monitor="pickscore", **settings))
            for offload in (False, True):
                rows.append(row_of(replace(found, config=replace(found.config, offload=offload))))
                (HERE / "plan_table.json").write_text(json.dumps(rows, indent=1) + "\n")
    heads = [
        "model",
        "pixels",
        "checkpointing",
        "offload",
        "weights",
        "peak, batch 1",
        *(f"{gpu:g} GiB" for gpu in GPUS),
    ]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        switches = ["yes" if row[name] else "no" for name in ("gradient_checkpointing", "offload")]
        sizes = [f"{row[name] / GIB:.1f}" for name in ("weights", "peak")]
        fits = [str(row["largest_batch"][f"{gpu:g}"] or "–") for gpu in GPUS]
        lines.append([row["model"], str(row["pixels"]), *switches, *sizes, *fits])
    (HERE / "plan_table.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))


def row_of(found: Plan) -> dict:
    """A plan as JSON has it."""
    config = found.config
    return {
        "model": config.model,
        "pixels": found.resolution,
        "gradient_checkpointing": config.gradient_checkpointing,
        "offload": config.offload,
        "weights": found.weights,
        "phases": {
            phase.name: {"weights": found.resident(phase), "activations": phase.peak} for phase in found.phases
        },
        "peak": found.peak,
        "largest_batch": {f"{gpu:g}": found.largest_batch(gpu) for gpu in GPUS},
    }


if __name__ == "__main__":
    {"check": check, "table": table}[sys.argv[1]]()
