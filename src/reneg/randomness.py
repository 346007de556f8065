"""Randomness that belongs to the sample, not to the process.

Every number that a run draws is a function of the run's seed and of what it is for: a sample's noise of the sample's
number, the step that carries the gradient of the optimiser step, the order of the prompts of the epoch. So nothing
depends on the batch size, on the number of processes or on a restart, and no generator state has to be saved.
"""

import hashlib
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from reneg.interfaces import DiffusionModel


def derive_seed(seed: int, purpose: str, number: int) -> int:
    """A 63-bit seed for one purpose; different purposes and numbers give unrelated generators."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """A CPU generator, whatever the model's device, so that all devices see the same numbers."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, number))


def draw_noise(
    generators: list[torch.Generator], shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "b c h w"]:
    """Standard normal noise, one sample from each generator; drawn in float32, so every dtype sees the same."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device, dtype, non_blocking=True)


def prompt_index(seed: int, sample_number: int, num_prompts: int) -> int:
    """Which prompt a sample uses: each epoch goes through all prompts once in an order of its own."""
    epoch, position = divmod(sample_number, num_prompts)
    return _prompt_order(seed, epoch, num_prompts)[position]


@lru_cache(maxsize=2)  # a batch may begin in one epoch and end in the next
def _prompt_order(seed: int, epoch: int, num_prompts: int) -> list[int]:
    """A permutation of the prompts, which is drawn as a whole."""
    return torch.randperm(num_prompts, generator=make_generator(seed, "prompt order", epoch)).tolist()


class Streams:
    """The random draws of some samples of one optimiser step."""

    def __init__(self, seed: int, optimizer_step: int, sample_numbers: list[int], *, antithetic: bool = False):
        """Antithetic samples come in pairs, 0 and 1, 2 and 3, …: the second has the first's noises with their signs
        turned (Hammersley and Morton 1956)."""
        self._seed, self._optimizer_step = seed, optimizer_step
        sources = [number - number % 2 if antithetic else number for number in sample_numbers]
        self.generators = [make_generator(seed, "sample", number) for number in sources]
        turned = [number != source for number, source in zip(sample_numbers, sources, strict=True)]
        self._signs = torch.tensor([-1.0 if turn else 1.0 for turn in turned])

    @classmethod
    def own(cls, seed: int, optimizer_step: int, generators: list[torch.Generator]) -> "Streams":
        """Samples that have generators of their own, in place of numbers."""
        streams = cls(seed, optimizer_step, [])
        streams.generators, streams._signs = generators, torch.ones(len(generators))
        return streams

    def noise(self, model: DiffusionModel) -> Float[Tensor, "b c h w"]:
        """Standard normal noise in the shape of the model's latents, one sample from each generator."""
        noise = draw_noise(self.generators, model.latent_shape, model.dtype, model.device)
        return noise * self._signs.to(noise, non_blocking=True)[:, None, None, None]

    def step_indices(self, grad_step_range: tuple[int, int], count: int = 1) -> list[int]:
        """The steps that carry the gradient: evenly apart within the range, both ends included, from a uniform start.

        One step is uniform over the range. They depend on the optimiser step alone: all micro-batches and processes
        share them.
        """
        low, high = grad_step_range
        apart = (high - low + 1) // count
        generator = make_generator(self._seed, "step index", self._optimizer_step)
        first = int(torch.randint(low, high - apart * (count - 1) + 1, (), generator=generator))
        return [first + apart * number for number in range(count)]

    def cycle(self, grad_step_range: tuple[int, int], count: int) -> list[int]:
        """Steps within the range, one after the other and round again, from a uniform start; any number of them."""
        low, high = grad_step_range
        (first,) = self.step_indices(grad_step_range)
        return [low + (first - low + number) % (high - low + 1) for number in range(count)]
