"""The learning objective, Eq. 7."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def reward_loss(rewards: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Eq. 7 of ReNeg (arXiv 2412.19637): maximise the expected reward, so the loss is minus its mean.

    ReFL's hinge and its pretraining loss are not part of the method.
    """
    return -rewards.mean()


def reward_loss_one_by_one(
    reward_of: Callable[[Tensor, int], Tensor], x0: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " b"]]:
    """Eq. 7 with the activations of one sample's decoder and reward at a time, and nothing computed twice.

    Each sample goes back to its latents before the next is decoded; the chain rule then needs only those gradients.

    Args:
        reward_of: one sample's latents `[1, c, h, w]` and its number -> its reward `[1]`.

    Returns:
        (loss, rewards): the loss has the value and the gradient of `reward_loss`, and its graph begins at x0; the
        rewards are detached.
    """
    # In float32 at least: float16 would lose small gradients here, before the loss is scaled.
    wide = x0.to(torch.promote_types(torch.float32, x0.dtype))
    rewards, gradients = list[Tensor](), list[Tensor]()
    for number, sample in enumerate(wide.detach().split(1)):
        reward = reward_of(sample.requires_grad_(), number)
        gradients += torch.autograd.grad(reward_loss(reward) / len(x0), sample)
        rewards.append(reward.detach())
    found = torch.cat(rewards)
    return reward_loss(found) + ((wide - wide.detach()) * torch.cat(gradients)).sum(), found
