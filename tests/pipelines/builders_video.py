"""Families that make videos."""

# diffusers' annotations contradict its code.
# pyright: reportArgumentType=false

from functools import partial

from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    MochiTransformer3DModel,
)
from pipelines.families import POOLED, TOKENS, WIDTH, call_arguments, flow, hand_made, padded
from pipelines.harness import Case, Family, Pool

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
CLIP_32 = {"height": 32, "width": 32, "num_frames": 5}


def ltx_components() -> Pool:
    transformer = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, cross_attention_dim=16, num_layers=1, caption_channels=WIDTH, **HEADS
    )
    return {"transformer": transformer, "scheduler": flow()}


def cogvideox_components() -> Pool:
    transformer = CogVideoXTransformer3DModel(
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=WIDTH,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=5,
        max_text_seq_length=TOKENS,
        **HEADS,
    )
    return {"transformer": transformer, "scheduler": CogVideoXDDIMScheduler()}


def mochi_components() -> Pool:
    transformer = MochiTransformer3DModel(
        num_layers=2, pooled_projection_dim=16, in_channels=4, text_embed_dim=WIDTH, time_embed_dim=8, **HEADS
    )
    return {"transformer": transformer, "scheduler": flow()}


def hunyuan_components() -> Pool:
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        text_embed_dim=WIDTH,
        pooled_projection_dim=POOLED,
        rope_axes_dim=(2, 4, 4),
    )
    return {"transformer": transformer, "scheduler": flow()}


HUNYUAN = Family(
    hunyuan_components,
    partial(
        call_arguments,
        latents=(4, 2, 4, 4),
        pooled=True,
        mask="prompt_attention_mask",
        scale="true_cfg_scale",
        **CLIP_32,
    ),
    partial(hand_made, mask="negative_prompt_attention_mask", pooled=True),
    TOKENS,
    WIDTH,
    POOLED,
    masked=True,
)
COGVIDEOX = Family(
    cogvideox_components, partial(call_arguments, latents=(2, 4, 4, 4), **CLIP_32), hand_made, TOKENS, WIDTH
)
LTX = padded(ltx_components, 128, (8, 4), per_image=True, masked=True, height=64, width=64, num_frames=9)

CASES = [
    Case("LTXPipeline", LTX),
    Case("CogVideoXPipeline", COGVIDEOX),
    Case("MochiPipeline", padded(mochi_components, 256, (4, 2, 4, 4), per_image=True, masked=True, **CLIP_32)),
    Case("HunyuanVideoPipeline", HUNYUAN),
]
