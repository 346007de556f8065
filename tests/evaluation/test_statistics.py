"""Estimates against answers by hand, and intervals against the truth."""

import numpy as np
import pytest

from reneg.evaluation.statistics import CHUNK, Estimate, bootstrap, prompt_means, prompt_wins


def bounds(estimate: Estimate) -> np.ndarray:
    assert estimate.low is not None and estimate.high is not None
    return np.array([estimate.low, estimate.high])


def width(estimate: Estimate) -> float:
    return float(np.diff(bounds(estimate)).item())


def test_means_and_wins_by_hand():
    scores = np.array([[1.0, 3.0], [5.0, 5.0]])
    base = np.array([[1.0, 2.0], [6.0, 7.0]])
    assert prompt_means(scores).tolist() == [2.0, 5.0]
    assert prompt_wins(scores, base).tolist() == [0.75, 0.0]  # one tie and one win; two losses
    assert prompt_wins(scores, scores).tolist() == [0.5, 0.5]


def test_the_mean_is_the_sample_mean_and_the_interval_holds_it():
    columns = np.random.default_rng(0).normal(size=(50, 3))
    for column, estimate in zip(columns.T, bootstrap(columns), strict=True):
        assert estimate.mean == pytest.approx(column.mean())
        low, high = bounds(estimate)
        assert low < estimate.mean < high
        # With normal data the interval is that of the textbook.
        half_width = 1.96 * column.std() / np.sqrt(50)
        assert width(estimate) == pytest.approx(2 * half_width, rel=0.1)


def test_two_prompts_can_be_enumerated():
    # Resamples of {0, 1}: both 0 (1/4), one each (1/2), both 1 (1/4).
    estimate = bootstrap(np.array([[0.0], [1.0]]))[0]
    assert (estimate.mean, estimate.low, estimate.high) == (0.5, 0.0, 1.0)


def test_constants_have_no_spread_and_one_prompt_has_no_interval():
    estimate = bootstrap(np.full((7, 1), 2.5))[0]
    assert (estimate.low, estimate.high) == pytest.approx((2.5, 2.5))
    estimate = bootstrap(np.array([[4.0]]))[0]
    assert (estimate.mean, estimate.low, estimate.high) == (4.0, None, None)


def test_columns_share_their_resamples_and_the_seed_decides():
    column = np.random.default_rng(1).normal(size=(30, 1))
    first, shifted = bootstrap(np.hstack([column, column + 3]))
    assert bounds(shifted) - 3 == pytest.approx(bounds(first))
    assert bootstrap(column, seed=1) != bootstrap(column)


def test_resamples_need_not_divide_into_chunks():
    column = np.random.default_rng(2).normal(size=(30, 1))
    assert bootstrap(column, resamples=CHUNK + 1)[0].low is not None


def test_noises_of_a_prompt_are_resampled_together():
    """Noises that agree within a prompt carry no more than one noise would: eight of them must not narrow anything."""
    per_prompt = np.random.default_rng(3).normal(size=(40, 1))
    grouped = bootstrap(prompt_means(np.repeat(per_prompt, 8, axis=1))[:, None])[0]
    alone = bootstrap(per_prompt)[0]
    naive = bootstrap(np.repeat(per_prompt, 8, axis=1).reshape(-1, 1))[0]
    assert width(grouped) == pytest.approx(width(alone))
    assert 2 * width(naive) < width(grouped)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(4)
    effects = rng.normal(size=(40, 300, 1)) + 0.5 * rng.normal(size=(40, 300, 3))  # prompts, experiments, noises
    intervals = np.array([bounds(estimate) for estimate in bootstrap(effects.mean(axis=2), resamples=400)])
    covered = np.mean((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0))
    assert 0.9 <= covered <= 0.98
