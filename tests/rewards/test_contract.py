"""What every row of the table of rewards keeps, loaded by its name: a new row is tested at once.

Scorers that are not in the package have random weights in the layout of their files.
"""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from scorers import SAVE, pictures
from torch import Tensor

from reneg.interfaces import Reward
from reneg.rewards import KINDS, REWARDS, load_reward

PROMPTS = ["a cat", "a red house", ""]


@cache
def load(name: str, *, published: bool) -> Reward:
    return load_reward(name, dtype=torch.float64, published=published)


@pytest.fixture(scope="module", params=REWARDS)
def name(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A row; one whose weights are elsewhere points to a folder of its layout."""
    name = request.param
    source = REWARDS[name]
    with pytest.MonkeyPatch.context() as patch:
        if not isinstance(source.location, Path):
            folder = tmp_path_factory.mktemp("weights")
            SAVE[source.kind](folder, source.weights or "")
            patch.setitem(REWARDS, name, replace(source, location=folder))
        yield name
    load.cache_clear()


@pytest.fixture(scope="module")
def reward(name: str) -> Reward:
    return load(name, published=False)


@pytest.fixture(scope="module", params=[(16, 16), (20, 12)], ids=["square", "portrait"])
def images(request: pytest.FixtureRequest) -> Tensor:
    height, width = request.param
    return pictures(3, 24)[..., :height, :width]


def reads_prompts(name: str) -> bool:
    return REWARDS[name].kind not in ("vision", "laion")


def test_every_kind_can_be_tested():
    assert SAVE.keys() == KINDS.keys()


def test_it_has_its_name(name: str, reward: Reward):
    assert reward.name == name


@pytest.mark.parametrize("count", [1, 3])
def test_one_score_a_picture_in_both_paths(name: str, images: Tensor, count: int):
    for published in (False, True):
        scores = load(name, published=published)(images[:count], PROMPTS[:count])
        assert scores.shape == (count,) and scores.dtype == torch.float64


def test_scores_follow_their_items_and_not_their_batch_mates(name: str, reward: Reward, images: Tensor, prove):
    scores = reward(images, PROMPTS)
    assert float(scores.std()) > 1e-5  # the scores differ
    order = [2, 0, 1]
    permuted = reward(images[order], [PROMPTS[i] for i in order])
    alone = torch.cat([reward(images[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)])
    difference = max(float((permuted - scores[order]).abs().max()), float((alone - scores).abs().max()))
    assert difference < 1e-10
    prove(name, "an item's score does not depend on its batch-mates", "the item alone; permuted", difference)


def test_picture_and_prompt_matter(name: str, reward: Reward, images: Tensor):
    score = reward(images[:1], ["a cat"])
    assert abs(float(reward(images[1:2], ["a cat"]) - score)) > 1e-5
    assert (abs(float(reward(images[:1], ["a dog"]) - score)) > 1e-5) == reads_prompts(name)


def test_gradient_is_that_of_finite_differences(name: str, reward: Reward, images: Tensor, prove):
    pixels = images.clone().requires_grad_()
    reward(pixels, PROMPTS).sum().backward()
    assert pixels.grad is not None and pixels.grad.isfinite().all()
    assert (pixels.grad.abs().amax((1, 2, 3)) > 0).all()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=images.dtype)
    with torch.no_grad():
        # Fourth order, so that the step need not be small enough for rounding to matter.
        step = 2e-4  # trained scorers bend more than random ones
        near = [reward(images + n * step * direction, PROMPTS).sum() for n in (-2, -1, 1, 2)]
        slope = (near[0] - 8 * near[1] + 8 * near[2] - near[3]) / (12 * step)
    exact = (pixels.grad * direction).sum()
    difference = float(((slope - exact) / exact).abs())
    assert difference < 1e-6
    prove(name, "gradient to the pixels", "finite differences in float64 (relative)", difference)


def test_weights_are_frozen_and_in_evaluation_mode(reward: Reward):
    modules = [value for value in vars(reward).values() if isinstance(value, torch.nn.Module)]
    assert modules
    for module in modules:
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not any(child.training for child in module.modules())


def test_the_published_path_gives_no_gradient(name: str, images: Tensor):
    scores = load(name, published=True)(images.clone().requires_grad_(), PROMPTS)
    assert not scores.requires_grad


def test_prompts_beyond_the_context_are_cut_off_with_one_warning(name: str):
    images, reward = pictures(1), load_reward(name, dtype=torch.float64)  # a fresh one: it warns once
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = [reward(images, ["a " * count + end]) for count, end in ((100, "cat"), (100, "dog"), (3, "cat"))]
    said = [str(warning.message) for warning in caught if "reads the first" in str(warning.message)]
    assert len(said) == reads_prompts(name)
    assert torch.equal(scores[0], scores[1])
    assert (not torch.equal(scores[0], scores[2])) == reads_prompts(name)
    assert all(f"reward {name!r} reads the first" in line for line in said)
