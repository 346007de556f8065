"""`reneg learn --model FOLDER --reward FOLDER` on every family, from files on disk, by the real command line.

Each model is diffusers' own pipeline class with random weights and a few thousand parameters (tests/tiny*.py), written
by `save_pretrained`; the reward is a random CLIPModel, written likewise. What is shown is that the whole way works for
every family: load, learn, write the file, and change a picture with it. Random weights have no taste to improve.

PYTHONPATH=tests python results/every_family.py    # half a minute on an idle core; writes every_family.json and .md
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fakes import PROMPTS
from tiny import save_tiny_reward, tiny_pipeline
from tiny_pixart import tiny_pixart
from tiny_sana import tiny_sana
from tiny_sd3 import tiny_sd3
from tiny_sdxl import tiny_sdxl

from reneg.cli import main as cli
from reneg.metrics import read_rows
from reneg.negative import NegativeEmbedding

FAMILIES: dict[str, Callable[[], Any]] = {
    "Stable Diffusion 1, epsilon": tiny_pipeline,
    "Stable Diffusion 2, v_prediction": partial(tiny_pipeline, prediction_type="v_prediction"),
    "SDXL": tiny_sdxl,
    "SD3": tiny_sd3,
    "SD3 without T5": partial(tiny_sd3, t5=False),
    "PixArt-alpha": tiny_pixart,
    "PixArt-Sigma": partial(tiny_pixart, sigma=True),
    "Sana": tiny_sana,
}
SAMPLING = {"num_inference_steps": 8, "guidance_scale": 5.0}
LEARNING = SAMPLING | {
    "monitor": "null",
    "max_train_steps": 20,
    "train_batch_size": 4,
    "learning_rate": 0.1,
    "grad_step_range": "[5,7]",
    "validation_steps": 20,
    "num_validation_prompts": 4,
    "seed": 0,
}


def main() -> None:
    """All families, and the table beside this file."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_tiny_reward(folder / "reward")
        (folder / "prompts.txt").write_text("\n".join(PROMPTS))
        for number, (name, build) in enumerate(FAMILIES.items()):
            rows.append({"family": name} | run(build(), folder, folder / str(number)))
    path = Path(__file__)
    path.with_suffix(".json").write_text(json.dumps({"settings": LEARNING, "families": rows}, indent=1) + "\n")
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([str(value) for value in row.values()] for row in rows)]
    path.with_suffix(".md").write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))


def run(pipe: Any, shared: Path, folder: Path) -> dict[str, Any]:
    """Save a pipeline, learn on it, verify the file; what came out."""
    pipe.save_pretrained(folder / "model")
    model = {"model": folder / "model"}
    given = model | {"reward": shared / "reward", "prompts": shared / "prompts.txt", "output_dir": folder / "run"}
    reneg("learn", **given, **LEARNING)
    file = folder / "run" / "negative_embedding.safetensors"
    verified = reneg("verify", str(file), **model, **SAMPLING, output_dir=folder / "verified")
    looks = [row for row in read_rows(folder / "run" / "metrics.jsonl") if row["kind"] == "validation"]
    embedding = NegativeEmbedding.load(file)
    learned = embedding.conditioning()
    return {
        "pipeline class": type(pipe).__name__,
        "scheduler": embedding.metadata["scheduler"],
        "steps": LEARNING["max_train_steps"],
        "reward before": round(float(looks[0]["reward"]), 4),
        "reward after": round(float(looks[-1]["reward"]), 4),
        "tensors of the file": ", ".join("x".join(str(n) for n in tensor.shape) for tensor in learned.tensors()),
        "reneg verify": next(line for line in verified.splitlines() if line.startswith("mean difference")),
    }


def reneg(command: str, *arguments: str, **settings: Any) -> str:
    """The command line; what it printed.

    Raises:
        RuntimeError: it failed, after a line on standard error.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = cli([command, *arguments, *(f"--{name}={value}" for name, value in settings.items())])
    if code != 0:
        raise RuntimeError(f"reneg {command} ended with {code}")
    return printed.getvalue()


if __name__ == "__main__":
    main()
