"""The evaluation: the same prompts and the same noises for every contender, measured and told."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from jaxtyping import Float
from numpy import ndarray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reneg.config import EvaluateConfig
from reneg.evaluation.comparison import Comparison, load_groups, load_real_pictures
from reneg.evaluation.contenders import load_contenders
from reneg.evaluation.page import REPORT, write_page
from reneg.evaluation.store import Shards, fingerprint
from reneg.evaluation.summary import RESULTS, Scores, summarise, write_results
from reneg.evaluation.tables import print_table
from reneg.evaluation.work import Advance, Stores, draw_pictures, score_pictures
from reneg.files import make_output_dir
from reneg.models import MODELS, check_device, load_configured
from reneg.monitor import clipped_share, diversity, saturation
from reneg.negatives import batches, check_prompt_lengths
from reneg.report import to_images
from reneg.rewards import find_reward, load_reward
from reneg.rewards.own import OWN, own_source
from reneg.rewards.process import is_process, process_files


def evaluate(config: EvaluateConfig, *, console: Console | None = None) -> dict:
    """`reneg evaluate`: compare negatives, and write results.json, scores.jsonl and report.html.

    Under accelerate's launcher the processes share the pictures and scores, and the main one sums up.

    Args:
        console: shows a progress bar, then the tables, of the main process alone; None shows nothing.

    Returns:
        What results.json holds.

    Raises:
        ValueError, OSError: with one line that names the flag.
    """
    groups = load_groups(config)
    make_output_dir(config.output_dir)
    check_device(config.device)
    state = PartialState(cpu=config.device == "cpu")
    device = config.device if state.num_processes == 1 else str(state.device)
    model = load_configured(config, device=device)
    contenders = load_contenders(config, model, [prompt for group in groups.values() for prompt in group])
    rewards = [load_reward(name, device=device, published=config.published) for name in config.rewards]
    if len({reward.name for reward in rewards}) < len(rewards) or not rewards:
        raise ValueError(f"--rewards {config.rewards}: give at least one, and none twice")
    fingerprints = {config.model: model_fingerprint(config.model)}
    fingerprints |= {
        reward.name: reward_fingerprint(name, published=config.published)
        for name, reward in zip(config.rewards, rewards, strict=True)
    }
    real = load_real_pictures() if config.prompts is None else None
    results = compare(Comparison(model, rewards, contenders, groups, fingerprints, real), config, console=console)
    if console is not None and state.is_main_process:
        print_table(results, console)
        for name, file in (("Results: ", RESULTS), ("Report:  ", REPORT)):
            console.print(f"{name}{config.output_dir / file}", markup=False, highlight=False, soft_wrap=True)
    return results


def model_fingerprint(model: str) -> str:
    """What identifies the weights of a `--model` value."""
    if model not in MODELS:
        return fingerprint(model)
    row = MODELS[model]
    return " ".join(fingerprint(part) for part in (row.location, row.denoiser) if part is not None)


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
    start, state = time.perf_counter(), PartialState(cpu=config.device == "cpu")
    check_prompt_lengths(comparison.prompts, comparison.model, source=config.prompts)
    stores = Stores.open(comparison, config, state)
    missing = stores.missing_pictures(), stores.missing_scores()
    with _progress(console if state.is_main_process else None, sum(missing) // state.num_processes) as advance:
        draw_pictures(comparison, stores, config, state, advance)
        score_pictures(comparison, stores, config, state, advance)
    if not state.is_main_process:
        state.wait_for_everyone()
        return json.loads((config.output_dir / RESULTS).read_text(encoding="utf-8"))
    pictures = sum(store.total for store in stores.pictures.values())
    work = {
        "pictures": pictures,
        "denoiser_evaluations": 2 * pictures * config.num_inference_steps,
        "pictures_sampled_in_this_run": missing[0],
        "processes": state.num_processes,
        "elapsed_seconds_of_this_run": round(time.perf_counter() - start, 1),
    }
    scores = _measure(comparison, stores, config)
    results = summarise(comparison, config, scores) | {"work": work}
    write_results(comparison, config, scores, results)
    write_page(comparison, config, scores, stores.pictures, results)
    state.wait_for_everyone()
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


def _measure(comparison: Comparison, stores: Stores, config: EvaluateConfig) -> Scores:
    """All scores and measures; pictures are read batch by batch."""
    shape = (len(comparison.prompts), config.num_seeds)
    rewards = np.empty((len(comparison.contenders), len(comparison.rewards), *shape))
    for n, contender in enumerate(comparison.contenders):
        for r, reward in enumerate(comparison.rewards):
            store = stores.scores[contender.name, reward.name]
            rewards[n, r] = store.read(range(store.total)).reshape(shape)
    measured = [_measures_of(stores.pictures[contender.name], config) for contender in comparison.contenders]
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


@torch.no_grad()
def _real_rewards(comparison: Comparison, config: EvaluateConfig) -> Float[ndarray, "r m"] | None:
    if comparison.real is None:
        return None
    prompts, pictures = comparison.real.prompts, comparison.real.pictures.numpy()
    scores = np.empty((len(comparison.rewards), len(prompts)))
    for r, reward in enumerate(comparison.rewards):
        for part in batches(range(len(prompts)), config.batch_size):
            images = to_images(pictures[part.start : part.stop]).to(comparison.model.device)
            scores[r, part.start : part.stop] = reward(images, prompts[part.start : part.stop]).double().cpu().numpy()
    return scores
