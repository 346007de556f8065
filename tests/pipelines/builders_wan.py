"""Videos from Wan's transformer and what is built on it: SkyReels, ChronoEdit, Lucy, AnyFlow, Helios; and Cosmos."""

# diffusers' annotations contradict its code.
# pyright: reportArgumentType=false

from functools import partial

from diffusers import (
    AnyFlowFARTransformer3DModel,
    AnyFlowTransformer3DModel,
    AutoencoderKLWan,
    ChronoEditTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
    HeliosScheduler,
    HeliosTransformer3DModel,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanAnimateTransformer3DModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from pipelines.builders_animate import to_pil_images
from pipelines.families import WIDTH, flow, padded
from pipelines.harness import Case, Family, Pool, noise
from tiny import tiny_vision
from torch import Tensor
from transformers import CLIPImageProcessor

SIDE, FRAMES, CHANNELS = 32, 5, 4
LATENT = (CHANNELS, 2, SIDE // 8, SIDE // 8)
SETTINGS = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "text_dim": WIDTH,
    "freq_dim": 8,
    "ffn_dim": 16,
    "num_layers": 1,
    "rope_max_seq_len": 32,
}
WITH_PICTURE = {**SETTINGS, "in_channels": 3 * CHANNELS, "image_dim": 16}
"""Beside the noise go a mask and the picture's latents."""


def wan_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=2,
        z_dim=CHANNELS,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )


def wan_components() -> Pool:
    return {
        "transformer": WanTransformer3DModel(**SETTINGS),
        "vae": wan_vae(),
        "scheduler": flow(),
        "image_encoder": tiny_vision(),
        "image_processor": CLIPImageProcessor(size=8, crop_size=8),
    }


def picture_components() -> Pool:
    return {**wan_components(), "transformer": WanTransformer3DModel(**WITH_PICTURE)}


def edit_components() -> Pool:
    return {**wan_components(), "transformer": WanTransformer3DModel(**{**SETTINGS, "in_channels": 2 * CHANNELS})}


def vace_components() -> Pool:
    net = WanVACETransformer3DModel(**SETTINGS, vace_layers=[0], vace_in_channels=2 * CHANNELS + 64)
    return {**wan_components(), "transformer": net}


def animate_components() -> Pool:
    net = WanAnimateTransformer3DModel(
        **{**SETTINGS, "in_channels": 2 * CHANNELS + 4, "image_dim": 16},
        latent_channels=CHANNELS,
        motion_encoder_channel_sizes={"4": 4, "8": 4, "16": 4},
        motion_encoder_size=16,
        motion_style_dim=4,
        motion_dim=2,
        motion_encoder_dim=4,
        face_encoder_hidden_dim=4,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=1,
    )
    return {**wan_components(), "transformer": net}


def chrono_components() -> Pool:
    net = ChronoEditTransformer3DModel(**WITH_PICTURE, rope_temporal_skip_len=2)
    return {**wan_components(), "transformer": net}


def skyreels_components(with_picture: bool = False) -> Pool:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    net = SkyReelsV2Transformer3DModel(**(WITH_PICTURE if with_picture else SETTINGS))
    return {**wan_components(), "transformer": net, "scheduler": scheduler}


def anyflow_components() -> Pool:
    net = AnyFlowTransformer3DModel(**SETTINGS)
    return {**wan_components(), "transformer": net, "scheduler": FlowMapEulerDiscreteScheduler()}


def far_components() -> Pool:
    net = AnyFlowFARTransformer3DModel(**SETTINGS, chunk_partition=(1, 1), full_chunk_limit=2)
    return {**anyflow_components(), "transformer": net}


def helios_components(stages: int) -> Pool:
    settings = {name: value for name, value in SETTINGS.items() if name != "rope_max_seq_len"}
    net = HeliosTransformer3DModel(**settings, rope_dim=(4, 4, 4))
    return {**wan_components(), "transformer": net, "scheduler": HeliosScheduler(stages=stages, gamma=0.25)}


def clip(count: int) -> Tensor:
    return noise(7, count, FRAMES, 3, SIDE, SIDE).sigmoid()


def family(components) -> Family:
    return padded(
        components,
        512,
        LATENT,
        per_image=True,
        masked=False,
        height=SIDE,
        width=SIDE,
        num_frames=FRAMES,
        image=ONE_PICTURE,
        video=clip(3),
    )


ONE_PICTURE = noise(7, 1, 3, SIDE, SIDE).sigmoid()
WAN, SKYREELS = family(wan_components), family(skyreels_components)
PICTURE, SKYREELS_PICTURE = family(picture_components), family(partial(skyreels_components, True))
NO_VIDEO = {"video": None}
NO_LATENTS = {"latents": None}  # given ones are not read as the class itself then wants them
FACES = {
    "image": to_pil_images(ONE_PICTURE)[0],
    "pose_video": to_pil_images(clip(1)[0]),
    "face_video": to_pil_images(clip(1)[0]),
    "segment_frame_length": FRAMES,
    "latents": noise(6, 3, CHANNELS, 3, SIDE // 8, SIDE // 8),
}
LONGER = {"num_frames": 9, "base_num_frames": 9, "overlap_history": 5}
LARGE = {"height": 64, "width": 64, "pyramid_num_inference_steps_list": [1, 1, 1]}
SHORT = {"history_sizes": [4, 2, 1], "num_latent_frames_per_chunk": 2, "image": None, "video": None}

CASES = [
    Case("WanPipeline", WAN),
    Case("WanVideoToVideoPipeline", WAN, arguments=NO_VIDEO),
    Case("WanImageToVideoPipeline", PICTURE),
    Case(
        "WanVACEPipeline",
        family(vace_components),
        arguments={**NO_VIDEO, "generator": None},
        one_prompt="it makes one video",
    ),
    Case("WanAnimatePipeline", family(animate_components), arguments=FACES),
    Case("LucyEditPipeline", family(edit_components)),
    Case("ChronoEditPipeline", family(chrono_components)),
    Case("SkyReelsV2Pipeline", SKYREELS),
    Case("SkyReelsV2ImageToVideoPipeline", SKYREELS_PICTURE),
    Case("SkyReelsV2DiffusionForcingPipeline", SKYREELS, arguments=NO_LATENTS),
    Case(
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        SKYREELS,
        arguments=NO_LATENTS,
        one_prompt="it makes one video of a picture",
    ),
    Case("SkyReelsV2DiffusionForcingVideoToVideoPipeline", SKYREELS, arguments={**NO_LATENTS, **LONGER}),
    Case("AnyFlowPipeline", family(anyflow_components), arguments=NO_VIDEO, runs_without_guidance=False),
    Case("AnyFlowFARPipeline", family(far_components), arguments=NO_VIDEO, runs_without_guidance=False, slow=True),
    Case("HeliosPipeline", family(partial(helios_components, 1)), arguments=SHORT),
    Case(
        "HeliosPyramidPipeline",
        family(partial(helios_components, 3)),
        arguments={**SHORT, **LARGE},
        one_prompt="it draws one noise for all prompts",
    ),
]
