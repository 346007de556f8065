"""Videos from pictures and videos, and further transformer families that make videos."""

# diffusers' annotations contradict its code.
# pyright: reportArgumentType=false

from functools import partial

from diffusers import (
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLCosmos,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLMagvit,
    CogVideoXDDIMScheduler,
    CogVideoXTransformer3DModel,
    ConsisIDTransformer3DModel,
    CosmosTransformer3DModel,
    DDIMScheduler,
    EasyAnimateTransformer3DModel,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    SanaVideoTransformer3DModel,
    UniPCMultistepScheduler,
)
from pipelines.builders_image import NO_TEXT
from pipelines.builders_wan import LATENT, clip, wan_vae
from pipelines.families import POOLED, TOKENS, WIDTH, call_arguments, flow, hand_made, padded
from pipelines.harness import Case, Family, Pool, noise
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
SIZE = {"height": 32, "width": 32, "num_frames": 5}
PICTURES = noise(7, 3, 3, 32, 32).sigmoid()
BLOCKS = {"block_out_channels": (8, 8, 8, 8), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2}


def ltx_components() -> Pool:
    vae = AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(4, 4, 4, 4),
        decoder_block_out_channels=(4, 4, 4, 4),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        patch_size=4,
    )
    transformer = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, cross_attention_dim=16, num_layers=1, caption_channels=WIDTH, **HEADS
    )
    return {"transformer": transformer, "vae": vae, "scheduler": flow()}


def cogvideox_settings(in_channels: int) -> Pool:
    return {
        "in_channels": in_channels,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": WIDTH,
        "num_layers": 1,
        "sample_width": 4,
        "sample_height": 4,
        "sample_frames": 5,
        "max_text_seq_length": TOKENS,
        **HEADS,
    }


def cogvideox_components(in_channels: int = 8) -> Pool:
    return {
        "transformer": CogVideoXTransformer3DModel(**cogvideox_settings(in_channels)),
        "vae": AutoencoderKLCogVideoX(**BLOCKS),
        "scheduler": CogVideoXDDIMScheduler(),
    }


def consisid_components() -> Pool:
    return {**cogvideox_components(), "transformer": ConsisIDTransformer3DModel(**cogvideox_settings(8))}


HUNYUAN = {
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 10,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "patch_size": 1,
    "text_embed_dim": WIDTH,
    "pooled_projection_dim": POOLED,
    "rope_axes_dim": (2, 4, 4),
}


def hunyuan_components(in_channels: int, condition: str | None = None) -> Pool:
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=in_channels, guidance_embeds=condition is None, image_condition_type=condition, **HUNYUAN
    )
    return {"transformer": transformer, "vae": AutoencoderKLHunyuanVideo(**BLOCKS), "scheduler": flow()}


def framepack_components() -> Pool:
    transformer = HunyuanVideoFramepackTransformer3DModel(
        in_channels=4,
        has_image_proj=True,
        image_proj_dim=16,
        has_clean_x_embedder=True,
        **{**HUNYUAN, "patch_size": 2},
    )
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    return {
        **hunyuan_components(4),
        "transformer": transformer,
        "image_encoder": SiglipVisionModel(vision),
        "feature_extractor": SiglipImageProcessor(size={"height": 8, "width": 8}),
    }


def allegro_components() -> Pool:
    transformer = AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        sample_height=4,
        sample_width=4,
        sample_frames=2,
    )
    scheduler = DDIMScheduler(clip_sample=False)
    return {"transformer": transformer, "vae": AutoencoderKLAllegro(**BLOCKS), "scheduler": scheduler}


def sana_components() -> Pool:
    transformer = SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        rope_max_seq_len=32,
    )
    return {"transformer": transformer, "vae": wan_vae(), "scheduler": flow()}


def easyanimate_components(in_channels: int = 4) -> Pool:
    transformer = EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=4,
        patch_size=2,
        num_layers=1,
        mmdit_layers=1,
        time_embed_dim=8,
        text_embed_dim=WIDTH,
        sample_width=16,
        sample_height=16,
    )
    vae = AutoencoderKLMagvit(**BLOCKS)
    return {"transformer": transformer, "vae": vae, "scheduler": flow()}


class Guardrail:
    """In the place of Cosmos' safety checker, a package of its own, which looks at texts and pictures only."""

    def to(self, device: object) -> None: ...


def cosmos_components(in_channels: int = 4, **more) -> Pool:
    transformer = CosmosTransformer3DModel(
        in_channels=in_channels,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        text_embed_dim=WIDTH,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        concat_padding_mask=False,  # for which torchvision resizes
        **more,
    )
    return {
        "transformer": transformer,
        "vae": wan_vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        "safety_checker": Guardrail(),
    }


