"""The evaluation: the same prompts and the same noises for every negative, kept on disk as they are made."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reneg.config import EvaluateConfig
from reneg.evaluation.contenders import Comparison, Contender, load_contenders, load_groups, load_real_pictures
from reneg.evaluation.page import write_page
from reneg.evaluation.store import Shards, content_key, fingerprint
from reneg.evaluation.summary import Scores, summarise, write_results
from reneg.files import make_output_dir
from reneg.generation import generate, picture_generators, picture_noise
from reneg.interfaces import Reward
from reneg.models import MODELS, load_configured
from reneg.monitor import clipped_share, diversity, saturation
from reneg.negative import tensor_hash
from reneg.negatives import batches, check_prompt_lengths
from reneg.report import to_images, to_uint8
from reneg.rewards import find_reward, load_reward
from reneg.rewards.own import OWN, own_source
from reneg.rewards.process import is_process, process_files

FORMAT = 1
"""Raised whenever the same settings come to give other pictures or scores, so that nothing old is taken for new."""

Advance = Callable[[int, str], None]
"""Called with how many pictures or scores are done, and what was being done."""


def evaluate(config: EvaluateConfig, *, console: Console | None = None) -> dict:
    """`reneg evaluate`: compare negatives, and write results.json, scores.jsonl and report.html.

    Args:
        console: shows a progress bar; None shows nothing.

    Returns:
        What results.json holds.

    Raises:
        ValueError, OSError: with one line that names the flag.
    """
    groups = load_groups(config)
    make_output_dir(config.output_dir)
    model = load_configured(config, device=config.device)
    contenders = load_contenders(config.negatives, model)
    rewards = [load_reward(name, device=config.device, published=config.published) for name in config.rewards]
    if len({reward.name for reward in rewards}) < len(rewards) or not rewards:
        raise ValueError(f"--rewards {config.rewards}: give at least one, and none twice")
    fingerprints = {config.model: model_fingerprint(config.model)}
    fingerprints |= {
        reward.name: reward_fingerprint(name, published=config.published)
        for name, reward in zip(config.rewards, rewards, strict=True)
    }
    real = load_real_pictures() if config.prompts is None else None
    return compare(Comparison(model, rewards, contenders, groups, fingerprints, real), config, console=console)


def model_fingerprint(model: str) -> str:
    """What identifies the weights of a `--model` value."""
    return fingerprint(MODELS[model].location if model in MODELS else model)


def reward_fingerprint(reward: str, *, published: bool) -> str:
    """What identifies a reward's scores: its weights or its own module, and the path that pictures take into it."""
    if OWN.fullmatch(reward):
        return f"{fingerprint(own_source(reward))} {reward}"
    if is_process(reward):
        return " ".join(fingerprint(file) for file in process_files(Path(reward)))
    _, source = find_reward(reward)
    location = source.location
    if isinstance(location, Path) and source.weights is not None:
        location = location / source.weights
    elif source.weights is not None:
        location = f"{location}/{source.weights}"
    return fingerprint(str(location)) + (" published" if published else "")


def compare(comparison: Comparison, config: EvaluateConfig, *, console: Console | None = None) -> dict:
    """`evaluate` for what is loaded already."""
    start = time.perf_counter()
    check_prompt_lengths(comparison.prompts, comparison.model, source=config.prompts)
    total = len(comparison.prompts) * config.num_seeds
    stores = {c.name: _picture_store(comparison, c, config) for c in comparison.contenders}
    reused = sum(len(store) for store in stores.values())
    with _progress(console, len(stores) * total * (1 + len(comparison.rewards))) as advance:
        for contender in comparison.contenders:
            _sample(comparison, contender, stores[contender.name], config, advance)
        scores = _score(comparison, stores, config, advance)
    pictures = len(stores) * total
    work = {
        "pictures": pictures,
        "denoiser_evaluations": 2 * pictures * config.num_inference_steps,
        "pictures_sampled_in_this_run": pictures - reused,
        "elapsed_seconds_of_this_run": round(time.perf_counter() - start, 1),
    }
    results = summarise(comparison, config, scores) | {"work": work}
    write_results(comparison, config, scores, results)
    write_page(comparison, config, scores, stores, results)
    return results


