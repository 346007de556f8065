"""Prompts and a negative embedding -> pictures."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from reneg.algorithm import denoise
from reneg.interfaces import Conditioning, DiffusionModel
from reneg.randomness import draw_noise, make_generator

DECODED_AT_ONCE = 4
"""Latents: the decoder's activations are the largest of all, and more at once is hardly faster."""


@torch.no_grad()
def generate(
    model: DiffusionModel,
    prompts: Sequence[str],
    negative: Conditioning,
    noise: Float[Tensor, "b c h w"],
    *,
    guidance_scale: float = 7.5,
    num_inference_steps: int = 30,
    generators: list[torch.Generator] | None = None,
) -> Float[Tensor, "b 3 H W"]:
    """Fully sampled pictures in [0, 1], equal to diffusers' own pipeline given the same embeddings and noise.

    Args:
        negative: of one prompt, applied to all, or of as many as there are prompts.
        noise: standard normal, one sample a prompt.
        generators: where a stochastic sampler (DDPM) draws its step noises, one a sample; DDIM needs none.
    """
    positive = model.encode_prompt(prompts)
    if len(negative.prompt_embeds) == 1:
        negative = negative.expand(len(prompts))
    return sample(
        model,
        positive,
        negative,
        noise,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        generators=generators or [],
    )


@torch.no_grad()
def sample(
    model: DiffusionModel,
    positive: Conditioning,
    negative: Conditioning,
    noise: Float[Tensor, "b c h w"],
    *,
    guidance_scale: float,
    num_inference_steps: int,
    generators: list[torch.Generator],
) -> Float[Tensor, "b 3 H W"]:
    """`generate` for prompts that are encoded already, each with a negative of its own."""
    timesteps = model.set_timesteps(num_inference_steps)
    latents = model.initial_latents(noise.to(model.device, model.dtype))
    latents = denoise(model, latents, timesteps, positive, negative, guidance_scale, generators)
    return torch.cat([model.decode(part).clamp(0, 1) for part in latents.split(DECODED_AT_ONCE)])


def picture_generators(seed: int, first: int, count: int) -> list[torch.Generator]:
    """The generators of pictures number `first` and on: a picture's noise depends on the seed and its number alone."""
    return [make_generator(seed, "picture", number) for number in range(first, first + count)]


def picture_noise(model: DiffusionModel, generators: list[torch.Generator]) -> Float[Tensor, "b c h w"]:
    """The initial noises that some pictures start from."""
    return draw_noise(generators, model.latent_shape, model.dtype, model.device)
