"""Classes guided by a guider: HunyuanImage 2.1 and its refiner, HunyuanVideo 1.5, Motif."""

# diffusers' and transformers' annotations contradict their code.
# pyright: reportArgumentType=false

from functools import partial
from typing import Any

import torch
from diffusers import (
    AdaptiveProjectedMixGuidance,
    AutoencoderKLHunyuanImage,
    AutoencoderKLHunyuanImageRefiner,
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    HunyuanImageTransformer2DModel,
    HunyuanVideo15Transformer3DModel,
    MotifVideoTransformer3DModel,
)
from PIL import Image
from pipelines.builders_edit import text_components
from pipelines.builders_wan import LATENT, wan_vae
from pipelines.families import TOKENS, WIDTH, call_arguments, flow, hand_made, padded
from pipelines.harness import Case, Family, Pool, noise
from tiny import tiny_tokenizer
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel, T5Config, T5EncoderModel

SCALE = 3.0
GLYPHS = {"image": 128, "video": 256}
"""Tokens of the encoder that reads what is to be written in a picture; without quotes in a prompt, all zeros."""
HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
SIDE = 16


def encoders() -> Pool:
    size = {"vocab_size": len(tiny_tokenizer())}
    t5 = T5Config(d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2, **size)
    return {**text_components(), "text_encoder_2": T5EncoderModel(t5), "tokenizer_2": tiny_tokenizer()}


def image_components() -> Pool:
    transformer = HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        rope_axes_dim=(4, 4),
        **HEADS,
    )
    vae = AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=SIDE,
        scaling_factor=0.5,
    )
    guider = AdaptiveProjectedMixGuidance(guidance_scale=SCALE, adaptive_projected_guidance_start_step=1)
    return {"transformer": transformer, "vae": vae, "scheduler": flow(), "guider": guider, **encoders()}


def refiner_components() -> Pool:
    transformer = HunyuanImageTransformer2DModel(
        in_channels=16,
        out_channels=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1, 1),
        guidance_embeds=True,
        text_embed_dim=WIDTH,
        rope_axes_dim=(2, 2, 4),
        **HEADS,
    )
    vae = AutoencoderKLHunyuanImageRefiner(
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        temporal_compression_ratio=1,
    )
    guider = AdaptiveProjectedMixGuidance(guidance_scale=SCALE, adaptive_projected_guidance_start_step=1)
    return {"transformer": transformer, "vae": vae, "scheduler": flow(), "guider": guider}


def video_components() -> Pool:
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_layers=1,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        image_embed_dim=16,
        rope_axes_dim=(2, 2, 4),
        target_size=SIDE,
        **HEADS,
    )
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": flow(),
        "guider": ClassifierFreeGuidance(guidance_scale=SCALE),
        "image_encoder": SiglipVisionModel(vision),
        "feature_extractor": SiglipImageProcessor(size={"height": 8, "width": 8}),
        **encoders(),
    }


def motif_components() -> Pool:
    transformer = MotifVideoTransformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        text_embed_dim=WIDTH,
        rope_axes_dim=(4, 4, 4),
    )
    guider = ClassifierFreeGuidance(guidance_scale=SCALE)
    return {"transformer": transformer, "vae": wan_vae(), "scheduler": flow(), "guider": guider}


def arguments(count: int, *, glyphs: int = 0, **more) -> Pool:
    pool = call_arguments(count, mask="prompt_embeds_mask", **more)
    if glyphs:
        pool["prompt_embeds_2"] = noise(11, count, glyphs, WIDTH)
        pool["prompt_embeds_mask_2"] = torch.ones(count, glyphs, dtype=torch.long)
    return pool


def no_glyphs(pipe: Any, count: int, *, tokens: int) -> Pool:
    """What the second encoder gives for "": nothing is to be written."""
    return {
        "negative_prompt_embeds_2": torch.zeros(count, tokens, WIDTH),
        "negative_prompt_embeds_mask_2": torch.zeros(count, tokens, dtype=torch.long),
    }


def family(components, kind: str = "", **more) -> Family:
    glyphs = GLYPHS.get(kind, 0)
    return Family(
        components,
        partial(arguments, glyphs=glyphs, **more),
        partial(hand_made, mask="negative_prompt_embeds_mask"),
        TOKENS,
        WIDTH,
        masked=True,
        per_image=False,
        **({"filled": partial(no_glyphs, tokens=glyphs)} if glyphs else {}),
    )


SQUARE = {"height": SIDE, "width": SIDE}
VIDEO = {"latents": (4, 2, 4, 4), "num_frames": 3, "image": Image.effect_noise((SIDE, SIDE), 60).convert("RGB")}
PICTURES = noise(7, 3, 3, 32, 32).sigmoid()
MOTIF = padded(
    motif_components,
    512,
    LATENT,
    per_image=True,
    masked=True,
    by_hand={"mask_dtype": torch.bool},
    mask_dtype=torch.bool,
    image=PICTURES,
    height=32,
    width=32,
    num_frames=5,
)

REFINED = {"image": noise(9, 3, 8, 1, 8, 8), **SQUARE}
SHORT = {"tokenizer_max_length": 8, "vision_num_semantic_tokens": 2}

CASES = [
    Case("HunyuanImagePipeline", family(image_components, "image", latents=(4, 8, 8), **SQUARE), attributes=SHORT),
    Case("HunyuanImageRefinerPipeline", family(refiner_components, latents=(8, 1, 8, 8), **REFINED)),
    Case(
        "HunyuanVideo15Pipeline",
        family(video_components, "video", **SQUARE, **VIDEO),
        attributes=SHORT,
        several_images=False,  # it forgets to repeat the place of a picture
    ),
    Case("HunyuanVideo15ImageToVideoPipeline", family(video_components, "video", **VIDEO), attributes=SHORT),
    Case("MotifVideoPipeline", MOTIF),
    Case(
        "MotifVideoImage2VideoPipeline",
        MOTIF,
        arguments={"image": PICTURES[:1]},
        one_prompt="it takes one picture and repeats it for no prompt",
    ),
]
