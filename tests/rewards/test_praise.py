"""The image-only reward of the world: a module:function like any user's, and no judge."""

import torch

from reneg.rewards import load_reward
from reneg.rewards.praise import PRAISE


def test_praised_is_the_preference_for_words_of_praise_whatever_the_prompt():
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    scores = load_reward("reneg.rewards.praise:praised")(images, ["a fox", "a drum"])
    preference = load_reward("world/preference")
    torch.testing.assert_close(scores, preference(images, [PRAISE] * 2), rtol=0, atol=0)
