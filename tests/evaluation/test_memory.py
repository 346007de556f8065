"""Thousands of prompts stream: what an evaluation holds in memory does not grow with its pictures."""

import multiprocessing
import resource
from pathlib import Path

import pytest
import torch
from fakes import Brightness, GaussianModel

from reneg.config import EvaluateConfig
from reneg.evaluation.comparison import Comparison
from reneg.evaluation.contenders import load_contenders
from reneg.evaluation.runner import compare

FEW, MANY, NOISES, SIDE = 200, 4000, 2, 64


class LargePictures(GaussianModel):
    """Enlarges its latents to 64x64 pictures."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.repeat_interleave(16, -1).repeat_interleave(16, -2) / 8 + 0.5


def evaluate_many(count: int, folder: Path, queue) -> None:
    """Put the process's peak memory, in bytes."""
    torch.set_num_threads(1)
    model = LargePictures(torch.float32)
    config = EvaluateConfig(negatives=["null", "bad"], num_inference_steps=2, num_seeds=NOISES, output_dir=folder)
    prompts = [f"prompt {number}" for number in range(count)]
    contenders = load_contenders(config, model, prompts)
    fingerprints = {model.name: "weights 1", "brightness": "weights 2"}
    compare(Comparison(model, [Brightness()], contenders, {"all": prompts}, fingerprints), config)
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_is_flat(tmp_path: Path):
    peaks, context = {}, multiprocessing.get_context("spawn")
    for count in (FEW, MANY):
        queue = context.Queue()
        process = context.Process(target=evaluate_many, args=(count, tmp_path / str(count), queue))
        process.start()
        peaks[count] = queue.get(timeout=1000)
        process.join(60)
    pictures = 2 * (MANY - FEW) * NOISES * 3 * SIDE * SIDE  # bytes, a byte a value
    print(f"\npeak memory in MiB: { {count: round(peak / 2**20, 1) for count, peak in peaks.items()} }")  # noqa: T201
    assert peaks[MANY] - peaks[FEW] < pictures / 4
