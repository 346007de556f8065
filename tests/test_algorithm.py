"""One training step: what it computes, and which branches keep a graph."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from fakes import PROMPTS, GaussianModel, Tone
from tiny import tiny_model
from torch import Tensor

from reneg.algorithm import (
    StepSettings,
    denoise,
    one_step_x0,
    predict_guided,
    predict_guided_with_graph,
    training_steps,
)
from reneg.interfaces import Conditioning, GradientPolicy, StepOutput
from reneg.randomness import Streams, draw_noise
from reneg.targets import NegativeEmbeddingTarget

POLICIES = [GradientPolicy(positive=p, negative=n) for p in (False, True) for n in (False, True)]
SCALE = 7.5


class RecordingModel(GaussianModel):
    """Remembers of each denoiser call: the batch, whether a graph was recorded, and which inputs had one."""

    def __init__(self):
        super().__init__()
        self.records: list[tuple[int, bool, bool]] = []

    def predict(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        assert not latents.requires_grad
        graph = torch.is_grad_enabled()
        self.records.append((len(latents), graph, graph and conditioning.prompt_embeds.requires_grad))
        return super().predict(latents, timestep, conditioning)


def branches(model: GaussianModel) -> tuple[Tensor, Conditioning, Conditioning]:
    """x_t and the two conditionings of three samples, all with a graph."""
    streams = Streams(1, 0, [0, 1, 2])
    latents = draw_noise(streams.generators, model.latent_shape, model.dtype, model.device)
    texts = [model.encode_prompt(prompts).prompt_embeds for prompts in (PROMPTS[:3], PROMPTS[3:6])]
    positive, negative = (Conditioning(text.requires_grad_()) for text in texts)
    return latents.requires_grad_(), positive, negative


def step(model: GaussianModel, numbers: Sequence[int], **changes: tuple[int, int]) -> StepOutput:
    return next(steps(model, NegativeEmbeddingTarget(model), numbers, **changes))


def steps(
    model: GaussianModel, target: NegativeEmbeddingTarget, numbers: Sequence[int], **changes: int | tuple[int, int]
) -> Iterator[StepOutput]:
    settings = {"num_inference_steps": 6, "grad_step_range": (3, 5), **changes}
    prompts = [PROMPTS[number] for number in numbers]
    streams = Streams(0, 2, list(numbers))
    return training_steps(model, target, Tone(), prompts, streams, StepSettings(SCALE, **settings))  # pyright: ignore


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_separate_branches_equal_the_concatenated_batch(policy: GradientPolicy):
    model = tiny_model(torch.float64)
    noise = draw_noise(Streams(0, 0, [0, 1]).generators, model.latent_shape, model.dtype, model.device)
    positive, negative = model.encode_prompt(["a cat", "red"]), model.encode_prompt(["bad", "ugly"])
    timestep = model.set_timesteps(10)[4]
    inputs = (model, noise, timestep, positive, negative, SCALE)
    together, apart = predict_guided(*inputs), predict_guided_with_graph(*inputs, policy)
    assert float(together.std()) > 0.1
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-10)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_the_policy_decides_which_branches_keep_a_graph(policy: GradientPolicy):
    model = GaussianModel()
    latents, positive, negative = branches(model)
    timestep = model.set_timesteps(6)[4]
    prediction = predict_guided_with_graph(model, latents.detach(), timestep, positive, negative, SCALE, policy)
    assert prediction.requires_grad == (policy.positive or policy.negative)
    if prediction.requires_grad:
        prediction.sum().backward()
    assert (positive.prompt_embeds.grad is not None) == policy.positive
    assert (negative.prompt_embeds.grad is not None) == policy.negative


def test_a_branchs_gradient_does_not_depend_on_the_other_having_a_graph():
    model = GaussianModel()
    latents, positive, negative = branches(model)
    timestep = model.set_timesteps(6)[4]

    def gradients(prediction: Tensor) -> list[Tensor | None]:
        texts = (positive.prompt_embeds, negative.prompt_embeds)
        return list(torch.autograd.grad(prediction.square().sum(), texts, allow_unused=True))

    inputs = (model, latents.detach(), timestep, positive, negative, SCALE)
    whole = gradients(predict_guided(*inputs))
    both = gradients(predict_guided_with_graph(*inputs, GradientPolicy(positive=True, negative=True)))
    for own, reference in zip(both, whole, strict=True):
        torch.testing.assert_close(own, reference)
    only_positive = gradients(predict_guided_with_graph(*inputs, GradientPolicy(positive=True, negative=False)))
    only_negative = gradients(predict_guided_with_graph(*inputs, GradientPolicy(positive=False, negative=True)))
    torch.testing.assert_close([only_positive[0], only_negative[1]], whole)
    assert only_positive[1] is None and only_negative[0] is None


def test_the_gradient_stops_at_x_t():
    model = GaussianModel()
    latents, positive, negative = branches(model)
    policy = GradientPolicy(positive=True, negative=True)
    x0, _ = one_step_x0(model, latents, model.set_timesteps(6)[4], positive, negative, SCALE, policy)
    x0.sum().backward()
    assert latents.grad is None
    assert negative.prompt_embeds.grad is not None


def test_the_trajectory_has_no_graph():
    model = GaussianModel()
    latents, positive, negative = branches(model)
    assert latents.requires_grad and positive.prompt_embeds.requires_grad
    end = denoise(model, latents, model.set_timesteps(6)[:3], positive, negative, SCALE, [])
    assert not end.requires_grad


def test_the_trajectory_over_no_timesteps_is_where_it_started():
    model = GaussianModel()
    latents, positive, negative = branches(model)
    assert torch.equal(denoise(model, latents, model.set_timesteps(6)[:0], positive, negative, SCALE, []), latents)


def test_only_the_negative_branch_of_one_step_records_a_graph():
    model = RecordingModel()
    output = step(model, [0, 1, 2])
    assert output.step_index > 0
    trajectory, gradient_step = model.records[:-2], model.records[-2:]
    assert trajectory == [(6, False, False)] * output.step_index
    assert sorted(gradient_step) == [(3, False, False), (3, True, True)]


def test_the_step_follows_the_papers_line():
    """Prompts -> trajectory -> Eq. 5 -> Eq. 6 -> images -> rewards -> Eq. 7, written out once more by hand."""
    model, numbers = GaussianModel(), [0, 1, 2]
    output = step(model, numbers)
    streams = Streams(0, 2, numbers)
    x = draw_noise(streams.generators, model.latent_shape, model.dtype, model.device)
    positive = model.encode_prompt([PROMPTS[number] for number in numbers])
    negative = model.encode_prompt([""] * 3)
    timesteps = model.set_timesteps(6)
    (index,) = streams.step_indices((3, 5))
    for timestep in timesteps[: index + 1]:
        pred_uncond, pred_cond = (model.predict(x, timestep, branch) for branch in (negative, positive))
        prediction = pred_uncond + SCALE * (pred_cond - pred_uncond)
        alpha, sigma = model.alpha_sigma(timestep)
        x0 = (x - sigma * prediction) / alpha
        x = model.step(prediction, timestep, x, [])
    images = model.decode(x0)
    rewards = Tone()(images, [PROMPTS[number] for number in numbers])
    assert output.step_index == index
    torch.testing.assert_close(output.images, images)
    torch.testing.assert_close(output.rewards, rewards)
    torch.testing.assert_close(output.loss, -rewards.mean())
    assert output.loss.requires_grad and not output.rewards.requires_grad and not output.images.requires_grad


@pytest.mark.parametrize("make", [GaussianModel, lambda: tiny_model(torch.float64)], ids=["gaussian", "tiny"])
def test_a_sample_does_not_depend_on_its_batch_mates(make):
    model = make()
    whole = step(model, [0, 1, 2, 3])
    apart = [step(model, numbers) for numbers in ([0], [1, 2], [3])]
    assert {output.step_index for output in apart} == {whole.step_index}
    torch.testing.assert_close(torch.cat([o.rewards for o in apart]), whole.rewards, rtol=0, atol=1e-8)
    torch.testing.assert_close(torch.cat([o.images for o in apart]), whole.images, rtol=0, atol=1e-8)


@pytest.mark.parametrize("index", [0, 5])
def test_the_first_and_the_last_step_can_carry_the_gradient(index: int):
    output = step(GaussianModel(), [0], grad_step_range=(index, index))
    assert output.step_index == index
    output.loss.backward()


def test_several_steps_of_one_trajectory_are_those_that_one_at_a_time_would_take():
    model, numbers = RecordingModel(), [0, 1, 2]
    target = NegativeEmbeddingTarget(model)
    together = []
    for output in steps(model, target, numbers, grad_step_range=(2, 5), gradient_steps=4):
        (gradient,) = torch.autograd.grad(output.loss, target.parameters())
        together.append((output, gradient))
    assert [output.step_index for output, _ in together] == [2, 3, 4, 5]
    # Each gradient step's prediction also moves the trajectory: six steps, two branches, three samples, no more.
    assert model.calls == 6 * 2 * 3
    for output, gradient in together:
        index = output.step_index
        (alone,) = steps(model, target, numbers, grad_step_range=(index, index))
        (expected,) = torch.autograd.grad(alone.loss, target.parameters())
        torch.testing.assert_close(output.images, alone.images, rtol=0, atol=1e-10)
        torch.testing.assert_close(output.rewards, alone.rewards, rtol=0, atol=1e-10)
        torch.testing.assert_close(4 * gradient, expected, rtol=1e-9, atol=0)  # a quarter of the objective each
