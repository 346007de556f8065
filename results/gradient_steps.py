"""Which steps of a trajectory give a gradient worth following? Learning prompts and the monitor alone; no judge.

The gradient at the null text of each of the last ten steps, over many samples: how much of it is common to all samples
(signal) and how much differs between batches (noise); and what a step of fixed length along the mean gradient of some
steps does to fully sampled pictures of other learning prompts.

python results/gradient_steps.py        # about four minutes on one core; writes gradient_steps.json
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from reneg.algorithm import StepSettings, training_steps
from reneg.interfaces import Conditioning
from reneg.models import load_model
from reneg.monitor import Monitor, sum_up
from reneg.randomness import Streams, prompt_index
from reneg.rewards import load_reward
from reneg.targets import NegativeEmbeddingTarget
from reneg.world import load_prompts

BATCHES, BATCH = 16, 8
STEPS = (20, 29)
RANGES = [(20, 24), (20, 29), (25, 29), (27, 29)]
LENGTH = 5.0
"""Of the step along a gradient; the null text's embedding has norm 31."""
SAMPLING = {"guidance_scale": 7.5, "num_inference_steps": 30}
SEED = 0


def main() -> None:
    """Measure, and write the result beside this file."""
    torch.set_num_threads(1)
    model, reward, prompts = load_model("world"), load_reward("world/preference"), load_prompts().learn
    learned, watched = prompts[: len(prompts) // 2], prompts[len(prompts) // 2 :]
    target = NegativeEmbeddingTarget(model)
    (parameter,) = target.parameters()
    gradients = torch.stack([batch_gradients(model, target, reward, learned, b) for b in range(BATCHES)])
    steps = {step: signal_and_noise(gradients[:, step - STEPS[0]]) for step in range(STEPS[0], STEPS[1] + 1)}
    monitor = Monitor(model, reward, load_reward("world/monitor"), watched, num_prompts=24, seed=SEED, **SAMPLING)

    def look(direction: Tensor) -> dict[str, float]:
        negative = Conditioning((parameter + direction).detach())
        means = sum_up([monitor.measure(negative, batch) for batch in monitor.batches]).means
        return {name: round(mean, 4) for name, mean in means.items()}

    looks = {"null": look(torch.zeros_like(parameter))}
    for low, high in RANGES:
        mean = gradients[:, low - STEPS[0] : high - STEPS[0] + 1].mean((0, 1))
        looks[f"{low} to {high}"] = look(-LENGTH * mean / mean.norm())
    settings = {"samples": BATCHES * BATCH, "batch": BATCH, "length": LENGTH, "seed": SEED, **SAMPLING}
    result = {"settings": settings, "gradients_of_steps": steps, "pictures_after_a_step_along": looks}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


def batch_gradients(model, target, reward, prompts: list[str], batch: int) -> Tensor:
    """[steps, 1, l, d]: one batch's gradient at each of the steps, of the same trajectories."""
    numbers = list(range(BATCH * batch, BATCH * (batch + 1)))
    outputs = training_steps(
        model,
        target,
        reward,
        [prompts[prompt_index(SEED, number, len(prompts))] for number in numbers],
        Streams(SEED, 0, numbers),
        StepSettings(grad_step_range=STEPS, gradient_steps=STEPS[1] - STEPS[0] + 1, **SAMPLING),
    )
    return torch.stack([torch.autograd.grad(output.loss, target.parameters())[0] for output in outputs])


def signal_and_noise(gradients: Tensor) -> dict[str, float]:
    """Norms of the mean gradient (unbiased, from pairs of batches) and of one batch's deviation from it."""
    squares, count = gradients.square().sum(), len(gradients)
    signal = float((gradients.sum(0).square().sum() - squares) / (count * (count - 1)))
    noise = float(squares / count) - signal
    return {"signal": round(max(signal, 0) ** 0.5, 4), "noise": round(noise**0.5, 4)}


if __name__ == "__main__":
    main()
