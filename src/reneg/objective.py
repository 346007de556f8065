"""The learning objective, Eq. 7."""

from jaxtyping import Float
from torch import Tensor


def reward_loss(rewards: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Eq. 7 of ReNeg (arXiv 2412.19637): maximise the expected reward, so the loss is minus its mean.

    ReFL's hinge and its pretraining loss are not part of the method.
    """
    return -rewards.mean()
