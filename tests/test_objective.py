"""Eq. 7: minus the mean reward."""

import weakref

import torch
from torch import Tensor

from reneg.objective import reward_loss, reward_loss_one_by_one


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


def test_one_by_one_is_the_same_and_holds_the_graph_of_one_sample():
    x0 = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    graphs: list[weakref.ref[Tensor]] = []

    def reward_of(latents: Tensor, number: int) -> Tensor:
        assert number == len(graphs) and all(kept() is None for kept in graphs)
        activation = (latents * (number + 1)).sin()
        graphs.append(weakref.ref(activation))
        return activation.exp().mean((1, 2, 3))  # exp's backward pass reads its own result, sin's what it was given

    loss, rewards = reward_loss_one_by_one(reward_of, x0)
    (gradient,) = torch.autograd.grad(loss, x0)
    factors = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None, None, None]
    wanted = (x0 * factors).sin().exp().mean((1, 2, 3))
    torch.testing.assert_close(rewards, wanted)
    torch.testing.assert_close(loss, reward_loss(wanted))
    torch.testing.assert_close(gradient, torch.autograd.grad(reward_loss(wanted), x0)[0])
