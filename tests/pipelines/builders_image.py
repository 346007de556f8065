"""Transformer families that make pictures."""

# diffusers' annotations contradict its code.
# pyright: reportArgumentType=false

from functools import partial

import torch
from diffusers import (
    AuraFlowTransformer2DModel,
    AutoencoderKLQwenImage,
    ChromaTransformer2DModel,
    CogView4Transformer2DModel,
    DDIMScheduler,
    FluxControlNetModel,
    FluxTransformer2DModel,
    Lumina2Transformer2DModel,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from pipelines.builders_sd import SIDE, picture
from pipelines.families import POOLED, TOKENS, WIDTH, call_arguments, flow, flow_vae, hand_made, padded
from pipelines.harness import Case, Family, PerPrompt, Pool

SQUARE = {"height": SIDE, "width": SIDE}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
WIDE_HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 4, 8)}
LATENT = SIDE // 2


def masked_out() -> torch.Tensor:
    mask = torch.zeros(3, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    return mask


def sd3_components() -> Pool:
    settings = {
        "sample_size": LATENT,
        "patch_size": 2,
        "in_channels": 16,
        "num_layers": 2,
        "joint_attention_dim": WIDTH,
        "caption_projection_dim": 16,
        "pooled_projection_dim": POOLED,
        "out_channels": 16,
        "pos_embed_max_size": LATENT,
        **HEADS,
    }
    return {
        "transformer": SD3Transformer2DModel(**settings),
        "controlnet": SD3ControlNetModel(**settings),
        "vae": flow_vae(16),
        "scheduler": flow(),
    }


def flux_components() -> Pool:
    settings = {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": POOLED,
        **WIDE_HEADS,
    }
    return {
        "transformer": FluxTransformer2DModel(**settings),
        "controlnet": FluxControlNetModel(**settings),
        "vae": flow_vae(4),
        "scheduler": flow(),
    }


def chroma_components() -> Pool:
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        approximator_hidden_dim=16,
        approximator_layers=1,
        **WIDE_HEADS,
    )
    return {"transformer": transformer, "vae": flow_vae(4), "scheduler": flow()}


def pixart_components() -> Pool:
    transformer = PixArtTransformer2DModel(
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16,
        sample_size=LATENT,
        caption_channels=WIDTH,
        use_additional_conditions=False,
        **HEADS,
    )
    return {"transformer": transformer, "vae": flow_vae(4), "scheduler": DDIMScheduler(clip_sample=False)}


def sana_components() -> Pool:
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        **HEADS,
    )
    return {"transformer": transformer, "scheduler": flow()}


def qwen_components() -> Pool:
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, joint_attention_dim=WIDTH, **WIDE_HEADS
    )
    vae = AutoencoderKLQwenImage(base_dim=4, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    assert vae.quant_conv.bias is not None
    with torch.no_grad():  # no spread: some classes draw from the posterior without their generator
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -60
    return {"transformer": transformer, "vae": vae, "scheduler": flow()}


def lumina2_components() -> Pool:
    transformer = Lumina2Transformer2DModel(
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(300, 16, 16),
        cap_feat_dim=WIDTH,
    )
    return {"transformer": transformer, "vae": flow_vae(4), "scheduler": flow()}


def auraflow_components() -> Pool:
    transformer = AuraFlowTransformer2DModel(
        sample_size=LATENT,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pos_embed_max_size=16,
        **HEADS,
    )
    return {"transformer": transformer, "vae": flow_vae(4), "scheduler": flow()}


def cogview4_components() -> Pool:
    transformer = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        rope_axes_dim=(8, 8),
        **HEADS,
    )
    return {"transformer": transformer, "vae": flow_vae(4), "scheduler": flow()}


def zimage_components() -> Pool:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return {"transformer": transformer, "vae": flow_vae(4), "scheduler": flow()}


def zimage_arguments(count: int) -> Pool:
    pool = call_arguments(count, latents=(4, LATENT, LATENT), **SQUARE)
    return pool | {"prompt_embeds": PerPrompt(pool["prompt_embeds"])}


