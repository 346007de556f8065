"""Stable Diffusion 1.x / 2.x and XL, and what is built on them."""

# diffusers' annotations contradict its code.
# pyright: reportArgumentType=false

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    T2IAdapter,
    UNet2DConditionModel,
)
from pipelines.harness import Case, Family, Pool, generators, noise, repeated

from reneg.negative import NegativeEmbedding

TOKENS, WIDTH, POOLED, SIDE = 7, 16, 8, 16


def unet(in_channels: int = 4, *, xl: bool = False, class_labels: int | None = None) -> UNet2DConditionModel:
    return UNet2DConditionModel(in_channels=in_channels, **unet_settings(xl), **labels(class_labels))


def labels(channels: int | None) -> Pool:
    return (
        {}
        if channels is None
        else {"class_embed_type": "projection", "projection_class_embeddings_input_dim": channels}
    )


def unet_settings(xl: bool) -> Pool:
    settings: Pool = {
        "sample_size": SIDE // 2,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return settings | xl_settings() if xl else settings


def xl_settings() -> Pool:
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 2,
        "projection_class_embeddings_input_dim": POOLED + 6 * 2,
        "use_linear_projection": True,
    }


def controlnet_settings(xl: bool) -> Pool:
    settings = unet_settings(xl)
    for name in ("sample_size", "up_block_types"):
        settings.pop(name)
    return settings | {"conditioning_embedding_out_channels": (4, 8)}


def vae(channels: int = 4, shift_factor: float | None = None, out_channels: int = 3) -> AutoencoderKL:
    model = AutoencoderKL(
        out_channels=out_channels,
        shift_factor=shift_factor,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=SIDE,
    )
    assert model.quant_conv is not None and model.quant_conv.bias is not None
    with torch.no_grad():  # no spread: some classes draw from the posterior without their generator
        model.quant_conv.weight[channels:] = 0
        model.quant_conv.bias[channels:] = -60
    return model


def components() -> Pool:
    return {
        "unet": unet(),
        "vae": vae(),
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
        "controlnet": ControlNetModel(**controlnet_settings(False)),
        "adapter": T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2),
        "requires_safety_checker": False,
    }


def xl_components() -> Pool:
    return {
        **components(),
        "unet": unet(xl=True),
        "controlnet": ControlNetModel(**controlnet_settings(True)),
    }


def picture(count: int) -> torch.Tensor:
    return noise(7, count, 3, SIDE, SIDE).sigmoid()


def arguments(count: int) -> Pool:
    mask = torch.zeros(count, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    return {
        "prompt_embeds": noise(5, count, TOKENS, WIDTH),
        "image": picture(count),
        "mask_image": mask,
        "control_image": picture(count),
        "height": SIDE,
        "width": SIDE,
        "latents": noise(6, count, 4, SIDE // 2, SIDE // 2),
        "generator": generators(),
        "output_type": "latent",
        "strength": 1.0,
        "guidance_scale": 5.0,
        "num_inference_steps": 2,
    }


def xl_arguments(count: int) -> Pool:
    return {**arguments(count), "pooled_prompt_embeds": noise(8, count, POOLED)}


def hand_made(file: NegativeEmbedding, count: int) -> Pool:
    return {"negative_prompt_embeds": repeated(file.negative_prompt_embeds, count)}


def xl_hand_made(file: NegativeEmbedding, count: int) -> Pool:
    pooled = repeated(file.negative_pooled_prompt_embeds, count)
    return {**hand_made(file, count), "negative_pooled_prompt_embeds": pooled}


SD = Family(components, arguments, hand_made, TOKENS, WIDTH, per_image=False)
XL = Family(xl_components, xl_arguments, xl_hand_made, TOKENS, WIDTH, POOLED, per_image=False)

CASES = [
    *(
        Case(f"StableDiffusion{kind}Pipeline", SD)
        for kind in ("", "Img2Img", "Inpaint", "ControlNet", "ControlNetImg2Img", "ControlNetInpaint")
    ),
    *(Case(f"StableDiffusion{kind}Pipeline", SD) for kind in ("PAG", "PAGImg2Img", "PAGInpaint")),
    *(Case(f"StableDiffusion{kind}Pipeline", SD) for kind in ("ControlNetPAG", "ControlNetPAGInpaint")),
    Case("StableDiffusionAdapterPipeline", SD),
    *(
        Case(f"StableDiffusionXL{kind}Pipeline", XL)
        for kind in ("", "Img2Img", "Inpaint", "ControlNet", "ControlNetImg2Img", "ControlNetInpaint")
    ),
    *(Case(f"StableDiffusionXL{kind}Pipeline", XL) for kind in ("PAG", "PAGImg2Img", "PAGInpaint")),
    *(Case(f"StableDiffusionXL{kind}Pipeline", XL) for kind in ("ControlNetPAG", "ControlNetPAGImg2Img")),
    Case("StableDiffusionXLAdapterPipeline", XL),
]
