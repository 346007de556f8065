"""How near DPM-Solver++ comes to the sampler's own x_t, and what the pictures are worth that are finished from there.

For the null text and for a learned embedding, on learning prompts: `trajectory_steps` evenly apart down to the first
step that carries the gradient, and from there the sampler's own steps to the picture.

python results/trajectories.py GLOBAL.safetensors      # writes trajectories.json; about five minutes of one core
"""

import json
import sys
from pathlib import Path
from statistics import fmean, median, stdev

import torch

from reneg.algorithm import denoise, reach
from reneg.evaluation.comparison import thin
from reneg.interfaces import Conditioning
from reneg.models import load_model
from reneg.negative import NegativeEmbedding
from reneg.randomness import Streams
from reneg.rewards import load_reward
from reneg.world import load_prompts

STEPS = (6, 9, 11, 13, 18, 27)
SAMPLES, BATCH, FIRST, SCALE, NUM_INFERENCE_STEPS, SEED = 64, 16, 27, 7.5, 30, 0


@torch.no_grad()
def measure(model, negative: torch.Tensor, rewards: dict) -> dict:
    """Of each number of steps: relative distances of x_t, and paired differences of the rewards."""
    prompts = thin(load_prompts().learn, SAMPLES)
    timesteps = model.set_timesteps(NUM_INFERENCE_STEPS)
    found: dict[int | None, dict[str, list[float]]] = {
        steps: {name: [] for name in ("distance", *rewards)} for steps in (None, *STEPS)
    }
    for begin in range(0, SAMPLES, BATCH):
        part = prompts[begin : begin + BATCH]
        streams = Streams(SEED, 0, list(range(begin, begin + len(part))))
        fixed = model.encode_prompt(part), Conditioning(negative.expand(len(part), -1, -1)), SCALE, streams.generators
        noise, own = model.initial_latents(streams.noise(model)), torch.empty(0)
        for steps, told in found.items():
            latents = reach(model, noise, timesteps, FIRST, *fixed, steps)
            own = latents if steps is None else own
            told["distance"] += ((latents - own).flatten(1).norm(dim=1) / own.flatten(1).norm(dim=1)).tolist()
            pictures = model.decode(denoise(model, latents, timesteps[FIRST:], *fixed))
            for name, reward in rewards.items():
                told[name] += reward(pictures, part).tolist()
    return {str(steps): summed_up(found[steps], found[None], rewards) for steps in STEPS}


def summed_up(told: dict[str, list[float]], own: dict[str, list[float]], rewards: dict) -> dict:
    """One number of steps against the sampler's own."""
    row = {
        "median_distance": round(median(told["distance"]), 4),
        "mean_distance": round(fmean(told["distance"]), 4),
        "largest_distance": round(max(told["distance"]), 4),
    }
    for name in rewards:
        gains = [mine - theirs for mine, theirs in zip(told[name], own[name], strict=True)]
        row[name] = {
            "difference": round(fmean(gains), 4),
            "standard_error": round(stdev(gains) / len(gains) ** 0.5, 4),
        }
    return row


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    model = load_model("world")
    rewards = {name: load_reward(name) for name in ("world/preference", "world/monitor")}
    negatives = {
        "null": model.encode_prompt([""]).prompt_embeds.detach(),
        "learned": NegativeEmbedding.load(sys.argv[1]).negative_prompt_embeds,
    }
    result = {
        "settings": {"samples": SAMPLES, "first_gradient_step": FIRST, "guidance_scale": SCALE, "seed": SEED}
        | {"num_inference_steps": NUM_INFERENCE_STEPS},
        "steps": {name: measure(model, negative, rewards) for name, negative in negatives.items()},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
