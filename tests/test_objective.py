"""Eq. 7: minus the mean reward."""

import torch

from reneg.objective import reward_loss


def test_is_minus_the_mean_and_pulls_every_reward_up_alike():
    rewards = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    loss = reward_loss(rewards)
    loss.backward()
    assert loss.item() == -3.0
    assert rewards.grad is not None
    torch.testing.assert_close(rewards.grad, torch.full((3,), -1 / 3))


def test_has_no_hinge():
    """ReFL's ReLU would stop at some reward; here a good picture pulls as much as a bad one."""
    assert reward_loss(torch.tensor([100.0])).item() == -100.0
    assert reward_loss(torch.tensor([-100.0])).item() == 100.0
