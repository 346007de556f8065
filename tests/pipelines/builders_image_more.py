"""Further transformer families that make pictures."""

# diffusers' annotations contradict its code.
# pyright: reportArgumentType=false

from dataclasses import replace
from functools import partial

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    BriaTransformer2DModel,
    CogView4Transformer2DModel,
    ErnieImageTransformer2DModel,
    Flux2Transformer2DModel,
    GlmImageTransformer2DModel,
    Krea2Transformer2DModel,
    LongCatImageTransformer2DModel,
    LuminaNextDiT2DModel,
    NucleusMoEImageTransformer2DModel,
    OvisImageTransformer2DModel,
    PRXTransformer2DModel,
    QwenImageControlNetModel,
    SanaControlNetModel,
    ZImageControlNetModel,
)
from pipelines import builders_image as image
from pipelines.builders_image import GRID, HEADS, LATENT, NO_TEXT, PACKED, SQUARE, WIDE_HEADS
from pipelines.builders_sd import SIDE, picture
from pipelines.families import TOKENS, WIDTH, call_arguments, flow, flow_vae, hand_made, padded
from pipelines.harness import Case, Family, Pool, noise

from reneg.negative import NegativeEmbedding

FLUX_LIKE = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "joint_attention_dim": WIDTH, **WIDE_HEADS}
LARGE = {"height": 32, "width": 32}
EMBEDS_MASK = "negative_prompt_embeds_mask"


def flux2_vae() -> AutoencoderKLFlux2:
    return AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )


def klein_components() -> Pool:
    transformer = Flux2Transformer2DModel(
        **{**FLUX_LIKE, "axes_dims_rope": (4, 4, 4, 4)}, timestep_guidance_channels=8, guidance_embeds=False
    )
    return {"transformer": transformer, "vae": flux2_vae(), "scheduler": flow()}


def lumina_components() -> Pool:
    transformer = LuminaNextDiT2DModel(
        sample_size=4,
        hidden_size=24,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=8,
        cross_attention_dim=WIDTH,
    )
    return {"transformer": transformer, "vae": flow_vae(4), "scheduler": flow()}


def sana_control_components() -> Pool:
    control = SanaControlNetModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        **HEADS,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        upsample_block_type="interpolate",
        downsample_block_type="stride_conv",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )
    return {**image.sana_components(), "controlnet": control, "vae": vae}


def prx_components(pixels: bool = False) -> Pool:
    transformer = PRXTransformer2DModel(
        in_channels=3 if pixels else 4, context_in_dim=WIDTH, hidden_size=16, num_heads=2, depth=1, axes_dim=[4, 4]
    )
    pool = {"transformer": transformer, "scheduler": flow(), "default_sample_size": SIDE}
    return pool if pixels else {**pool, "vae": flow_vae(4)}


def qwen_control_components(extra_channels: int = 0) -> Pool:
    control = QwenImageControlNetModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        joint_attention_dim=WIDTH,
        extra_condition_channels=extra_channels,
        **WIDE_HEADS,
    )
    return {**image.qwen_components(), "controlnet": control}


def cogview4_control_components() -> Pool:
    transformer = CogView4Transformer2DModel(
        in_channels=8,
        out_channels=4,
        num_layers=1,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        rope_axes_dim=(8, 8),
        **HEADS,
    )
    return {"transformer": transformer, "vae": flow_vae(4), "scheduler": flow()}


def glm_components() -> Pool:
    transformer = GlmImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        prior_vq_quantizer_codebook_size=8,
        **HEADS,
    )
    return {"transformer": transformer, "vae": flow_vae(4), "scheduler": flow()}


def ovis_components() -> Pool:
    transformer = OvisImageTransformer2DModel(out_channels=16, **FLUX_LIKE)
    return {"transformer": transformer, "vae": flow_vae(4), "scheduler": flow()}


def bria_components() -> Pool:
    transformer = BriaTransformer2DModel(**FLUX_LIKE)
    return {"transformer": transformer, "vae": flow_vae(4), "scheduler": flow()}


def ernie_components() -> Pool:
    transformer = ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=32,
        in_channels=16,
        out_channels=16,
        text_in_dim=WIDTH,
        rope_axes_dim=(4, 6, 6),
    )
    return {"transformer": transformer, "vae": flux2_vae(), "scheduler": flow()}


def chroma_inpaint_components() -> Pool:
    pool = image.chroma_components()
    pool["transformer"].register_to_config(guidance_embeds=False)  # which the class looks for
    return pool


def krea_components() -> Pool:
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=16,
        timestep_embed_dim=8,
        text_hidden_dim=WIDTH // 2,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    return {**image.qwen_components(), "transformer": transformer}


def nucleus_components() -> Pool:
    transformer = NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 12, 12),
        moe_enabled=False,
    )
    return {**image.qwen_components(), "transformer": transformer}


def longcat_components() -> Pool:
    transformer = LongCatImageTransformer2DModel(**{**FLUX_LIKE, "in_channels": 64}, pooled_projection_dim=8)
    return {"transformer": transformer, "vae": flow_vae(16), "scheduler": flow()}


def zimage_control_components(control_channels: int = 4) -> Pool:
    control = ZImageControlNetModel(
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=control_channels,
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )
    return {**image.zimage_components(), "controlnet": control}


def family(components, latents, **more) -> Family:
    """One that takes any number of tokens, and a row of them for each picture."""
    return Family(components, partial(call_arguments, latents=latents, **{**SQUARE, **more}), hand_made, TOKENS, WIDTH)


