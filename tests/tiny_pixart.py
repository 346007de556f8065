"""PixArt-alpha and PixArt-Sigma pipelines with random weights: T5 and a transformer with a learned sigma."""

# diffusers' and transformers' annotations contradict their code.
# pyright: reportArgumentType=false

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel
from tiny import SIDE
from tiny_sd3 import JOINT, tiny_t5, tiny_t5_tokenizer
from tiny_sdxl import as_dtype

SQUARE = {"height": SIDE, "width": SIDE, "use_resolution_binning": False}
"""How the pipelines are called: binning knows the sizes of published models alone."""


def tiny_pixart(
    dtype: torch.dtype = torch.float32, *, sigma: bool = False, sample_size: int = SIDE // 2
) -> PixArtAlphaPipeline | PixArtSigmaPipeline:
    """16x16 pictures in float32 or float64, the same weights at every call.

    Args:
        sample_size: 128 gives PixArt-alpha the inputs for the picture's size; it runs at any size.
    """
    with torch.random.fork_rng():
        torch.manual_seed(9)
        transformer = PixArtTransformer2DModel(
            sample_size=sample_size,
            num_attention_heads=2,
            attention_head_dim=12,  # a third of each size embedding, where there are any
            in_channels=4,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=24,
            caption_channels=JOINT,
            use_additional_conditions=False if sigma else None,
        )
        for name, weight in transformer.named_parameters():
            if name.endswith("attn2.to_v.weight"):
                weight.data.mul_(10)  # untrained, it hardly hears the text among 120 tokens
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=SIDE,
        )
    pipeline_class: Any = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    pipe = pipeline_class(
        tokenizer=tiny_t5_tokenizer(),
        text_encoder=tiny_t5(),
        vae=vae,
        transformer=transformer,
        scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False, set_alpha_to_one=False),
    )
    return as_dtype(pipe, dtype)
