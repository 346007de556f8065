"""Pictures and scores: kept on disk as they are made, and shared out over the processes that make them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from reneg.config import EvaluateConfig
from reneg.evaluation.comparison import Comparison
from reneg.evaluation.contenders import Contender
from reneg.evaluation.store import Shards, content_key
from reneg.generation import generate, picture_generators, picture_noise
from reneg.interfaces import Reward
from reneg.report import to_images, to_uint8

FORMAT = 1
"""Raised whenever the same settings come to give other pictures or scores, so that nothing old is taken for new."""

Name = TypeVar("Name", str, tuple[str, str])
Advance = Callable[[int, str], None]
"""Called with how many pictures or scores are done, and what was being done."""


@runtime_checkable  # so that the tests can check types at run time
class Processes(Protocol):
    """This process among those that share the work: what is asked of accelerate's PartialState."""

    process_index: int
    num_processes: int

    @property
    def is_main_process(self) -> bool: ...

    def wait_for_everyone(self) -> None: ...


@dataclass(frozen=True)
class Stores:
    """What is kept of a comparison. Contenders with the same pictures share them."""

    pictures: dict[str, Shards]
    """By the contender's name."""
    scores: dict[tuple[str, str], Shards]
    """By the contender's and the reward's name."""

    @classmethod
    def open(cls, comparison: Comparison, config: EvaluateConfig, processes: Processes) -> "Stores":
        """Find what is there. No process goes on before all have: so all see the same work, whoever begins it."""
        total = len(comparison.prompts) * config.num_seeds
        opened: dict[tuple[str, str], Shards] = {}

        def shards(kind: str, key: str) -> Shards:
            if (kind, key) not in opened:
                opened[kind, key] = Shards(config.output_dir / kind / key, total)
            return opened[kind, key]

        pictures = {c.name: shards("pictures", picture_key(comparison, c, config)) for c in comparison.contenders}
        scores = {}
        for name, store in pictures.items():
            for reward in comparison.rewards:
                content: dict[str, object] = {
                    "pictures": store.folder.name,
                    "reward": comparison.fingerprints[reward.name],
                }
                scores[name, reward.name] = shards("scores", content_key(content))
        processes.wait_for_everyone()
        return cls(pictures, scores)

    def missing_pictures(self) -> int:
        """How many are to be drawn."""
        return sum(store.total - len(store) for store in _different(self.pictures).values())

    def missing_scores(self) -> int:
        return sum(store.total - len(store) for store in _different(self.scores).values())


def picture_key(comparison: Comparison, contender: Contender, config: EvaluateConfig) -> str:
    """Names everything that determines a contender's pictures; the batch size does not, nor does the name."""
    own: dict[str, object] = {}  # what a negative alone does not have
    if contender.weights is not None:
        own["weights"] = contender.weights.sha256
    drawn = contender.drawn(comparison.prompts)
    if drawn != comparison.prompts:
        own["drawn"] = drawn
    return content_key(
        {
            "format": FORMAT,
            "model": comparison.fingerprints[comparison.model.name],
            "negative": contender.negative.content(),
            "prompts": comparison.prompts,
            "num_seeds": config.num_seeds,
            "seed": config.seed,
            "num_inference_steps": config.num_inference_steps,
            "guidance_scale": contender.guidance_scale,
            "scheduler": config.scheduler,
            "revision": config.revision,
            "dtype": config.dtype,
            "device": config.device,
            **own,
        }
    )


def draw_pictures(
    comparison: Comparison, stores: Stores, config: EvaluateConfig, processes: Processes, advance: Advance
) -> None:
    """Make this process's share of the missing pictures; when it returns, all are there.

    Picture number i is noise i % num_seeds of prompt i // num_seeds.
    """
    for name, batches in _shares(stores.pictures, config.batch_size, processes).items():
        contender = next(contender for contender in comparison.contenders if contender.name == name)
        with contender.in_force(comparison.model):
            for numbers in batches:
                images = _draw(comparison, contender, numbers, config)
                stores.pictures[name].write(numbers.start, to_uint8(images).numpy())
                advance(len(numbers), f"{name}: pictures")
    _meet(stores.pictures, processes)


def _draw(
    comparison: Comparison, contender: Contender, numbers: range, config: EvaluateConfig
) -> Float[Tensor, "b 3 H W"]:
    """Some of a contender's pictures, by the weights in force."""
    prompts = [comparison.prompts[number // config.num_seeds] for number in numbers]
    generators = picture_generators(config.seed, numbers.start, len(numbers))
    images = generate(
        comparison.model,
        contender.drawn(prompts),
        contender.negative.of(comparison.model, prompts),
        picture_noise(comparison.model, generators),
        guidance_scale=contender.guidance_scale,
        num_inference_steps=config.num_inference_steps,
        generators=generators,
    )
    if not images.isfinite().all():
        raise ValueError(f"--negatives {contender.value}: the model gave NaN or infinity for these pictures")
    return images


@torch.no_grad()
def score_pictures(
    comparison: Comparison, stores: Stores, config: EvaluateConfig, processes: Processes, advance: Advance
) -> None:
    """Score this process's share of the pictures that have no score yet, by their original prompts; when it returns,
    all have one."""
    rewards = {reward.name: reward for reward in comparison.rewards}
    for (name, reward), batches in _shares(stores.scores, config.batch_size, processes).items():
        for numbers in batches:
            scores = _scores_of(comparison, rewards[reward], stores.pictures[name], numbers, config)
            if not np.isfinite(scores).all():
                raise ValueError(f"--rewards {reward}: gave NaN or infinity for pictures of {name}")
            stores.scores[name, reward].write(numbers.start, scores)
            advance(len(numbers), f"{name}: {reward}")
    _meet(stores.scores, processes)


def _scores_of(
    comparison: Comparison, reward: Reward, pictures: Shards, numbers: range, config: EvaluateConfig
) -> Float[ndarray, " b"]:
    prompts = [comparison.prompts[number // config.num_seeds] for number in numbers]
    images = to_images(pictures.read(numbers)).to(comparison.model.device)
    return reward(images, prompts).double().cpu().numpy()


def _shares(stores: Mapping[Name, Shards], batch_size: int, processes: Processes) -> dict[Name, list[range]]:
    """What this process has to make, by name: every num_processes-th of all missing batches.

    The batches are those that a single process would make, and are counted over all stores, so that the processes
    have equally many.
    """
    batches = [(name, rows) for name, store in _different(stores).items() for rows in store.missing(batch_size)]
    mine: dict[Name, list[range]] = {}
    for name, numbers in batches[processes.process_index :: processes.num_processes]:
        mine.setdefault(name, []).append(numbers)
    return mine


def _different(stores: Mapping[Name, Shards]) -> dict[Name, Shards]:
    """The stores, each once, under the first of its names."""
    first = {store.folder: name for name, store in reversed(list(stores.items()))}
    return {name: store for name, store in stores.items() if first[store.folder] == name}


def _meet(stores: Mapping[Name, Shards], processes: Processes) -> None:
    """Wait for the other processes, and find what they made."""
    processes.wait_for_everyone()
    for store in stores.values():
        store.refresh()
