"""A StableDiffusionXLPipeline with random weights: the tiny Stable Diffusion with a second encoder, another UNet."""

# diffusers' and transformers' annotations contradict their code.
# pyright: reportArgumentType=false

from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from tiny import MAX_TOKENS, SIDE, WIDTH, tiny_pipeline, tiny_tokenizer
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

POOLED = 8
"""Width of the pooled vector."""


def tiny_text_encoder(seed: int) -> CLIPTextModelWithProjection:
    """A CLIP text encoder with a pooled vector; other seeds are other encoders."""
    vocabulary = len(tiny_tokenizer())
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=POOLED,
        hidden_act="gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIPTextModelWithProjection(config)


def as_dtype(pipe: Any, dtype: torch.dtype) -> Any:
    """All of a pipeline's float32 modules in a precision; the pipeline's own `to` warns about mixed precision."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module) and dtype != torch.float32:
            part.to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sdxl(
    dtype: torch.dtype = torch.float32, *, force_zeros_for_empty_prompt: bool = True
) -> StableDiffusionXLPipeline:
    """16x16 pictures in float32 or float64, the same weights at every call."""
    sd = tiny_pipeline()
    with torch.random.fork_rng():
        torch.manual_seed(4)
        unet = UNet2DConditionModel(
            sample_size=SIDE // 2,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=2 * WIDTH,
            attention_head_dim=4,
            norm_num_groups=4,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=POOLED + 6 * 4,
        )
    pipe = StableDiffusionXLPipeline(
        vae=sd.vae,
        text_encoder=sd.text_encoder,
        text_encoder_2=tiny_text_encoder(5),
        tokenizer=sd.tokenizer,
        tokenizer_2=tiny_tokenizer(),
        unet=unet,
        scheduler=sd.scheduler,
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
    )
    return as_dtype(pipe, dtype)
