"""Where the time of a learning step goes: counts of model calls beside their seconds, and what is left over.

    python benchmarks/step_profile.py                                   # the world: a minute on one idle core
    python benchmarks/step_profile.py --gradient_estimator draft --trajectory_steps 13     # the world's preset
    python benchmarks/step_profile.py --model sd1.5-random --resolution 256 --train_batch_size 1 --steps 0
    python benchmarks/step_profile.py --model sd1.5-random --resolution 512 --train_batch_size 1 --steps 0
    python benchmarks/step_profile.py --model sd1.5-random --resolution 512 --train_batch_size 4 --device cuda \
        --dtype bf16 --reward_dtype bf16 --compile

SD1.5's architecture has random weights here, with CLIP ViT-H, HPSv2's architecture, as the reward. Each call writes
its row of step_profile.json. Counts are samples; what is not in the denoiser, the decoder, the reward or the text
encoder is overhead. On a GPU every part waits for the one before, so that its seconds are its own; `--compile`,
`--tf32` and `--channels_last` are there to be measured. The script is not called profile.py, which would hide Python's
own module of that name from torch.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from reneg.config import LearnConfig, preset
from reneg.effort import learning_effort
from reneg.interfaces import Reward
from reneg.learning import Learner
from reneg.models import DTYPES, load_model
from reneg.models.base import LatentModel
from reneg.planning.random_weights import random_model, random_reward
from reneg.processes import make_accelerator
from reneg.rewards import load_reward
from reneg.world import load_prompts

FORWARD, GRAPH, BACK = "denoiser, no graph", "denoiser, with graph", "denoiser, backward"
DECODE, DECODE_BACK, REWARD, REWARD_BACK = "decode", "decode, backward", "reward", "reward, backward"
TEXT = "text"
SWITCHES = ("gradient_checkpointing", "vae_slicing", "tf32", "compile", "channels_last")
SETTINGS = (
    *("train_batch_size", "num_inference_steps", "gradient_steps", "trajectory_steps", "gradient_checkpointing"),
    *("vae_slicing", "dtype", "reward_dtype", "device", "tf32", "gradient_estimator"),
)
"""Arguments that are settings of `reneg learn`."""
RESULT = Path(__file__).with_suffix(".json")


class Stopwatch:
    """Seconds and samples of each part, told by hooks; a backward pass is in the part whose gradient came last."""

    def __init__(self, model: LatentModel):
        self._cuda = model.device.type == "cuda"
        self.seconds: Counter[str] = Counter()
        self.samples: Counter[str] = Counter()
        self._begun, self._part, self._since = 0.0, None, 0.0
        for module in (model.denoiser, model.vae.decoder, *model.encoders):
            module.register_forward_pre_hook(lambda module, inputs: self._begin())
        model.denoiser.register_forward_hook(lambda module, inputs, output: self._denoised(output.sample))
        model.vae.decoder.register_forward_hook(lambda module, inputs, output: self._decoded(inputs[0], output))
        for encoder in model.encoders:
            encoder.register_forward_hook(lambda module, inputs, output: self.add(TEXT, len(output[0])))

    def clear(self) -> None:
        self.seconds.clear()
        self.samples.clear()

    def now(self) -> float:
        """Seconds, once the GPU has done all that it was told."""
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _begin(self) -> None:
        self._begun = self.now()

    def add(self, part: str, samples: int, since: float | None = None) -> None:
        """A call that ends now."""
        self.seconds[part] += self.now() - (self._begun if since is None else since)
        self.samples[part] += samples

    def arrive(self, part: str | None, samples: int = 0) -> None:
        """The backward pass goes on to another part; none at its end."""
        now = self.now()
        if self._part is not None:
            self.seconds[self._part] += now - self._since
        self._part, self._since = part, now
        if part is not None:
            self.samples[part] += samples

    def _denoised(self, prediction: Tensor) -> None:
        self.add(GRAPH if prediction.requires_grad else FORWARD, len(prediction))
        if prediction.requires_grad:
            prediction.register_hook(lambda gradient: self.arrive(BACK, len(gradient)))

    def _decoded(self, latents: Tensor, images: Tensor) -> None:
        self.add(DECODE, len(images))
        if images.requires_grad:
            images.register_hook(lambda gradient: self.arrive(DECODE_BACK, len(gradient)))
            latents.register_hook(lambda gradient: self.arrive(None))


class TimedReward:
    """Another reward, on the stopwatch."""

    def __init__(self, reward: Reward, watch: Stopwatch):
        self.name, self._reward, self._watch = reward.name, reward, watch

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        since = self._watch.now()
        rewards = self._reward(images, prompts)
        self._watch.add(REWARD, len(rewards), since)
        rewards.register_hook(lambda gradient: self._watch.arrive(REWARD_BACK, len(gradient)))
        return rewards


class Profiled(Learner):
    """Learning steps alone: no looks, no report."""

    watch: Stopwatch

    def measure(self, watch: Stopwatch, steps: int) -> dict:
        """Encode the texts and take some steps; what the fastest after the first cost, which warms up."""
        self.watch, rows = watch, []
        for parameter in self.target.parameters():
            parameter.register_post_accumulate_grad_hook(lambda _: watch.arrive(None))
        self._start()
        self._prepare()
        text = {"samples": watch.samples[TEXT], "seconds": round(watch.seconds[TEXT], 3)}
        for _ in range(steps + 1):
            watch.clear()
            cpu, begin = time.process_time(), watch.now()
            self._update()
            rows.append((watch.now() - begin, time.process_time() - cpu, dict(watch.seconds)))
        whole, cpu, parts = min(rows[1:] or rows, key=lambda row: row[0])
        return {
            "text_before_learning": text,
            "seconds": round(whole, 3),
            "cpu_seconds": round(cpu, 3),
            "parts": {
                part: {"samples": self.watch.samples[part], "seconds": round(seconds, 3)}
                for part, seconds in sorted(parts.items(), key=lambda item: -item[1])
            },
            "overhead_share": round(1 - sum(parts.values()) / whole, 4),
        }


def floor(config: LearnConfig, learner: Learner) -> dict[str, float]:
    """What a step needs at least, by arithmetic: each timestep once on both branches, one backward a gradient."""
    found = learning_effort(config, learner.target.policy, updates=1, num_processes=1, pictures_of_a_look=0)
    return {
        "denoiser forwards": found["denoiser_evaluations"],
        "denoiser backwards": found["denoiser_backward_evaluations"],
        "decodes": found["decoded_pictures"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["world", "sd1.5-random"], default="world")
    parser.add_argument("--resolution", type=int, default=None, help="of sd1.5-random: 256 or 512 pixels")
    parser.add_argument("--train_batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2, help="measured, after one that warms up; 0 measures that one")
    parser.add_argument("--num_inference_steps", type=int, default=30)
    parser.add_argument("--trajectory_steps", type=int, default=None)
    parser.add_argument("--gradient_steps", type=int, default=3)
    parser.add_argument("--gradient_estimator", choices=["late_steps", "draft", "draft_lv"], default="late_steps")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--reward_dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu")
    for switch in SWITCHES:
        parser.add_argument(f"--{switch}", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    last = arguments.num_inference_steps - 1
    shared = {name: getattr(arguments, name) for name in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        config = replace(
            LearnConfig(**preset("world")),
            grad_step_range=(last - arguments.gradient_steps + 1, last),
            monitor=None,
            output_dir=Path(folder),
            **shared,
        )
        model, reward = models(arguments)
        watch = Stopwatch(model)
        prompts = load_prompts().learn[: 4 * config.train_batch_size]
        learner = Profiled(config, model, TimedReward(reward, watch), None, prompts, make_accelerator(config))
        found = learner.measure(watch, arguments.steps)
    shared |= {"compile": arguments.compile, "channels_last": arguments.channels_last}
    settings = {**shared, "threads": arguments.threads, "torch": torch.__version__, "cores": os.cpu_count()}
    key = arguments.model + (f" at {arguments.resolution} pixels" if arguments.resolution else "")
    key += "" if arguments.gradient_estimator == "late_steps" else f", {arguments.gradient_estimator}"
    key += f", gradients {arguments.gradient_steps}, trajectory {arguments.trajectory_steps or 'own'}"
    key += "".join(f", {name}" for name in SWITCHES if getattr(arguments, name))
    key += f", {arguments.device} {arguments.dtype}" * (arguments.device != "cpu" or arguments.dtype != "fp32")
    rows = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    found = {"settings": settings | {"load_average": round(os.getloadavg()[0], 1)}, **found}
    rows[key] = found | {"floor": floor(config, learner)}
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows[key], indent=1))


def models(arguments: argparse.Namespace) -> tuple[LatentModel, Reward]:
    """What is measured, on its device."""
    device, dtype, reward_dtype = arguments.device, DTYPES[arguments.dtype], DTYPES[arguments.reward_dtype]
    torch.backends.cuda.matmul.allow_tf32 = arguments.tf32
    if arguments.model == "world":
        model: LatentModel = load_model("world", device=device, dtype=dtype)
        reward = load_reward("world/preference", device=device, dtype=reward_dtype)
    else:
        model = random_model("sd1.5", resolution=arguments.resolution or 512, dtype=dtype, device=device)
        reward = random_reward("hpsv2.1", dtype=reward_dtype, device=device)
    if arguments.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    for module in (model.denoiser, model.vae.decoder):
        if arguments.channels_last:
            module.to(memory_format=torch.channels_last)
        if arguments.compile:
            module.compile()
    return model, reward


if __name__ == "__main__":
    main()
