"""Refinement of many prompts in one batch against one prompt after the other, in one run, with the same results.

python benchmarks/refine.py GLOBAL.safetensors        # writes refine.json; five minutes on two idle cores
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from statistics import fmean

import torch

from reneg.config import preset
from reneg.evaluation.comparison import thin
from reneg.models import load_model
from reneg.negative import NegativeEmbedding
from reneg.refinement.algorithm import Refinement, refine_prompts
from reneg.refinement.config import RefineConfig
from reneg.refinement.run import global_embedding
from reneg.rewards import load_reward
from reneg.world import load_prompts

COUNTS = ("steps", "denoiser_evaluations", "backward_passes", "decodes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="the global embedding")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--max_refine_steps", type=int, default=3)
    parser.add_argument("--num_inference_steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = RefineConfig(**preset("world", config=RefineConfig))
    last = arguments.num_inference_steps - 1
    config = dataclasses.replace(
        settings,
        max_refine_steps=arguments.max_refine_steps,
        num_inference_steps=arguments.num_inference_steps,
        grad_step_range=(last - 2, last),
    )
    model, reward, monitor = load_model("world"), load_reward("world/preference"), load_reward("world/monitor")
    start, _ = global_embedding(model, NegativeEmbedding.load(arguments.file))
    prompts = thin(load_prompts().learn, arguments.prompts)

    def refined(groups: list[list[str]]) -> tuple[dict[str, Refinement], float]:
        begin, found = time.perf_counter(), {}
        for group in groups:
            for done in refine_prompts(model, start, group, reward, monitor, config):
                found[str(done.facts["prompt"])] = done
        return found, time.perf_counter() - begin

    refined([prompts[:1]])  # warm
    alone, seconds_alone = refined([[prompt] for prompt in prompts])
    together, seconds_together = refined([prompts])
    pairs = [(alone[prompt], together[prompt]) for prompt in prompts]
    result = {
        "settings": {
            "prompts": len(prompts),
            "batch_size": config.batch_size,
            "max_refine_steps": config.max_refine_steps,
            "num_inference_steps": config.num_inference_steps,
            "judged_noises": config.judged_noises,
            "threads": arguments.threads,
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 1),
            "torch": torch.__version__,
        },
        "prompts_per_minute_one_at_a_time": round(60 * len(prompts) / seconds_alone, 2),
        "prompts_per_minute_batched": round(60 * len(prompts) / seconds_together, 2),
        "speed_up": round(seconds_alone / seconds_together, 2),
        "max_difference": {
            "embedding": max(
                float((one.negative.prompt_embeds - other.negative.prompt_embeds).abs().max()) for one, other in pairs
            ),
            "reward": max(abs(float(one.facts["reward"]) - float(other.facts["reward"])) for one, other in pairs),
        },
        "mean_of_a_prompt": {name: fmean(float(other.facts[name]) for _, other in pairs) for name in COUNTS},
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
