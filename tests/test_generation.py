"""Pictures equal those of diffusers' own pipeline, and depend on nothing but the seed and their number."""

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from tiny import tiny_model, tiny_pipeline
from torch import Tensor

from reneg.generation import generate, picture_generators, picture_noise
from reneg.interfaces import Conditioning
from reneg.models.sd import StableDiffusion

PROMPTS = ["a cat", "red hat", "a big dog"]


def pictures_of(output: Any) -> Tensor:
    """The pictures of a pipeline's output, whose type depends on the arguments."""
    return output.images


@pytest.fixture(scope="module")
def negative():
    """Like a learned one: near no text's encoding."""
    generator = torch.Generator().manual_seed(3)
    return Conditioning(torch.randn(1, 16, 16, generator=generator))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_equal_to_diffusers_pipeline(negative, prediction_type):
    pipe = tiny_pipeline(prediction_type=prediction_type)
    model = StableDiffusion(pipe, name="tiny")
    noise = picture_noise(model, picture_generators(0, 0, 3))
    own = generate(model, PROMPTS, negative, noise, guidance_scale=7.5, num_inference_steps=30)
    output = pipe(
        prompt_embeds=model.encode_prompt(PROMPTS).prompt_embeds,
        negative_prompt_embeds=negative.expand(3).prompt_embeds,
        latents=noise,
        guidance_scale=7.5,
        num_inference_steps=30,
        output_type="pt",
    )
    reference = pictures_of(output)
    assert float(reference.std()) > 0.05  # something to compare
    assert float((own - reference).abs().max()) < 1e-5


def test_equal_to_diffusers_pipeline_given_texts():
    pipe = tiny_pipeline()
    model = StableDiffusion(pipe, name="tiny")
    noise = picture_noise(model, picture_generators(0, 0, 3))
    own = generate(model, PROMPTS, model.encode_prompt(["bad"]), noise, num_inference_steps=5)
    options = {"latents": noise, "guidance_scale": 7.5, "num_inference_steps": 5, "output_type": "pt"}
    reference = pictures_of(pipe(PROMPTS, negative_prompt=["bad"] * 3, **options))
    assert float((own - reference).abs().max()) < 1e-5


def test_equal_to_diffusers_pipeline_with_ddpm(negative):
    """The stochastic sampler draws its step noises from the same generators, in the same order."""
    pipe = tiny_pipeline()
    model = StableDiffusion(pipe, name="tiny", scheduler="ddpm")
    generators = picture_generators(0, 0, 2)
    noise = picture_noise(model, generators)
    own = generate(model, PROMPTS[:2], negative, noise, num_inference_steps=5, generators=generators)
    generators = picture_generators(0, 0, 2)
    noise = picture_noise(model, generators)
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    output = pipe(
        prompt_embeds=model.encode_prompt(PROMPTS[:2]).prompt_embeds,
        negative_prompt_embeds=negative.expand(2).prompt_embeds,
        latents=noise,
        generator=generators,
        guidance_scale=7.5,
        num_inference_steps=5,
        output_type="pt",
    )
    reference = pictures_of(output)
    assert float((own - reference).abs().max()) < 1e-5


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_a_picture_does_not_depend_on_its_batch(negative, scheduler):
    model = tiny_model(torch.float64, scheduler=scheduler)

    def pictures(first, count):
        generators = picture_generators(5, first, count)
        noise = picture_noise(model, generators)
        prompts = PROMPTS[first : first + count]
        return generate(model, prompts, negative, noise, num_inference_steps=4, generators=generators)

    whole = pictures(0, 3)
    apart = torch.cat([pictures(0, 1), pictures(1, 2)])
    assert float((whole - apart).abs().max()) < 1e-8


def test_noises_depend_on_the_seed_and_the_number_alone():
    model = tiny_model()
    noise = picture_noise(model, picture_generators(1, 0, 4))
    assert torch.equal(noise[2:], picture_noise(model, picture_generators(1, 2, 2)))
    assert not torch.equal(noise, picture_noise(model, picture_generators(2, 0, 4)))
    assert not torch.equal(noise[0], noise[1])
