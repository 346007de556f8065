"""Call arguments and hand-made negatives that the transformer families share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from pipelines.builders_sd import picture, vae
from pipelines.harness import Family, Pool, generators, noise, repeated

from reneg.negative import NegativeEmbedding

TOKENS, WIDTH, POOLED = 5, 16, 8
NOTHING: Pool = {}


def call_arguments(
    count: int,
    *,
    tokens: int = TOKENS,
    latents: tuple[int, ...] | None = None,
    pooled: bool = False,
    mask: str | None = None,
    as_list: bool = False,
    scale: str = "guidance_scale",
    mask_dtype: torch.dtype = torch.long,
    **more: Any,
) -> Pool:
    """For `count` prompts; the mask leaves out the last token."""
    embeds = noise(5, count, tokens, WIDTH)
    pool: Pool = {
        "prompt_embeds": list(embeds) if as_list else embeds,
        "image": picture(count),
        "control_image": picture(count),
        "generator": generators(),
        "output_type": "latent",
        "strength": 1.0,
        "num_inference_steps": 2,
        scale: 3.0,
    }
    if latents is not None:
        pool["latents"] = noise(6, count, *latents)
    if pooled:
        pool["pooled_prompt_embeds"] = noise(8, count, POOLED)
    if mask is not None:
        pool[mask] = torch.ones(count, tokens, dtype=mask_dtype)
        pool[mask][:, -1] = 0
    return pool | more


def hand_made(
    file: NegativeEmbedding,
    count: int,
    *,
    embeds: str = "negative_prompt_embeds",
    mask: str | None = None,
    pooled: bool = False,
    total: int = TOKENS,
    as_list: bool = False,
    mask_dtype: torch.dtype = torch.long,
    no_text: bool = False,
) -> Pool:
    """The embedding, filled up with zeros to `total` tokens where the class does so, once for each prompt."""
    zeros = torch.zeros(1, total - TOKENS, WIDTH)
    filled = torch.cat([file.negative_prompt_embeds, zeros], dim=1)
    pool: Pool = {embeds: [filled[0]] * count if as_list else repeated(filled, count)}
    if mask is not None:
        row = torch.tensor([[1] * (TOKENS - 1) + [0] * (total - TOKENS + 1)], dtype=mask_dtype)
        pool[mask] = repeated(row, count)
    if pooled:
        pool["negative_pooled_prompt_embeds"] = repeated(file.negative_pooled_prompt_embeds, count)
    if no_text:  # its default, "", is refused beside an embedding
        pool["negative_prompt"] = None
    return pool


def padded(
    components: Callable[[], Pool],
    tokens: int,
    latents: tuple[int, ...] | None,
    *,
    per_image: bool,
    masked: bool,
    by_hand: Pool = NOTHING,
    **more: Any,
) -> Family:
    """A family that reads a fixed number of tokens, and fills shorter files up."""
    return Family(
        components,
        partial(
            call_arguments, tokens=tokens, latents=latents, mask="prompt_attention_mask" if masked else None, **more
        ),
        partial(hand_made, mask="negative_prompt_attention_mask" if masked else None, total=tokens, **by_hand),
        TOKENS,
        WIDTH,
        masked=masked,
        per_image=per_image,
    )


def flow() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler()


def flow_vae(channels: int) -> AutoencoderKL:
    return vae(channels, shift_factor=0.0)
