"""What every reward keeps, whichever it is: shape, independence of batch-mates, gradient, frozen weights."""

import pytest
import torch
from scorers import SCORERS, pictures
from torch import Tensor

from reneg.interfaces import Reward

PROMPTS = ["a cat", "a red house", ""]


@pytest.fixture(scope="module", params=SCORERS)
def scorer(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def reward(scorer: str) -> Reward:
    return SCORERS[scorer].build(False)


@pytest.fixture(scope="module", params=[(16, 16), (20, 12)], ids=["square", "portrait"])
def images(request: pytest.FixtureRequest) -> Tensor:
    height, width = request.param
    return pictures(3, 24)[..., :height, :width]


@pytest.mark.parametrize("count", [1, 3])
def test_one_score_a_picture_in_both_paths(scorer: str, images: Tensor, count: int):
    for published in (False, True):
        scores = SCORERS[scorer].build(published)(images[:count], PROMPTS[:count])
        assert scores.shape == (count,) and scores.dtype == torch.float64


def test_scores_follow_their_items_and_not_their_batch_mates(scorer: str, reward: Reward, images: Tensor, prove):
    scores = reward(images, PROMPTS)
    assert float(scores.std()) > 1e-5  # the scores differ
    order = [2, 0, 1]
    permuted = reward(images[order], [PROMPTS[i] for i in order])
    alone = torch.cat([reward(images[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)])
    difference = max(float((permuted - scores[order]).abs().max()), float((alone - scores).abs().max()))
    assert difference < 1e-10
    prove(scorer, "an item's score does not depend on its batch-mates", "the item alone; permuted", difference)


def test_picture_and_prompt_matter(scorer: str, reward: Reward, images: Tensor):
    score = reward(images[:1], ["a cat"])
    assert abs(float(reward(images[1:2], ["a cat"]) - score)) > 1e-5
    assert (abs(float(reward(images[:1], ["a dog"]) - score)) > 1e-5) == SCORERS[scorer].reads_prompts


def test_gradient_is_that_of_finite_differences(scorer: str, reward: Reward, images: Tensor, prove):
    pixels = images.clone().requires_grad_()
    reward(pixels, PROMPTS).sum().backward()
    assert pixels.grad is not None and pixels.grad.isfinite().all()
    assert (pixels.grad.abs().amax((1, 2, 3)) > 0).all()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=images.dtype)
    with torch.no_grad():
        # Fourth order, so that the step need not be small enough for rounding to matter.
        step = 1e-3
        near = [reward(images + n * step * direction, PROMPTS).sum() for n in (-2, -1, 1, 2)]
        slope = (near[0] - 8 * near[1] + 8 * near[2] - near[3]) / (12 * step)
    exact = (pixels.grad * direction).sum()
    difference = float(((slope - exact) / exact).abs())
    assert difference < 1e-6
    prove(scorer, "gradient to the pixels", "finite differences in float64 (relative)", difference)


def test_weights_are_frozen_and_in_evaluation_mode(reward: Reward):
    modules = [value for value in vars(reward).values() if isinstance(value, torch.nn.Module)]
    assert modules
    for module in modules:
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not any(child.training for child in module.modules())


def test_the_published_path_gives_no_gradient(scorer: str, images: Tensor):
    scores = SCORERS[scorer].build(True)(images.clone().requires_grad_(), PROMPTS)
    assert not scores.requires_grad
