"""The memory of a learning step: what each way of saving it leaves, and whether the gradient stays as it is.

    python benchmarks/memory.py count     # SD1.5's and SDXL's architectures to 512 and 1024 pixels: minutes, no memory
    python benchmarks/memory.py measure   # SD1.5's at two small sizes with random weights: 10 GiB, minutes
    python benchmarks/memory.py docs      # writes the tables of docs/memory.md from memory.json

Both run the code that learns, with CLIP ViT-H, HPSv2's architecture, as the reward, two pictures, all in float32.
`count` has tensors with shapes and no numbers (FakeTensorMode): bytes that autograd saves in the denoiser, by its own
hooks, and the most bytes of tensors at one time in the whole step, decoder, reward and backward pass included.
`measure` has numbers: the same bytes, the gradient, and by how much a child process of its own really grew (Linux's
VmHWM). Each row is written to memory.json at once, and `count` makes none again that is there; set
MALLOC_MMAP_THRESHOLD_=65536 for `measure`, so that glibc gives freed memory back.
"""

import json
import math
import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from reneg.algorithm import one_step_x0, predict_guided, score
from reneg.generation import picture_generators
from reneg.interfaces import Conditioning, GradientPolicy
from reneg.models.base import LatentModel
from reneg.planning.plan import GIB
from reneg.planning.random_weights import random_model, random_reward
from reneg.planning.saved_bytes import Saved
from reneg.planning.tracker import MemoryTracker
from reneg.prediction import predict_x0
from reneg.randomness import draw_noise
from reneg.report import fill, markdown_table
from reneg.rewards.clip import ClipReward

RESULT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "memory.md"
BATCH, GUIDANCE_SCALE = 2, 7.5
SIZES = {"sd1.5": (128, 192, 512), "sdxl": (256, 384, 1024)}
"""Architecture -> pixels of a side: two small ones, whose line is followed to the last."""
PLAIN, NEGATIVE = "both branches in one batch, with a graph", "negative branch alone"
CHECKPOINTING, SLICING = "and --gradient_checkpointing", "and --vae_slicing as well"
KEYS = ("model", "variant", "pixels")
"""What a row is of."""
VARIANTS = (PLAIN, NEGATIVE, CHECKPOINTING, SLICING)