@contextmanager
def _progress(console: Console | None, total: int) -> Iterator[Advance]:
    """A progress bar on a console, or nothing; gives the function that advances it."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=console is None) as bar:
        task = bar.add_task("evaluating", total=total)
        yield lambda count, what: bar.update(task, advance=count, description=what)


def _picture_store(comparison: Comparison, contender: Contender, config: EvaluateConfig) -> Shards:
    return Shards(
        config.output_dir / "pictures" / picture_key(comparison, contender, config),
        len(comparison.prompts) * config.num_seeds,
    )


def picture_key(comparison: Comparison, contender: Contender, config: EvaluateConfig) -> str:
    """Names everything that determines a negative's pictures; the batch size does not, nor does the name."""
    return content_key(
        {
            "format": FORMAT,
            "model": comparison.fingerprints[comparison.model.name],
            "negative": tensor_hash(*contender.conditioning.tensors()),
            "prompts": comparison.prompts,
            "num_seeds": config.num_seeds,
            "seed": config.seed,
            "num_inference_steps": config.num_inference_steps,
            "guidance_scale": config.guidance_scale,
            "scheduler": config.scheduler,
            "revision": config.revision,
            "dtype": config.dtype,
            "device": config.device,
        }
    )


def _sample(
    comparison: Comparison,
    contender: Contender,
    store: Shards,
    config: EvaluateConfig,
    advance: Advance,
) -> None:
    """Make the pictures that are missing; picture number i is noise i % num_seeds of prompt i // num_seeds."""
    advance(len(store), f"{contender.name}: pictures")
    for numbers in store.missing(config.batch_size):
        generators = picture_generators(config.seed, numbers.start, len(numbers))
        images = generate(
            comparison.model,
            [comparison.prompts[number // config.num_seeds] for number in numbers],
            contender.conditioning,
            picture_noise(comparison.model, generators),
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
            generators=generators,
        )
        if not images.isfinite().all():
            raise ValueError(f"--negatives {contender.value}: the model gave NaN or infinity for these pictures")
        store.write(numbers.start, to_uint8(images).numpy())
        advance(len(numbers), f"{contender.name}: pictures")


@torch.no_grad()
def _score(comparison: Comparison, stores: dict[str, Shards], config: EvaluateConfig, advance: Advance) -> Scores:
    shape = (len(comparison.prompts), config.num_seeds)
    rewards = np.empty((len(stores), len(comparison.rewards), *shape))
    for n, (name, pictures) in enumerate(stores.items()):
        for r, reward in enumerate(comparison.rewards):
            rewards[n, r] = _rewards_of(comparison, reward, pictures, config, name, advance).reshape(shape)
    measured = [_measures_of(pictures, config) for pictures in stores.values()]
    measures = {name: np.stack([of[name] for of in measured]) for name in measured[0]}
    return Scores(rewards, measures, _real_rewards(comparison, config))


def _measures_of(pictures: Shards, config: EvaluateConfig) -> dict[str, Float[ndarray, " p"]]:
    """Saturation, share of clipped values and, where a prompt has more than one noise, diversity, by prompt."""
    found: dict[str, list[float]] = {}
    seeds = config.num_seeds
    for prompts in batches(range(pictures.total // seeds), max(1, config.batch_size // seeds)):
        images = to_images(pictures.read(range(prompts.start * seeds, prompts.stop * seeds)))
        found.setdefault("saturation", []).extend(saturation(images).view(-1, seeds).mean(1).tolist())
        found.setdefault("clipped", []).extend(clipped_share(images).view(-1, seeds).mean(1).tolist())
        if seeds > 1:
            found.setdefault("diversity", []).extend(diversity(images, seeds).tolist())
    return {name: np.array(values) for name, values in found.items()}


def _rewards_of(
    comparison: Comparison,
    reward: Reward,
    pictures: Shards,
    config: EvaluateConfig,
    name: str,
    advance: Advance,
) -> Float[ndarray, " m"]:
    """One reward of one negative's pictures, by picture number; only what is missing is computed."""
    key = content_key({"pictures": pictures.folder.name, "reward": comparison.fingerprints[reward.name]})
    store = Shards(config.output_dir / "scores" / key, pictures.total)
    advance(len(store), f"{name}: {reward.name}")
    for numbers in store.missing(config.batch_size):
        prompts = [comparison.prompts[number // config.num_seeds] for number in numbers]
        images = to_images(pictures.read(numbers)).to(config.device)
        scores = reward(images, prompts).double().cpu().numpy()
        if not np.isfinite(scores).all():
            raise ValueError(f"--rewards {reward.name}: gave NaN or infinity for pictures of {name}")
        store.write(numbers.start, scores)
        advance(len(numbers), f"{name}: {reward.name}")
    return store.read(range(store.total))


def _real_rewards(comparison: Comparison, config: EvaluateConfig) -> Float[ndarray, "r m"] | None:
    if comparison.real is None:
        return None
    prompts, pictures = comparison.real.prompts, comparison.real.pictures.numpy()
    scores = np.empty((len(comparison.rewards), len(prompts)))
    for r, reward in enumerate(comparison.rewards):
        for part in batches(range(len(prompts)), config.batch_size):
            images = to_images(pictures[part.start : part.stop]).to(config.device)
            scores[r, part.start : part.stop] = reward(images, prompts[part.start : part.stop]).double().cpu().numpy()
    return scores
