"""What watches the learning: fixed pictures of learning prompts, fully sampled, scored and measured.

The training reward alone cannot tell better pictures from pictures that please the reward (reward hacking). So a
second reward picks the best state, and saturation and diversity stand beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from reneg.generation import generate, picture_generators, picture_noise
from reneg.interfaces import Conditioning, DiffusionModel, Reward
from reneg.offload import EVERYTHING_STAYS, Offload
from reneg.randomness import derive_seed
from reneg.rewards.mixture import Mixture

NOISES = 2
"""Pictures of each prompt: two, so that diversity can be told."""
BATCH = 16
"""Pictures sampled at once."""
SHOWN = 8
"""Prompts whose first picture goes into the sample grids."""


def saturation(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, " b"]:
    """HSV saturation of images in [0, 1], `(max - min) / max` over the channels, averaged over the pixels."""
    high, low = images.amax(1), images.amin(1)
    return ((high - low) / high.clamp(min=1e-6)).mean((1, 2))


def clipped_share(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, " b"]:
    """Share of the channel values of clamped images that are exactly 0 or 1."""
    return ((images == 0) | (images == 1)).to(images.dtype).mean((1, 2, 3))


def diversity(images: Float[Tensor, "b 3 H W"], group: int = NOISES) -> Float[Tensor, " p"]:
    """Mean root-mean-square pixel distance over all pairs within each consecutive group (the noises of a prompt)."""
    sets = images.unflatten(0, (-1, group)).flatten(2)
    pairs = [(i, j) for i in range(group) for j in range(i + 1, group)]
    return torch.stack([(sets[:, i] - sets[:, j]).square().mean(1).sqrt() for i, j in pairs]).mean(0)


@dataclass(frozen=True)
class Pictures:
    """One batch of the monitor's pictures, measured."""

    first: int
    """Number of the first picture; a prompt's pictures have consecutive numbers."""
    scores: dict[str, list[float]]
    """Measure -> one value a picture, for diversity one a prompt."""
    shown: dict[int, Float[Tensor, "3 H W"]]
    """Picture number -> picture in [0, 1], of those that go into the grids."""


@dataclass(frozen=True)
class Look:
    """All of the monitor's pictures, summed up."""

    means: dict[str, float]
    """Means of `reward`, its parts `reward/NAME` if it is a mixture, `monitor` (if there is one), `saturation`,
    `clipped` and `diversity`."""
    images: Float[Tensor, "b 3 H W"]
    """The pictures of the grids, in the order of `Monitor.shown_prompts`."""


class Monitor:
    """Fixed prompts and noises, a function of the learning prompts and the run's seed alone."""

    def __init__(
        self,
        model: DiffusionModel,
        reward: Reward,
        monitor: Reward | None,
        prompts: Sequence[str],
        *,
        num_prompts: int,
        seed: int,
        guidance_scale: float,
        num_inference_steps: int,
        offload: Offload = EVERYTHING_STAYS,
    ):
        self._model, self._reward, self._monitor, self._offload = model, reward, monitor, offload
        self._guidance_scale, self._num_inference_steps = guidance_scale, num_inference_steps
        self._seed = derive_seed(seed, "monitor", 0)
        count = min(num_prompts, len(prompts))
        self.prompts = [prompts[i * len(prompts) // count] for i in range(count)]
        shown = min(SHOWN, count)
        self._shown = [i * count // shown for i in range(shown)]
        pictures = count * NOISES
        self.batches = [range(first, min(first + BATCH, pictures)) for first in range(0, pictures, BATCH)]
        """Numbers of the pictures that are sampled together; processes share the batches out."""

    @property
    def shown_prompts(self) -> list[str]:
        """Prompts of the grids."""
        return [self.prompts[i] for i in self._shown]

    @torch.no_grad()
    def measure(self, negative: Conditioning, batch: range, *, guidance_scale: float | None = None) -> Pictures:
        """Sample and measure one of `batches`; a guidance scale that was learned takes the place of the monitor's."""
        prompts = [self.prompts[number // NOISES] for number in batch]
        generators = picture_generators(self._seed, batch.start, len(batch))
        images = self._generate(negative, prompts, generators, guidance_scale)
        self._offload.only("rewards", "monitor")
        if isinstance(self._reward, Mixture):
            rewards = self._reward.parts(images, prompts)
        else:
            rewards = {"reward": self._reward(images, prompts)}
        scores = {name: values.tolist() for name, values in rewards.items()}
        scores |= {
            "saturation": saturation(images).tolist(),
            "clipped": clipped_share(images).tolist(),
            "diversity": diversity(images).tolist(),
        }
        if self._monitor is not None:
            scores["monitor"] = self._monitor(images, prompts).tolist()
        wanted = {i * NOISES for i in self._shown}
        shown = {number: image.cpu() for number, image in zip(batch, images, strict=True) if number in wanted}
        return Pictures(batch.start, scores, shown)

    def sum_up(self, parts: Sequence[Pictures]) -> Look:
        """All batches -> one look; the first of a run gives a mixture its scales.

        Raises:
            ValueError: a part of the mixture has no spread.
        """
        look, mixture = sum_up(parts), self._reward
        if not isinstance(mixture, Mixture):
            return look
        if not mixture.scales:
            mixture.fit({key: [value for part in parts for value in part.scores[key]] for key in mixture.weights})
        return replace(look, means={"reward": mixture.combine(look.means)} | look.means)

    @torch.no_grad()
    def show(self, negative: Conditioning, *, guidance_scale: float | None = None) -> Float[Tensor, "b 3 H W"]:
        """The pictures of the grids alone, from the same noises as `measure`'s."""
        generators = [picture_generators(self._seed, i * NOISES, 1)[0] for i in self._shown]
        return self._generate(negative, self.shown_prompts, generators, guidance_scale).cpu()

    def _generate(
        self,
        negative: Conditioning,
        prompts: list[str],
        generators: list[torch.Generator],
        guidance_scale: float | None,
    ) -> Float[Tensor, "b 3 H W"]:
        self._offload.only("model")
        noise = picture_noise(self._model, generators)
        return generate(
            self._model,
            prompts,
            negative,
            noise,
            guidance_scale=self._guidance_scale if guidance_scale is None else guidance_scale,
            num_inference_steps=self._num_inference_steps,
            generators=generators,
        )


def sum_up(parts: Sequence[Pictures]) -> Look:
    """All batches, from whatever processes and in whatever order -> means and the pictures of the grids."""
    parts = sorted(parts, key=lambda part: part.first)
    means = {name: fmean(value for part in parts for value in part.scores[name]) for name in parts[0].scores}
    shown = {number: image for part in parts for number, image in part.shown.items()}
    return Look(means, torch.stack([shown[number] for number in sorted(shown)]))


def reward_statistics(rewards: Float[Tensor, " b"]) -> dict[str, float]:
    """The columns of metrics.jsonl on the rewards of a global batch."""
    return {
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std(correction=0)),
        "reward_min": float(rewards.min()),
        "reward_max": float(rewards.max()),
    }


def relative_distance(tensors: Sequence[Tensor], references: Sequence[Tensor]) -> float:
    """Norm of the difference, relative to the references' norm, over all tensors together."""
    pairs = list(zip(tensors, references, strict=True))
    moved = sum((tensor.detach() - reference).double().square().sum() for tensor, reference in pairs)
    return float(moved / sum(reference.double().square().sum() for _, reference in pairs)) ** 0.5
