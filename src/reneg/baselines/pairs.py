"""Pairs of pictures of one prompt, of which one is preferred: made by the model itself or read from files, as latents.

They are kept in the folder `pairs` of a run, a few in each file, and read as they are needed.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from reneg.algorithm import denoise
from reneg.baselines.inputs import model_fingerprint, reward_fingerprint
from reneg.baselines.policy_config import DiffusionDpoConfig
from reneg.files import keep_settings, make_output_dir, write_atomically
from reneg.generation import picture_generators, picture_noise
from reneg.interfaces import DiffusionModel, Reward
from reneg.models.base import LatentModel
from reneg.negatives import batches
from reneg.randomness import derive_seed

logger = logging.getLogger(__name__)

FOLDER = "pairs"
IN_A_FILE = 8
"""Pairs of one file, which are made together."""


@dataclass(frozen=True)
class PicturePair:
    """One line of `--pairs`."""

    prompt: str
    chosen: Path
    rejected: Path


class PairStore:
    """The pairs of a run, by number."""

    def __init__(self, folder: Path, prompts: Sequence[str]):
        """Args: prompts: of each pair."""
        self.folder, self.prompts = folder, list(prompts)

    def file(self, first: int) -> Path:
        """That of the pairs number `first` and on."""
        return self.folder / f"{first:06d}.safetensors"

    def missing(self) -> list[range]:
        """The numbers of the pairs of each file that is not there yet."""
        return [part for part in batches(range(len(self.prompts)), IN_A_FILE) if not self.file(part.start).is_file()]

    def add(self, first: int, pairs: Float[Tensor, "p 2 c h w"], facts: dict[str, str]) -> None:
        """Write a file of pairs, chosen before rejected."""
        tensors = {"pairs": pairs.detach().float().cpu().contiguous()}
        write_atomically(self.file(first), lambda path: save_file(tensors, path, metadata=facts))

    def read(self, numbers: Sequence[int]) -> Float[Tensor, "p 2 c h w"]:
        """Latents of some pairs, chosen before rejected."""
        latents = []
        for number in numbers:
            first = number - number % IN_A_FILE
            with safe_open(self.file(first), framework="pt") as file:
                latents.append(file.get_slice("pairs")[number - first : number - first + 1])
        return torch.cat(latents)

    def mean_rewards(self) -> tuple[float, float]:
        """Of the chosen and of the rejected pictures, where the model made them."""
        rewards = []
        for part in batches(range(len(self.prompts)), IN_A_FILE):
            with safe_open(self.file(part.start), framework="pt") as file:
                rewards += json.loads(file.metadata()["rewards"])
        chosen, rejected = torch.tensor(rewards, dtype=torch.float64).mean(0).tolist()
        return chosen, rejected


@torch.no_grad()
def make_pairs(
    model: DiffusionModel, reward: Reward, prompts: Sequence[str], numbers: range, config: DiffusionDpoConfig
) -> tuple[Float[Tensor, "p 2 c h w"], list[list[float]]]:
    """For each pair the best and the worst of several pictures of the prompt, by the reward.

    A picture's noise depends on the seed and on the number of the pair alone.

    Returns:
        Their latents and their rewards.
    """
    count = config.pictures_per_pair
    repeated = [prompts[number] for number in numbers for _ in range(count)]
    seed = derive_seed(config.seed, "pairs", 0)
    generators = picture_generators(seed, numbers.start * count, len(repeated))
    timesteps = model.set_timesteps(config.pair_inference_steps or config.num_inference_steps)
    latents = denoise(
        model,
        model.initial_latents(picture_noise(model, generators)),
        timesteps,
        model.encode_prompt(repeated),
        model.null_conditioning().expand(len(repeated)),
        config.guidance_scale,
        generators,
    )
    rewards = reward(model.decode(latents).clamp(0, 1), repeated).view(-1, count)
    order = torch.stack([rewards.argmax(1), rewards.argmin(1)], dim=1)
    chosen = latents.unflatten(0, (-1, count))[torch.arange(len(numbers))[:, None], order]
    return chosen, rewards.gather(1, order).tolist()


def own_pairs(
    model: DiffusionModel, reward: Reward, prompts: Sequence[str], config: DiffusionDpoConfig
) -> tuple[PairStore, int]:
    """The pairs that a model makes, prompts in turn, evenly spread; those that are there already stay.

    Returns:
        The pairs, and the denoiser evaluations that all of them took.

    Raises:
        ValueError: the folder holds pairs of other settings.
    """
    count = config.num_pairs
    if count < len(prompts):
        chosen = [prompts[number * len(prompts) // count] for number in range(count)]
    else:
        chosen = [prompts[number % len(prompts)] for number in range(count)]
    names = ("num_pairs", "pictures_per_pair", "guidance_scale", "scheduler", "dtype", "seed")
    steps = config.pair_inference_steps or config.num_inference_steps
    settings = {name: vars(config)[name] for name in names} | {
        "pair_inference_steps": steps,
        "prompts_sha256": hashlib.sha256("\n".join(chosen).encode()).hexdigest(),
        "model": model_fingerprint(config.model),
        "reward": reward_fingerprint(config.reward),
    }
    store = _open_store(config, chosen, settings)
    for numbers in store.missing():
        pairs, rewards = make_pairs(model, reward, chosen, numbers, config)
        store.add(numbers.start, pairs, {"rewards": json.dumps(rewards)})
        logger.info("pairs: %d of %d", numbers.stop, count)
    return store, 2 * steps * config.pictures_per_pair * count


def read_pairs(file: Path) -> list[PicturePair]:
    """The lines of `--pairs`; picture files are beside it unless their paths are absolute.

    Raises:
        ValueError: it cannot be read, a line is none, or a picture is not there; in one line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--pairs {file} cannot be read ({error}); give a .jsonl file") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
                pair = PicturePair(row["prompt"], file.parent / row["chosen"], file.parent / row["rejected"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"--pairs {file} line {number}: must be a JSON object of prompt, chosen and rejected ({error!r})"
                ) from error
            absent = [str(picture) for picture in (pair.chosen, pair.rejected) if not picture.is_file()]
            if absent or not isinstance(pair.prompt, str):
                what = f"there is no {absent[0]}" if absent else f"the prompt is {pair.prompt!r}"
                raise ValueError(f"--pairs {file} line {number}: {what}")
            pairs.append(pair)
    if not pairs:
        raise ValueError(f"--pairs {file}: holds no pair")
    return pairs


def picture_pairs(model: LatentModel, pictures: Sequence[PicturePair], config: DiffusionDpoConfig) -> PairStore:
    """Pairs of picture files, encoded by the VAE; those that are there already stay.

    Raises:
        ValueError: a file is no picture, or the folder holds other pairs.
    """
    content = hashlib.sha256("\n".join(f"{p.prompt}\t{p.chosen}\t{p.rejected}" for p in pictures).encode())
    settings = {"pairs_sha256": content.hexdigest(), "model": model_fingerprint(config.model), "dtype": config.dtype}
    store = _open_store(config, [pair.prompt for pair in pictures], settings)
    for numbers in store.missing():
        files = [file for number in numbers for file in (pictures[number].chosen, pictures[number].rejected)]
        store.add(numbers.start, encode_pictures(model, files).unflatten(0, (-1, 2)), {})
        logger.info("pairs: %d of %d encoded", numbers.stop, len(pictures))
    return store


@torch.no_grad()
def encode_pictures(model: LatentModel, files: Sequence[Path]) -> Float[Tensor, "b c h w"]:
    """Picture files -> latents: resized and cut around the middle to the model's size, the mode of the VAE's encoder.

    Raises:
        ValueError: a file is no picture.
    """
    vae = model.vae
    side = model.latent_shape[-1] * 2 ** (len(vae.config.block_out_channels) - 1)
    pixels = torch.stack([_read_picture(file, side) for file in files]).to(model.device, vae.dtype)
    return vae.encode(pixels * 2 - 1).latent_dist.mode() * vae.config.scaling_factor


def _read_picture(file: Path, side: int) -> Float[Tensor, "3 h w"]:
    """In [0, 1]."""
    try:
        with Image.open(file) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"--pairs: {file} is no picture ({error})") from error
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 255


def _open_store(config: DiffusionDpoConfig, prompts: Sequence[str], settings: dict) -> PairStore:
    folder = config.output_dir / FOLDER
    make_output_dir(folder)
    keep_settings(folder, settings)
    return PairStore(folder, prompts)
