"""A StableDiffusion3Pipeline with random weights, with T5 or without."""

# diffusers' and transformers' annotations contradict their code.
# pyright: reportArgumentType=false

import string

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from tiny import SIDE, WIDTH, tiny_tokenizer
from tiny_sdxl import POOLED, as_dtype, tiny_text_encoder
from transformers import T5Config, T5EncoderModel, T5Tokenizer

JOINT = 2 * WIDTH + 4
"""Width of a token: T5's, to which those of the two CLIP encoders are padded."""


def tiny_t5_tokenizer() -> T5Tokenizer:
    """Every letter is a token, and so is the space before a word."""
    letters = ["▁", *string.ascii_lowercase, *string.digits, ",", "."]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -1.0) for letter in letters)]
    return T5Tokenizer(vocab=vocab, extra_ids=0)


def tiny_t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tiny_t5_tokenizer()),
        d_model=JOINT,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return T5EncoderModel(config).eval()  # it has dropout


def tiny_sd3(dtype: torch.dtype = torch.float32, *, t5: bool = True) -> StableDiffusion3Pipeline:
    """16x16 pictures in float32 or float64, the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        transformer = SD3Transformer2DModel(
            sample_size=SIDE // 2,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=JOINT,
            caption_projection_dim=16,
            pooled_projection_dim=2 * POOLED,
            pos_embed_max_size=SIDE // 2,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=SIDE,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=tiny_text_encoder(5),
        tokenizer=tiny_tokenizer(),
        text_encoder_2=tiny_text_encoder(8),
        tokenizer_2=tiny_tokenizer(),
        text_encoder_3=tiny_t5() if t5 else None,
        tokenizer_3=tiny_t5_tokenizer() if t5 else None,
    )
    return as_dtype(pipe, dtype)