def inputs(model: LatentModel, side: int) -> tuple[Tensor, Conditioning, list[torch.nn.Parameter]]:
    """x_t, the prompts' encodings and what is learned, of random numbers."""
    generators, config = picture_generators(0, 0, BATCH), model.denoiser.config
    latents = draw_noise(generators, (config.in_channels, side // 8, side // 8), torch.float32, torch.device("cpu"))
    pooled = model.family == "sdxl"
    texts = torch.randn(BATCH + 1, 77, config.cross_attention_dim, generator=generators[0])
    vectors = torch.randn(BATCH + 1, 1280, generator=generators[0]) if pooled else None
    positive = Conditioning(texts[1:], None if vectors is None else vectors[1:])
    learned = [torch.nn.Parameter(part[:1]) for part in ([texts] if vectors is None else [texts, vectors])]
    return latents, positive, learned


def predict(
    model: LatentModel, latents: Tensor, positive: Conditioning, learned: list[torch.nn.Parameter], variant: str
) -> tuple[Tensor, int]:
    """Eq. 5 and 6, and the bytes that autograd saved in them."""
    timestep, negative = model.set_timesteps(30)[25], Conditioning(*learned).expand(BATCH)
    saved = Saved(model.denoiser)
    with saved.recording():
        if variant == PLAIN:
            prediction = predict_guided(model, latents, timestep, positive, negative, GUIDANCE_SCALE)
            x0 = predict_x0(latents, prediction, *model.alpha_sigma(timestep), model.prediction_type)
        else:
            policy = GradientPolicy(positive=False, negative=True)
            x0, _ = one_step_x0(model, latents, timestep, positive, negative, GUIDANCE_SCALE, policy)
    return x0, round(1024 * saved.kilobytes)


def step(model: LatentModel, reward: ClipReward, side: int, variant: str) -> tuple[dict[str, int], list[Tensor]]:
    """One gradient as learning takes it: its bytes, and what it is."""
    latents, positive, learned = inputs(model, side)
    modules = (model.denoiser, model.vae, reward.model)
    weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    with MemoryTracker(weights) as tracker:
        x0, saved = predict(model, latents, positive, learned, variant)
        prompts = ["a cat"] * BATCH
        output = score(model, reward, x0, prompts, 25, share=1.0, vae_slicing=variant == SLICING)
        kept = tracker.live
        output.loss.backward()
    gradients = [parameter.grad for parameter in learned if parameter.grad is not None]
    return {"denoiser_saved": saved, "kept": kept, "peak": tracker.peak}, gradients


def rows_of(kind: str) -> list[dict[str, Any]]:
    rows = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    return rows.get(kind, [])


def write(kind: str, row: dict[str, Any]) -> None:
    rows = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    rows["settings"] = {"batch": BATCH, "dtype": "float32", "reward": "hpsv2.1", "torch": torch.__version__}
    others = [done for done in rows.get(kind, []) if any(done[key] != row[key] for key in KEYS)]
    rows[kind] = [*others, row]
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(row), flush=True)


def count() -> None:
    for name, sides in SIZES.items():
        with FakeTensorMode(allow_non_fake_inputs=True):
            model, reward = random_model(name, resolution=sides[-1]), random_reward("hpsv2.1")
        for variant in VARIANTS:
            if variant == CHECKPOINTING:
                model.enable_gradient_checkpointing()
            for side in sides:
                row = {"model": name, "variant": variant, "pixels": side}
                if not any(row.items() <= done.items() for done in rows_of("counted")):
                    write("counted", row | step(model, reward, side, variant)[0])


def measure() -> None:
    """Each variant in a child of its own, which shares the weights with the others."""
    torch.set_num_threads(1)
    model, reward = random_model("sd1.5", resolution=SIZES["sd1.5"][-1]), random_reward("hpsv2.1")
    context = multiprocessing.get_context("fork")
    for side in SIZES["sd1.5"][:2]:
        exact: list[list[float]] = []
        for variant in VARIANTS:
            ours, theirs = context.Pipe()
            child = context.Process(target=grow, args=(model, reward, side, variant, theirs))  # not pickled: forked
            child.start()
            row, gradient = ours.recv()
            child.join()
            exact = exact or gradient
            apart = [
                math.dist(found, wanted) / math.hypot(*wanted) for found, wanted in zip(gradient, exact, strict=True)
            ]
            write("measured", {"model": "sd1.5", "variant": variant, "pixels": side, **row, "apart": max(apart)})


def grow(model: LatentModel, reward: ClipReward, side: int, variant: str, answer: Connection) -> None:
    """A step, and the most bytes that the process had in main memory beyond those before it."""
    if variant in (CHECKPOINTING, SLICING):
        model.enable_gradient_checkpointing()
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = resident("VmRSS")
    row, gradient = step(model, reward, side, variant)
    answer.send((row | {"resident": resident("VmHWM") - before}, [part.flatten().tolist() for part in gradient]))


def resident(field: str) -> int:
    """A figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def followed(rows: Sequence[dict[str, Any]], name: str, variant: str, figure: str) -> float:
    """At the largest size, of the line in the number of pixels through the two small ones."""
    few, many, full = (side**2 for side in SIZES[name])
    small, large = (find(rows, name, variant, side)[figure] for side in SIZES[name][:2])
    return small + (large - small) / (many - few) * (full - few)


def find(rows: Sequence[dict[str, Any]], name: str, variant: str, side: int) -> dict[str, Any]:
    (row,) = [row for row in rows if tuple(row[key] for key in KEYS) == (name, variant, side)]
    return row


def tables() -> str:
    """Those of docs/memory.md."""
    counted, measured = rows_of("counted"), rows_of("measured")
    largest, small = [], []
    for name, sides in SIZES.items():
        plain = find(counted, name, PLAIN, sides[-1])
        for variant in VARIANTS:
            row = find(counted, name, variant, sides[-1])
            line = followed(counted, name, variant, "denoiser_saved") / row["denoiser_saved"]
            largest.append(
                {
                    "": f"{name}, {sides[-1]} pixels: {variant}",
                    "denoiser saved": gib(row["denoiser_saved"]),
                    "of plain": f"{row['denoiser_saved'] / plain['denoiser_saved']:.3f}",
                    "line / count": f"{line:.4f}",
                    "whole step's peak": gib(row["peak"]),
                    "peak of plain": f"{row['peak'] / plain['peak']:.3f}",
                }
            )
    for row in measured:
        known = find(counted, row["model"], row["variant"], row["pixels"])
        small.append(
            {
                "": f"{row['model']}, {row['pixels']} pixels: {row['variant']}",
                "denoiser saved": gib(row["denoiser_saved"]),
                "counted": gib(known["denoiser_saved"]),
                "peak of tensors": gib(row["peak"]),
                "counted peak": gib(known["peak"]),
                "process grew by": gib(row["resident"]),
                "gradient apart": f"{row['apart']:.1e}",
            }
        )
    return f"{markdown_table(largest)}\n\n{markdown_table(small)}\n"


def gib(size: float) -> str:
    return f"{size / GIB:.3f} GiB"


def docs() -> None:
    fill(PAGE, "memory", tables().strip())


if __name__ == "__main__":
    {"count": count, "measure": measure, "docs": docs}[sys.argv[1]]()
