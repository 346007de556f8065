"""The image-only reward: transformers' projection, and the prompt plays no part."""

from pathlib import Path

import pytest
import torch
from scorers import save_vision
from tiny import MEAN, STD, tiny_vision

from reneg.rewards.aesthetic import AestheticReward, load_vision
from reneg.rewards.loading import RewardSource, Settings
from reneg.rewards.preprocess import ImagePreprocess

PROMPTS = ["a cat", "a dog", ""]


@pytest.fixture(scope="module")
def reward() -> AestheticReward:
    return AestheticReward(tiny_vision().double(), ImagePreprocess(8, MEAN, STD), name="tiny")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_scores_follow_their_images_and_nothing_else(reward: AestheticReward, images: torch.Tensor):
    scores = reward(images, PROMPTS)
    assert float(scores.std()) > 1e-4  # the scores differ
    assert torch.equal(reward(images, PROMPTS[::-1]), scores)
    torch.testing.assert_close(reward(images.flip(0), PROMPTS), scores.flip(0), rtol=0, atol=1e-10)
    for i in range(3):
        torch.testing.assert_close(reward(images[i : i + 1], ["x"]), scores[i : i + 1], rtol=0, atol=1e-10)


def test_equal_to_transformers_projection(reward: AestheticReward, images: torch.Tensor):
    with torch.no_grad():
        embeds = reward.model(pixel_values=reward.preprocess(images)).image_embeds
    assert torch.equal(reward(images, PROMPTS), embeds[:, 0])


def load(folder: Path) -> AestheticReward:
    return load_vision(RewardSource("vision", folder), Settings("mine"))


def test_a_saved_folder_gives_the_same_reward(tmp_path: Path, reward: AestheticReward, images: torch.Tensor):
    save_vision(tmp_path)
    loaded = load(tmp_path)
    assert loaded.name == "mine"
    scores = loaded(images.float(), PROMPTS).double()
    torch.testing.assert_close(scores, reward(images, PROMPTS), rtol=0, atol=1e-5)


def test_a_folder_without_the_model_is_refused_in_one_line(tmp_path: Path):
    with pytest.raises(ValueError, match="reward 'mine' cannot be loaded as a CLIPVisionModelWithProjection") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
    save_vision(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="preprocessor_config.json"):
        load(tmp_path)
