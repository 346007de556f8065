"""A SanaPipeline with random weights: Gemma-2, a transformer with linear attention, and a deep-compression VAE."""

# diffusers' and transformers' annotations contradict their code.
# pyright: reportArgumentType=false

import string

import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
from tiny_sdxl import as_dtype
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

LATENT, SIDE, GEMMA = 8, 32, 16
"""Side of the latents, of the pictures in pixels, and width of Gemma's output."""
SQUARE = {"height": SIDE, "width": SIDE, "use_resolution_binning": False}
"""How the pipeline is called: binning knows the sizes of published models alone."""


def tiny_gemma_tokenizer() -> GemmaTokenizer:
    """Every letter is a token, and so is a space."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens = [*special, "▁", *string.ascii_letters, *string.digits, *string.punctuation, "\n"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return GemmaTokenizer(vocab=vocab, merges=[], add_bos_token=True)


def tiny_gemma() -> Gemma2Model:
    config = Gemma2Config(
        vocab_size=len(tiny_gemma_tokenizer()),
        hidden_size=GEMMA,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        max_position_embeddings=2048,
        sliding_window=2048,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(10)
        return Gemma2Model(config).eval()


def tiny_sana(dtype: torch.dtype = torch.float32) -> SanaPipeline:
    """32x32 pictures in float32 or float64, the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        transformer = SanaTransformer2DModel(
            sample_size=LATENT,
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=GEMMA,
        )
        vae = AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types="ResBlock",
            decoder_block_types="ResBlock",
            encoder_block_out_channels=(8, 16, 16),
            decoder_block_out_channels=(8, 16, 16),
            encoder_layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            encoder_qkv_multiscales=((), (), ()),
            decoder_qkv_multiscales=((), (), ()),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            scaling_factor=0.41407,
        )
    pipe = SanaPipeline(
        tokenizer=tiny_gemma_tokenizer(),
        text_encoder=tiny_gemma(),
        vae=vae,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, solver_order=2
        ),
    )
    return as_dtype(pipe, dtype)
