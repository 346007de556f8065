"""Fig. 6: negative embeddings drawn as if they were prompts (§5.3)."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from reneg.analysis.config import Fig6Config
from reneg.analysis.output import Outcome, write_outcome
from reneg.evaluation.page import shown
from reneg.evaluation.statistics import bootstrap
from reneg.files import make_output_dir
from reneg.generation import picture_generators, picture_noise, sample
from reneg.interfaces import Conditioning, DiffusionModel, Reward
from reneg.intervals import interval
from reneg.models import load_configured
from reneg.monitor import clipped_share, saturation
from reneg.negatives import batches, resolve_negative
from reneg.report import labelled_rows
from reneg.rewards import load_reward

ALONE = 1.0
"""The guidance scale that leaves the prompt's prediction alone (Eq. 5)."""
SHOWN = 6
"""Pictures of each embedding in the grid, of the first noises."""
SIDE = 128
"""Pixels to which small pictures are enlarged, by whole factors."""


@torch.no_grad()
def draw(
    model: DiffusionModel, positive: Conditioning, guidance_scale: float, config: Fig6Config
) -> Float[Tensor, "n 3 H W"]:
    """Pictures in [0, 1] with a conditioning of one prompt in the prompt's place and the null text as the negative."""
    null, parts = model.null_conditioning(), []
    for numbers in batches(range(config.num_noises), config.batch_size):
        count, generators = len(numbers), picture_generators(config.seed, numbers.start, len(numbers))
        images = sample(
            model,
            positive.expand(count),
            null.expand(count),
            picture_noise(model, generators),
            guidance_scale=guidance_scale,
            num_inference_steps=config.num_inference_steps,
            generators=generators,
        )
        parts.append(images.cpu())
    return torch.cat(parts)


@torch.no_grad()
def statistics(images: Float[Tensor, "n 3 H W"], reward: Reward) -> dict[str, Float[ndarray, " n"]]:
    """Measure -> one value a picture: colour, light, fine detail, and a reward of the picture alone."""
    grey = images.mean(1)
    edges = (grey.diff(dim=1).abs().mean((1, 2)) + grey.diff(dim=2).abs().mean((1, 2))) / 2
    measures = {
        "saturation": saturation(images),
        "brightness": grey.mean((1, 2)),
        "contrast": grey.flatten(1).std(1, correction=0),
        "edges": edges,
        "clipped": clipped_share(images),
        reward.name: reward(images, [""] * len(images)),
    }
    return {name: values.double().cpu().numpy() for name, values in measures.items()}


def embeddings(model: DiffusionModel, config: Fig6Config) -> Iterator[tuple[str, Conditioning, float]]:
    """The rows: name, what is in the prompt's place, and the guidance scale."""
    named = {"null": "null", "N*": "handcrafted", "learned": config.negative}
    found = {name: resolve_negative(value, model) for name, value in named.items()}
    for name, conditioning in found.items():
        yield name, conditioning, ALONE
    for name, conditioning in found.items():
        if name != "null":  # guidance from the null text to itself changes nothing
            yield f"{name}, guidance {config.guidance_scale:g}", conditioning, config.guidance_scale


def run_fig_6(config: Fig6Config) -> Path:
    """`reneg reproduce fig6`; gives the table's file.

    Raises:
        ValueError, OSError: with one line that names the flag.
    """
    make_output_dir(config.output_dir)
    model = load_configured(config, device=config.device)
    reward = load_reward(config.reward, device=config.device)
    pictures, content, table = {}, {}, []
    for name, positive, scale in embeddings(model, config):
        images = draw(model, positive, scale, config)
        measured = statistics(images, reward)
        estimates = dict(zip(measured, bootstrap(np.stack(list(measured.values()), axis=1)), strict=True))
        content[name] = {measure: asdict(estimate) for measure, estimate in estimates.items()}
        table.append({"drawn as a prompt": name} | {m: interval(e) for m, e in content[name].items()})
        pictures[name] = images[:SHOWN]
    side = next(iter(pictures.values())).shape[-1]
    grid = labelled_rows({name: shown(images) for name, images in pictures.items()}, max(1, SIDE // side))
    text = (
        f"Each row has an embedding in the prompt's place and the null text as the negative; {config.num_noises} "
        f"noises, the same for all rows, of which the first {SHOWN} are shown; {config.num_inference_steps} steps; "
        "means with 95 % intervals over noises.\n\n"
        "The paper does not say with which guidance its pictures were drawn. Without guidance (scale 1) a row shows "
        "what the denoiser draws given the embedding alone: the distribution that guidance pushes away from, in which "
        "null is the average picture. With guidance, as a prompt is drawn, the way from null to the embedding is "
        "exaggerated; for null itself it changes nothing.\n\n"
        "contrast is the standard deviation of a picture's grey values, edges the mean difference of neighbours."
    )
    images = {"fig6.png": (", ".join(pictures), grid)}
    outcome = Outcome("Fig. 6: negative embeddings as pseudo-prompts", text, table, {"rows": content}, images)
    return write_outcome(config, outcome)
