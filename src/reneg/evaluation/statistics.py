"""Means, paired win rates and bootstrap intervals over prompts, in numpy alone.

The unit of chance is the prompt: noises of one prompt resemble each other, so an interval that resampled them one by
one would be too narrow. Every figure is therefore a mean over prompts of one number per prompt, which holds all the
prompt's noises, and the bootstrap resamples those numbers.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

RESAMPLES = 2000
CHUNK = 200
"""Resamples that are held in memory at once."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; a single prompt has no interval."""

    mean: float
    low: float | None
    high: float | None


def prompt_means(scores: Float[ndarray, "p s"]) -> Float[ndarray, " p"]:
    """Each prompt's mean over its noises."""
    return scores.mean(axis=1)


def prompt_wins(scores: Float[ndarray, "p s"], base: Float[ndarray, "p s"]) -> Float[ndarray, " p"]:
    """The share of a prompt's noises in which `scores` beats `base` on the same noise; a tie counts half."""
    return ((scores > base) + 0.5 * (scores == base)).mean(axis=1)


def bootstrap(columns: Float[ndarray, "p k"], *, seed: int = 0, resamples: int = RESAMPLES) -> list[Estimate]:
    """Means of k columns over p prompts, each with its 95 % percentile interval.

    Args:
        columns: one number per prompt and column.
        seed: of the resampling; all columns share the resampled prompts, so that paired figures stay paired.
    """
    count = len(columns)
    means = columns.mean(axis=0)
    if count < 2:
        return [Estimate(float(mean), None, None) for mean in means]
    rng = np.random.default_rng(seed)
    share = np.full(count, 1 / count)
    # How often a resample draws each prompt is multinomial, and its mean a product with those counts.
    sizes = [min(CHUNK, resamples - start) for start in range(0, resamples, CHUNK)]
    resampled = np.concatenate([rng.multinomial(count, share, size=size) @ columns for size in sizes]) / count
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    return [Estimate(float(m), float(lo), float(hi)) for m, lo, hi in zip(means, low, high, strict=True)]
