"""The recipe of the bundled world: `python -m world STAGE`, or `python -m world all`.

Every stage is seeded, resumes where it was interrupted, and leaves its state and log in the work folder.
"""

import argparse
import json
import os

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from . import card, export, generator, prompts, quality, rewards, rewriter, siblings, tokenizer, vae
from .data import WORK
from .training import PACKAGE

MINUTES = {"vae": 17.0, "generator": 102.5, "preference": 18.0, "monitor": 11.0, "judge": 28.0, "aesthetic": 5.0}
"""Training time of each part on two cores (the rewards: on one)."""


def load_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(WORK / "tokenizer")


def load_vae() -> AutoencoderKL:
    return vae.train(MINUTES["vae"])


def load_latents() -> None:
    if not (WORK / "latents.pt").exists():
        generator.make_latents(load_vae(), load_tokenizer())


def make_failures() -> None:
    """Failures of the two under-trained snapshots: for training the rewards, and on held-out scenes to test them."""
    scaling = torch.load(WORK / "latents.pt", weights_only=True)["scaling_factor"]
    pipes = []
    for number in range(len(generator.SNAPSHOTS)):
        model = generator.build(load_tokenizer())
        model.load_state_dict(torch.load(WORK / "generator" / f"snapshot-{number}.pt", weights_only=True))
        pipes.append(generator.pipeline(model, load_tokenizer(), load_vae(), scaling))
    torch.save(rewards.make_failures(pipes, count=1200, held_out=False, seed=31), WORK / "failures.pt")
    torch.save(rewards.make_failures(pipes, count=300, held_out=True, seed=32), WORK / "failures-held-out.pt")


def train_generator() -> generator.Generator:
    data = torch.load(WORK / "latents.pt", weights_only=True)
    model, minutes = generator.build(load_tokenizer()), MINUTES["generator"]
    return generator.train("generator", model, data, minutes=minutes, snapshots=generator.SNAPSHOTS)


def train_reward(name: str) -> torch.nn.Module:
    return rewards.train(name, load_tokenizer(), load_vae(), MINUTES[name])


def export_world() -> None:
    models = {name: train_reward(name).eval() for name in rewards.REWARDS}
    export.export(train_generator().eval(), load_tokenizer(), load_vae(), models)


def make_rewriter() -> None:
    """It learns from the finished world's captions, and joins it."""
    rewriter.save(*rewriter.train(), PACKAGE / "rewriter")
    export.declare_float32(PACKAGE)
    export.write_checksums(PACKAGE)
    export.copy_logs()


STAGES = {
    "tokenizer": lambda: tokenizer.train(WORK / "tokenizer"),
    "vae": load_vae,
    "latents": load_latents,
    "generator": train_generator,
    "failures": make_failures,
    **{name: (lambda name=name: train_reward(name)) for name in rewards.REWARDS},
    "prompts": prompts.write,
    "export": export_world,
    "rewriter": make_rewriter,
    "siblings-latents": siblings.make_latents,
    **{name: (lambda name=name: siblings.train(name)) for name in siblings.SIBLINGS},
    "accuracy": lambda: quality.measure_rewards(torch.load(WORK / "failures-held-out.pt", weights_only=True)),
    "quality": quality.measure_generator,
    **{f"quality-{name}": (lambda name=name: quality.measure_generator(name)) for name in siblings.SIBLINGS},
    "card": card.write,
}
"""In the order in which they build on each other."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m world", description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    for name, run in STAGES.items():
        if arguments.stage in (name, "all"):
            run()
            print(json.dumps({"done": name}), flush=True)


if __name__ == "__main__":
    main()
