"""ReNeg's target: one float32 embedding is trained, from the null text on, and nothing else changes."""

import pytest
import torch
from fakes import PROMPTS, GaussianModel
from tiny import tiny_clip_reward, tiny_model, tiny_pipeline

from reneg.algorithm import StepSettings, training_steps
from reneg.interfaces import GradientPolicy
from reneg.models.sd import StableDiffusion
from reneg.randomness import Streams
from reneg.targets import NegativeEmbeddingTarget


def test_starts_as_the_null_text_and_is_the_only_parameter():
    model = tiny_model()
    target = NegativeEmbeddingTarget(model)
    (parameter,) = target.parameters()
    assert parameter is target.negative_prompt_embeds and parameter.requires_grad
    null = model.encode_prompt([""]).prompt_embeds
    assert torch.equal(parameter, null)
    with torch.no_grad():
        parameter.add_(1)
    assert torch.equal(target.null.prompt_embeds, null)  # not the same memory


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
    ids=str,
)
def test_the_parameter_is_float32_at_least(dtype: torch.dtype, wanted: torch.dtype):
    pipe = tiny_pipeline()
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.to(dtype)
    model = StableDiffusion(pipe, name="tiny")
    target = NegativeEmbeddingTarget(model)
    assert target.negative_prompt_embeds.dtype == wanted
    positive, negative = target.condition(model, PROMPTS[:2])
    assert (positive.prompt_embeds.dtype, negative.prompt_embeds.dtype) == (dtype, wanted)
    timestep, latents = model.set_timesteps(4)[2], torch.zeros(2, 4, 8, 8, dtype=dtype)
    model.predict(latents, timestep, negative).float().sum().backward()
    gradient = target.negative_prompt_embeds.grad
    assert gradient is not None and gradient.dtype == wanted and gradient.abs().sum() > 0


def test_only_the_negative_has_a_graph_and_every_sample_adds_to_it():
    model = GaussianModel()
    target = NegativeEmbeddingTarget(model)
    assert target.policy == GradientPolicy(positive=False, negative=True)
    positive, negative = target.condition(model, PROMPTS[:3])
    assert not positive.prompt_embeds.requires_grad
    assert negative.prompt_embeds.shape == positive.prompt_embeds.shape
    (negative.prompt_embeds * torch.tensor([1.0, 10.0, 100.0])[:, None, None]).sum().backward()
    gradient = target.negative_prompt_embeds.grad
    assert gradient is not None and torch.equal(gradient, torch.full_like(gradient, 111))


def test_a_step_changes_the_embedding_and_nothing_else():
    model, reward = tiny_model(), tiny_clip_reward()
    target = NegativeEmbeddingTarget(model)
    modules = (model.denoiser, model.vae, model.text_encoder, reward.model)
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    optimizer = torch.optim.AdamW(target.parameters(), lr=0.1)
    streams, settings = Streams(0, 0, [0, 1]), StepSettings(7.5, num_inference_steps=3, grad_step_range=(2, 2))
    next(training_steps(model, target, reward, PROMPTS[:2], streams, settings)).loss.backward()
    optimizer.step()
    moved = (target.negative_prompt_embeds.detach() - target.null.prompt_embeds).abs()
    assert float(moved.amax(-1).min()) > 0.01  # every token
    for module, state in zip(modules, before, strict=True):
        assert all(parameter.grad is None for parameter in module.parameters())
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
