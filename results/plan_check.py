"""`reneg plan` against what autograd really keeps, and its figures for the models of the field (docs/memory.md).

Measured: SD1.5's UNet and decoder and CLIP ViT-H as the reward, with random weights, in float32 on a CPU, one sample;
the bytes that autograd keeps for the backward pass by its own hooks (planning/saved_bytes.py), on the learning code.
Two small pictures give a line in the number of pixels, which is followed to 512 pixels.

python results/plan_check.py check    # needs 10 GiB of memory; writes plan_check.json
python results/plan_check.py table    # from configurations alone; writes plan_table.json and .md
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from reneg.algorithm import one_step_x0
from reneg.config import PlanConfig
from reneg.generation import picture_generators
from reneg.interfaces import Conditioning, GradientPolicy
from reneg.models.base import LatentModel
from reneg.planning import Plan, plan
from reneg.planning.plan import GIB, GPUS, GRADIENT, SCORING
from reneg.planning.random_weights import random_model, random_reward
from reneg.planning.saved_bytes import Saved
from reneg.planning.skeletons import MODELS
from reneg.randomness import draw_noise
from reneg.rewards.clip import ClipReward

HERE = Path(__file__).parent
SIDES, FULL = (128, 192), 512
"""Pixels of the pictures that are measured, and of the one that the line is followed to."""
POLICY = GradientPolicy(positive=False, negative=True)


def check() -> None:
    """Measure and plan at both sizes, follow the line, and write what came out."""
    torch.set_num_threads(1)
    model, reward = random_model("sd1.5", resolution=FULL), random_reward("hpsv2.1")
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


def measure(model: LatentModel, reward: ClipReward, side: int) -> dict[str, float]:
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
