"""Videos from U-Nets: AnimateDiff, ModelScope and ZeroScope, I2VGen-XL."""

# diffusers' annotations contradict its code.
# pyright: reportArgumentType=false

import torch
from diffusers import (
    DDIMScheduler,
    I2VGenXLUNet,
    MotionAdapter,
    SparseControlNetModel,
    UNet3DConditionModel,
)
from PIL import Image
from pipelines import builders_sd as sd
from pipelines.builders_sd import picture
from pipelines.harness import Case, Family, PerPrompt, Pool, noise
from tiny import tiny_vision
from torch import Tensor
from transformers import CLIPImageProcessor

FRAMES, LATENT = 2, sd.SIDE // 2


def adapter(in_channels: int | None = None) -> MotionAdapter:
    return MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
        conv_in_channels=in_channels,
    )


def animate_components() -> Pool:
    return {**sd.components(), "motion_adapter": adapter()}


def animate_xl_components() -> Pool:
    return {**sd.xl_components(), "motion_adapter": adapter()}


def sparse_components() -> Pool:
    net = SparseControlNetModel(
        conditioning_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        norm_num_groups=4,
        cross_attention_dim=sd.WIDTH,
        attention_head_dim=2,
        conditioning_embedding_out_channels=(4, 8),
        motion_num_attention_heads=2,
        concat_conditioning_mask=False,
        use_simplified_condition_embedding=False,
    )
    return {**animate_components(), "controlnet": net}


def pia_components() -> Pool:
    return {**sd.components(), "motion_adapter": adapter(9)}


SETTINGS = {
    "sample_size": LATENT,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "cross_attention_dim": sd.WIDTH,
    "norm_num_groups": 4,
}


def modelscope_components() -> Pool:
    unet = UNet3DConditionModel(attention_head_dim=4, **SETTINGS)
    return {"unet": unet, "vae": sd.vae(), "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1)}


def i2vgen_components() -> Pool:
    return {
        **modelscope_components(),
        "unet": I2VGenXLUNet(attention_head_dim=2, **SETTINGS),
        "image_encoder": tiny_vision(sd.WIDTH),
        "feature_extractor": CLIPImageProcessor(crop_size=8, size=8),
    }


def to_pil_images(pictures: Tensor) -> list[Image.Image]:
    array = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in array]


def frames(arguments: Pool) -> Pool:
    """Two frames; a video of conditions is a list of frames for each prompt."""
    video = noise(9, 3, FRAMES, 3, sd.SIDE, sd.SIDE).sigmoid()
    return arguments | {
        "latents": noise(6, 3, 4, FRAMES, LATENT, LATENT),
        "num_frames": FRAMES,
        "video": video,
        "conditioning_frames": video,
        "num_inference_steps": 2,
    }


def family(components) -> Family:
    return Family(
        components, lambda count: frames(sd.arguments(count)), sd.hand_made, sd.TOKENS, sd.WIDTH, per_image=False
    )


ANIMATE = family(animate_components)
ANIMATE_XL = Family(
    animate_xl_components,
    lambda count: frames(sd.xl_arguments(count)),
    sd.xl_hand_made,
    sd.TOKENS,
    sd.WIDTH,
    sd.POOLED,
    per_image=False,
)
MODELSCOPE = family(modelscope_components)
ONE_CLIP = "the frames of conditions are those of one"
CONDITIONS = {"conditioning_frames": list(picture(FRAMES))}
FIRST_FRAME = {"conditioning_frames": picture(1), "controlnet_frame_indices": [0]}

CASES = [
    Case("AnimateDiffPipeline", ANIMATE, several_images=False),
    Case("AnimateDiffPAGPipeline", ANIMATE, several_images=False),
    Case("AnimateDiffSDXLPipeline", ANIMATE_XL, several_images=False),
    Case("AnimateDiffControlNetPipeline", ANIMATE, arguments=CONDITIONS, one_prompt=ONE_CLIP),
    Case(
        "AnimateDiffSparseControlNetPipeline", family(sparse_components), arguments=FIRST_FRAME, several_images=False
    ),
    Case("AnimateDiffVideoToVideoPipeline", ANIMATE, arguments={"latents": None}, several_images=False),
    Case(
        "AnimateDiffVideoToVideoControlNetPipeline",
        ANIMATE,
        arguments={**CONDITIONS, "latents": None, "video": list(picture(FRAMES))},
        one_prompt=ONE_CLIP,
    ),
    Case("PIAPipeline", family(pia_components), several_images=False),
    Case("TextToVideoSDPipeline", MODELSCOPE),
    Case(
        "VideoToVideoSDPipeline",
        MODELSCOPE,
        arguments={"generator": None},
        one_prompt="it draws one noise for the frames of all prompts",
    ),
    Case(
        "I2VGenXLPipeline",
        family(i2vgen_components),
        arguments={"image": PerPrompt(to_pil_images(picture(3)))},
    ),
]
