"""An image-only reward of the bundled world that is no judge: how well pictures fit words of praise.

`--reward reneg.rewards.praise:praised`. Some of the captions that the world's CLIP learned from praise their picture.
"""

from collections.abc import Sequence
from functools import cache

from jaxtyping import Float
from torch import Tensor

from reneg.interfaces import Reward
from reneg.rewards import load_reward

PRAISE = "sharp, clear, high quality, crisp"
"""All words of praise that are in the world's captions, and nothing of the picture's content."""


@cache
def _preference() -> Reward:
    return load_reward("world/preference")


def praised(images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
    """world/preference of each picture with the words of praise, whatever its prompt; on the CPU."""
    return _preference()(images, [PRAISE] * len(images))
