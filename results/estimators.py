"""What a gradient is worth for what it costs: estimators at the null text, on learning prompts; no judge.

For each way to a gradient: what a batch costs (denoiser forwards, backwards, decodes), how much of the gradient is
common to all batches (signal) and how much differs (noise), how well it agrees with the exact gradient of sampled
pictures (DRaFT through all steps), and what a step of fixed length along it does to pictures of other prompts.

python results/estimators.py        # about half an hour on one core; writes estimators.json
"""

import json
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from reneg.algorithm import StepSettings
from reneg.estimators import ESTIMATORS
from reneg.interfaces import Conditioning
from reneg.models import load_model
from reneg.monitor import Monitor, sum_up
from reneg.randomness import Streams, prompt_index
from reneg.rewards import load_reward
from reneg.targets import NegativeEmbeddingTarget
from reneg.world import load_prompts

BATCHES, BATCH = 12, 16
LENGTH = 5.0
"""Of the step along a gradient; the null text's embedding has norm 31."""
SAMPLING = {"guidance_scale": 7.5, "num_inference_steps": 30}
SEED = 0
LATE, LAST = (20, 29), (27, 29)
EXACT = "DRaFT-30: exact"
WAYS: dict[str, tuple[str, tuple[int, int], int, int | None, int, bool]] = {
    # name: estimator, steps, how many, steps of the fast trajectory, noises of a prompt, antithetic
    EXACT: ("draft", LATE, 30, None, 1, False),
    "one of the last ten: the paper": ("late_steps", LATE, 1, None, 1, False),
    "all of the last ten": ("late_steps", LATE, 10, None, 1, False),
    "one of the last three": ("late_steps", LAST, 1, None, 1, False),
    "the last three": ("late_steps", LAST, 3, None, 1, False),
    "the last three, fast 13": ("late_steps", LAST, 3, 13, 1, False),
    "the last three, fast 9": ("late_steps", LAST, 3, 9, 1, False),
    "the last three, fast 6": ("late_steps", LAST, 3, 6, 1, False),
    "the last three, fast 4": ("late_steps", LAST, 3, 4, 1, False),
    "the last three, fast 9, two noises": ("late_steps", LAST, 3, 9, 2, False),
    "the last three, fast 9, antithetic": ("late_steps", LAST, 3, 9, 2, True),
    "DRaFT-3": ("draft", LAST, 3, None, 1, False),
    "DRaFT-3, fast 9": ("draft", LAST, 3, 9, 1, False),
    "DRaFT-LV, 3 copies": ("draft_lv", (29, 29), 3, None, 1, False),
    "DRaFT-LV, 3 copies of the last three": ("draft_lv", LAST, 3, None, 1, False),
    "DRaFT-LV, 3 copies of the last three, fast 9": ("draft_lv", LAST, 3, 9, 1, False),
    "DRaFT-LV, 9 copies of the last three, fast 9": ("draft_lv", LAST, 9, 9, 1, False),
}


class Counts:
    """Samples that went through the denoiser, forwards and backwards, and through the decoder."""

    def __init__(self, model):
        self.of: Counter[str] = Counter()
        model.denoiser.register_forward_hook(self._forward)
        model.vae.decoder.register_forward_hook(lambda module, inputs, output: self._add("decodes", len(output)))

    def _forward(self, module, inputs, output) -> None:
        sample = output.sample if hasattr(output, "sample") else output[0]
        self._add("forwards", len(sample))
        if sample.requires_grad:
            self._add("backwards", len(sample))

    def _add(self, what: str, count: int) -> None:
        self.of[what] += count


def main() -> None:
    """Measure, and write the result beside this file."""
    torch.set_num_threads(1)
    model, reward, prompts = load_model("world"), load_reward("world/preference"), load_prompts().learn
    learned, watched = prompts[: len(prompts) // 2], prompts[len(prompts) // 2 :]
    counts, path = Counts(model), Path(__file__).with_suffix(".json")
    monitor = Monitor(model, reward, load_reward("world/monitor"), watched, num_prompts=24, seed=SEED, **SAMPLING)
    target = NegativeEmbeddingTarget(model)
    (parameter,) = target.parameters()

    def look(direction: Tensor) -> dict[str, float]:
        negative = Conditioning((parameter + direction).detach())
        means = sum_up([monitor.measure(negative, batch) for batch in monitor.batches]).means
        return {name: round(mean, 4) for name, mean in means.items()}

    result = {
        "settings": {"batches": BATCHES, "batch": BATCH, "length": LENGTH, "seed": SEED, **SAMPLING},
        "null": look(torch.zeros_like(parameter)),
        "ways": {},
    }
    exact = None
    for name, way in WAYS.items():
        counts.of.clear()
        gradients = torch.stack([batch_gradient(model, target, reward, learned, way, b) for b in range(BATCHES)])
        cost = {what: count / (BATCHES * BATCH) for what, count in sorted(counts.of.items())}
        exact = gradients if exact is None else exact
        mean = gradients.mean(0)
        result["ways"][name] = {
            "cost_of_a_sample": cost,
            **worth(gradients, cost),
            "cosine_with_exact": round(agreement(gradients, exact), 3),
            "after_a_step_along": look(-LENGTH * mean / mean.norm()),
        }
        path.write_text(json.dumps(result, indent=1) + "\n")


def batch_gradient(model, target, reward, prompts: list[str], way, batch: int) -> Tensor:
    """[1, l, d]: one batch's gradient."""
    name, steps, count, fast, noises, antithetic = way
    numbers = list(range(BATCH * batch, BATCH * (batch + 1)))
    outputs = ESTIMATORS[name](
        model,
        target,
        reward,
        [prompts[prompt_index(SEED, number // noises, len(prompts))] for number in numbers],
        Streams(SEED, batch, numbers, antithetic=antithetic),
        StepSettings(grad_step_range=steps, gradient_steps=count, trajectory_steps=fast, **SAMPLING),
    )
    return torch.stack([torch.autograd.grad(output.loss, target.parameters())[0] for output in outputs]).sum(0)


def squared_signal(gradients: Tensor, others: Tensor) -> float:
    """Unbiased inner product of two mean gradients: pairs of different batches alone."""
    pairs = (gradients.flatten(1) @ others.flatten(1).T).double()
    count = len(gradients)
    return float((pairs.sum() - pairs.diagonal().sum()) / (count * (count - 1)))


def worth(gradients: Tensor, cost: dict[str, float]) -> dict[str, float]:
    """Signal, noise of a batch, and the squared ratio that a thousand evaluations give (a backward counts as two)."""
    signal = squared_signal(gradients, gradients)
    noise = float(gradients.double().square().sum() / len(gradients)) - signal
    evaluations = BATCH * (cost["forwards"] + 2 * cost["backwards"])
    return {
        "signal": round(max(signal, 0) ** 0.5, 4),
        "noise": round(noise**0.5, 4),
        "evaluations_of_a_sample": round(evaluations / BATCH, 2),
        "squared_signal_to_noise_per_1000_evaluations": round(1000 * signal / noise / evaluations, 3),
    }


def agreement(gradients: Tensor, exact: Tensor) -> float:
    """Cosine of the mean gradients, free of the noise in either."""
    lengths = squared_signal(gradients, gradients) * squared_signal(exact, exact)
    return squared_signal(gradients, exact) / max(lengths, 1e-12) ** 0.5


if __name__ == "__main__":
    main()