def qwen_family(components) -> Family:
    return Family(
        components,
        partial(
            call_arguments,
            latents=(4, 16),
            mask="prompt_embeds_mask",
            scale="true_cfg_scale",
            height=32,
            width=32,
            image=picture(3).repeat(1, 1, 2, 2),
            mask_image=masked_out().repeat(1, 1, 2, 2),
        ),
        partial(hand_made, mask="negative_prompt_embeds_mask"),
        TOKENS,
        WIDTH,
        masked=True,
        per_image=False,
    )


def zimage_family(components) -> Family:
    return Family(components, zimage_arguments, partial(hand_made, as_list=True), TOKENS, WIDTH, per_image=False)


GRID, PACKED = (4, LATENT, LATENT), ((LATENT // 2) ** 2, 16)
SD3 = Family(
    sd3_components,
    partial(call_arguments, pooled=True, latents=(16, LATENT, LATENT), mask_image=masked_out(), **SQUARE),
    partial(hand_made, pooled=True),
    TOKENS,
    WIDTH,
    POOLED,
)
FLUX = Family(
    flux_components,
    partial(
        call_arguments,
        pooled=True,
        latents=PACKED,
        mask_image=masked_out(),
        scale="true_cfg_scale",
        max_area=SIDE * SIDE,
        _auto_resize=False,
        **SQUARE,
    ),
    partial(hand_made, pooled=True),
    TOKENS,
    WIDTH,
    POOLED,
)
QWEN = qwen_family(qwen_components)
ZIMAGE = zimage_family(zimage_components)


def plain(components) -> Family:
    return Family(components, partial(call_arguments, latents=GRID, **SQUARE), hand_made, TOKENS, WIDTH)


FLOAT_MASK = {"mask_dtype": torch.float32}
NO_TEXT = {"no_text": True}
PIXART = {"by_hand": NO_TEXT, "per_image": False, "masked": True, "use_resolution_binning": False, **SQUARE}
CASES = [
    Case("StableDiffusion3Pipeline", SD3),
    Case("StableDiffusion3Img2ImgPipeline", SD3),
    Case("StableDiffusion3InpaintPipeline", SD3),
    Case("StableDiffusion3PAGPipeline", SD3),
    Case("StableDiffusion3PAGImg2ImgPipeline", SD3),
    Case("StableDiffusion3ControlNetPipeline", SD3),
    Case("PixArtAlphaPipeline", padded(pixart_components, 120, GRID, **PIXART), arguments={"clean_caption": False}),
    Case("PixArtSigmaPipeline", padded(pixart_components, 300, GRID, **PIXART), arguments={"clean_caption": False}),
    Case("PixArtSigmaPAGPipeline", padded(pixart_components, 300, GRID, **PIXART)),
    *(
        Case(
            name,
            padded(
                sana_components,
                300,
                (4, 2, 2),
                per_image=False,
                masked=True,
                by_hand=NO_TEXT,
                use_resolution_binning=False,
                height=64,
                width=64,
            ),
        )
        for name in ("SanaPipeline", "SanaPAGPipeline")
    ),
    *(Case(f"Flux{kind}Pipeline", FLUX) for kind in ("", "Img2Img", "Inpaint", "ControlNet", "Kontext")),
    Case("QwenImagePipeline", QWEN),
    Case("QwenImageImg2ImgPipeline", QWEN, arguments={"latents": None}, several_images=False),
    Case("Lumina2Pipeline", padded(lumina2_components, 256, GRID, per_image=True, masked=True, **SQUARE)),
    Case(
        "ChromaPipeline",
        padded(
            chroma_components,
            512,
            PACKED,
            per_image=True,
            masked=True,
            by_hand=FLOAT_MASK,
            **FLOAT_MASK,
            **SQUARE,
        ),
    ),
    Case("AuraFlowPipeline", padded(auraflow_components, 256, GRID, per_image=False, masked=True, **SQUARE)),
    Case("CogView4Pipeline", plain(cogview4_components)),
    Case("ZImagePipeline", ZIMAGE),
    Case("ZImageImg2ImgPipeline", ZIMAGE),
]