def edm_components(in_channels: int = 4) -> Pool:
    vae = AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=32,
        num_layers=1,
        temporal_compression_ratio=4,
        latents_mean=None,
        latents_std=None,
    )
    return {**cosmos_components(in_channels), "vae": vae, "scheduler": EDMEulerScheduler()}


def cosmos25_components() -> Pool:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    return {**cosmos_components(5, extra_pos_embed_type=None), "scheduler": scheduler}


def family(components, **more) -> Family:
    arguments = {"latents": (2, 4, 4, 4), "image": PICTURES, "video": clip(3), "control_video": clip(3), **SIZE}
    return Family(components, partial(call_arguments, **{**arguments, **more}), hand_made, TOKENS, WIDTH)


def hunyuan(components) -> Family:
    return Family(
        components,
        partial(
            call_arguments,
            latents=LATENT,
            pooled=True,
            mask="prompt_attention_mask",
            scale="true_cfg_scale",
            image=PICTURES,
            latent_window_size=2,
            **SIZE,
        ),
        partial(hand_made, mask="negative_prompt_attention_mask", pooled=True),
        TOKENS,
        WIDTH,
        POOLED,
        masked=True,
    )


def filled_up(components, tokens: int = 512, *, masked: bool = False, per_image: bool = True, **more) -> Family:
    arguments = {"image": PICTURES, "video": clip(3), **SIZE, **more}
    return padded(components, tokens, LATENT, per_image=per_image, masked=masked, **arguments)


def easyanimate(components, **more) -> Family:
    return Family(
        components,
        partial(call_arguments, latents=LATENT, mask="prompt_attention_mask", **SIZE, **more),
        partial(hand_made, mask="negative_prompt_attention_mask"),
        TOKENS,
        WIDTH,
        masked=True,
    )


NO_LATENTS = {"latents": None}
SANA = {"frames": 5, "use_resolution_binning": False, "by_hand": NO_TEXT, "masked": True, "per_image": False}
LTX = {"latents": None, "image": PICTURES.repeat(1, 1, 2, 2), "height": 64, "width": 64, "num_frames": 9}
ONE_PICTURE = {"image": PICTURES[:1], "video": None}
LARGE = {"image": PICTURES.repeat(1, 1, 2, 2), "height": 64, "width": 64}

CASES = [
    Case("LTXImageToVideoPipeline", filled_up(ltx_components, 128, masked=True), arguments=LTX),
    Case(
        "LTXConditionPipeline",
        filled_up(ltx_components, 256, masked=True),
        arguments={"latents": None, "image": None, "video": None},
    ),
    Case("CogVideoXImageToVideoPipeline", family(cogvideox_components)),
    Case("CogVideoXVideoToVideoPipeline", family(partial(cogvideox_components, 4)), arguments=NO_LATENTS),
    Case("CogVideoXFunControlPipeline", family(cogvideox_components)),
    Case("ConsisIDPipeline", family(consisid_components)),
    Case("HunyuanVideoImageToVideoPipeline", hunyuan(partial(hunyuan_components, 9, "latent_concat"))),
    Case("HunyuanSkyreelsImageToVideoPipeline", hunyuan(partial(hunyuan_components, 8))),
    Case("HunyuanVideoFramepackPipeline", hunyuan(framepack_components), arguments=LARGE, slow=True),
    Case(
        "AllegroPipeline",
        filled_up(
            allegro_components, 512, masked=True, per_image=False, by_hand=NO_TEXT, clean_caption=False, image=None
        ),
        several_images=False,
    ),
    Case("SanaVideoPipeline", filled_up(sana_components, 300, **SANA)),
    Case(
        "SanaImageToVideoPipeline",
        filled_up(sana_components, 300, **SANA),
        arguments=ONE_PICTURE,
        several_images=False,
    ),
    Case("EasyAnimatePipeline", easyanimate(easyanimate_components)),
    Case(
        "EasyAnimateInpaintPipeline",
        easyanimate(partial(easyanimate_components, 9), video=clip(3)),
        arguments=NO_LATENTS,
    ),
    Case("CosmosTextToWorldPipeline", filled_up(edm_components)),
    Case("CosmosVideoToWorldPipeline", filled_up(partial(edm_components, 5)), arguments={"video": None}),
    Case("Cosmos2TextToImagePipeline", filled_up(cosmos_components), arguments={"latents": noise(6, 3, 4, 1, 4, 4)}),
    Case("Cosmos2VideoToWorldPipeline", filled_up(partial(cosmos_components, 5)), arguments={"video": None}),
    Case(
        "Cosmos2_5_PredictBasePipeline",
        family(cosmos25_components, latents=LATENT),
        arguments={"image": None, "video": None},
    ),
]