def masked(components, latents, *, mask_dtype=torch.long, **more) -> Family:
    """The same with a mask, where the class repeats the rows itself."""
    return Family(
        components,
        partial(
            call_arguments, latents=latents, mask="prompt_embeds_mask", mask_dtype=mask_dtype, **{**SQUARE, **more}
        ),
        partial(hand_made, mask=EMBEDS_MASK, mask_dtype=mask_dtype),
        TOKENS,
        WIDTH,
        masked=True,
        per_image=False,
    )


def krea_arguments(count: int) -> Pool:
    """Tokens of two layers of the text encoder."""
    pool = call_arguments(count, latents=(4, 16), mask="prompt_embeds_mask", mask_dtype=torch.bool, **LARGE)
    return pool | {"prompt_embeds": pool["prompt_embeds"].reshape(count, TOKENS, 2, WIDTH // 2)}


def krea_hand_made(file: NegativeEmbedding, count: int) -> Pool:
    pool = hand_made(file, count, mask=EMBEDS_MASK, mask_dtype=torch.bool)
    return pool | {"negative_prompt_embeds": pool["negative_prompt_embeds"].reshape(count, TOKENS, 2, WIDTH // 2)}


CHROMA = padded(
    image.chroma_components,
    512,
    None,
    per_image=True,
    masked=True,
    by_hand=image.FLOAT_MASK,
    mask_image=image.masked_out(),
    **image.FLOAT_MASK,
    **SQUARE,
)
CHROMA_INPAINT = padded(
    chroma_inpaint_components,
    256,
    None,
    per_image=True,
    masked=True,
    by_hand=image.FLOAT_MASK,
    mask_image=image.masked_out(),
    **image.FLOAT_MASK,
    **SQUARE,
)
FLUX2 = replace(family(klein_components, (16, LATENT // 2, LATENT // 2), image=None), per_image=False)
OVIS = Family(
    ovis_components,
    partial(call_arguments, latents=PACKED, **SQUARE),
    partial(hand_made, no_text=True),
    TOKENS,
    WIDTH,
    per_image=False,
)
KREA = Family(krea_components, krea_arguments, krea_hand_made, TOKENS, WIDTH, masked=True, per_image=False)
PRIOR = torch.arange(16).repeat(3, 1) % 8
CONTROL = picture(3).repeat(1, 1, 2, 2)
QWEN_CONTROL = {"control_image": CONTROL, "control_mask": image.masked_out().repeat(1, 1, 2, 2)}

CASES = [
    Case("FluxKontextInpaintPipeline", image.FLUX),
    Case("Flux2KleinPipeline", FLUX2),
    Case("Flux2KleinInpaintPipeline", FLUX2, arguments={"image": picture(3), "mask_image": image.masked_out()}),
    Case("ChromaImg2ImgPipeline", CHROMA),
    Case("ChromaInpaintPipeline", CHROMA_INPAINT),
    Case("QwenImageInpaintPipeline", image.QWEN, arguments={"latents": None}, several_images=False),
    Case(
        "QwenImageControlNetPipeline",
        image.qwen_family(qwen_control_components),
        arguments=QWEN_CONTROL,
    ),
    Case(
        "QwenImageControlNetInpaintPipeline",
        image.qwen_family(partial(qwen_control_components, 4)),
        arguments=QWEN_CONTROL,
    ),
    Case("LuminaPipeline", padded(lumina_components, 256, GRID, per_image=True, masked=True, **SQUARE)),
    Case(
        "SanaControlNetPipeline",
        padded(
            sana_control_components,
            300,
            (4, 16, 16),
            per_image=False,
            masked=True,
            by_hand=NO_TEXT,
            use_resolution_binning=False,
            control_image=CONTROL,
            **LARGE,
        ),
    ),
    Case(
        "PRXPipeline",
        Family(
            prx_components,
            partial(
                call_arguments,
                latents=GRID,
                mask="prompt_attention_mask",
                mask_dtype=torch.bool,
                use_resolution_binning=False,
                **SQUARE,
            ),
            partial(hand_made, mask="negative_prompt_attention_mask", mask_dtype=torch.bool, no_text=True),
            TOKENS,
            WIDTH,
            masked=True,
            per_image=False,
        ),
        one_prompt="its timesteps are those of one",
    ),
    Case("CogView4ControlPipeline", family(cogview4_control_components, GRID)),
    Case("OvisImagePipeline", OVIS),
    Case("BriaPipeline", family(bria_components, PACKED)),
    Case("Krea2Pipeline", KREA),
    Case("NucleusMoEImagePipeline", masked(nucleus_components, (4, 16), mask_dtype=torch.bool, **LARGE)),
    Case("GlmImagePipeline", family(glm_components, GRID, image=None, prior_token_ids=PRIOR)),
    Case("ErnieImagePipeline", image.zimage_family(ernie_components), arguments={"latents": noise(6, 3, 16, 4, 4)}),
    Case("ZImageInpaintPipeline", image.ZIMAGE, arguments={"mask_image": image.masked_out()}),
    Case("ZImageControlNetPipeline", image.zimage_family(zimage_control_components)),
    Case(
        "ZImageControlNetInpaintPipeline",
        image.zimage_family(partial(zimage_control_components, 9)),
        arguments={"mask_image": image.masked_out()},
        several_images=False,
    ),
]
