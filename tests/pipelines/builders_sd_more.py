"""Further classes built on Stable Diffusion 1.x / 2.x and XL: other inputs, other guidance, older ones."""

# diffusers' annotations contradict its code.
# pyright: reportArgumentType=false

from functools import partial

import torch
from diffusers import (
    ControlNetUnionModel,
    ControlNetXSAdapter,
    DDIMInverseScheduler,
    DDPMParallelScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from pipelines.builders_sd import (
    POOLED,
    SD,
    SIDE,
    TOKENS,
    WIDTH,
    XL,
    arguments,
    components,
    hand_made,
    picture,
    unet,
    unet_settings,
    vae,
    xl_arguments,
    xl_components,
    xl_hand_made,
)
from pipelines.harness import Case, Family, PerPrompt, Pool, noise
from tiny import MAX_TOKENS, tiny_text_encoder, tiny_tokenizer, tiny_vision
from transformers import CLIPTextModelWithProjection

LATENT = SIDE // 2


def upscale_components() -> Pool:
    return {
        **components(),
        "unet": UNet2DConditionModel(in_channels=7, num_class_embeds=1000, **unet_settings(False)),
        "low_res_scheduler": DDPMScheduler(),
    }


def xs_components(xl: bool) -> Pool:
    settings = {**unet_settings(xl), "layers_per_block": 2}  # what the adapter is built for
    pool = {**(xl_components() if xl else components()), "unet": UNet2DConditionModel(**settings)}
    adapter = ControlNetXSAdapter.from_unet(
        pool["unet"],
        size_ratio=0.5,
        num_attention_heads=2,
        conditioning_embedding_out_channels=(4, 8),
        learn_time_embedding=True,
    )
    return {**pool, "controlnet": adapter}


def union_components() -> Pool:
    settings = unet_settings(True)
    for name in ("sample_size", "up_block_types"):
        settings.pop(name)
    net = ControlNetUnionModel(
        conditioning_embedding_out_channels=(4, 8),
        num_trans_channel=8,
        num_trans_head=2,
        num_proj_channel=8,
        num_control_type=2,
        **settings,
    )
    return {**xl_components(), "controlnet": net}


def text_components() -> Pool:
    """With the text encoder, for classes that encode more than the prompt."""
    return {**components(), "text_encoder": tiny_text_encoder(), "tokenizer": tiny_tokenizer()}


def gligen_components(attention_type: str) -> Pool:
    return {**text_components(), "unet": UNet2DConditionModel(attention_type=attention_type, **unet_settings(False))}


def unclip_components() -> Pool:
    config = tiny_text_encoder().config
    config.projection_dim = WIDTH
    encoder = CLIPTextModelWithProjection(config)
    prior = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        embedding_dim=WIDTH,
        num_embeddings=MAX_TOKENS,
        additional_embeddings=4,
    )
    return {
        **text_components(),
        "unet": unet(class_labels=2 * WIDTH),
        "prior": prior,
        "prior_text_encoder": encoder,
        "prior_tokenizer": tiny_tokenizer(),
        "prior_scheduler": UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample"),
        "image_normalizer": StableUnCLIPImageNormalizer(embedding_dim=WIDTH),
        "image_noising_scheduler": DDPMScheduler(),
    }


def unclip_image_components() -> Pool:
    return {
        **components(),
        "unet": unet(class_labels=2 * POOLED),
        "image_encoder": tiny_vision(POOLED),
        "image_normalizer": StableUnCLIPImageNormalizer(embedding_dim=POOLED),
        "image_noising_scheduler": DDPMScheduler(),
    }


def latent_upscale_components() -> Pool:
    settings = {**unet_settings(False), "time_cond_proj_dim": 128 + POOLED}
    return {
        **components(),
        "unet": UNet2DConditionModel(in_channels=8, out_channels=5, **settings),
        "scheduler": EulerDiscreteScheduler(prediction_type="sample"),
    }


def text_arguments(count: int) -> Pool:
    return {
        **arguments(count),
        "prompt": PerPrompt(["a cat", "two dogs", "birds"]),
        "prompt_embeds": None,
        "token_indices": PerPrompt([[1], [2], [1]]),
    }


def encoded(components) -> Family:
    """Prompts as texts, which a text encoder of `MAX_TOKENS` encodes."""
    return Family(components, text_arguments, hand_made, MAX_TOKENS, WIDTH, per_image=False)


def family(components) -> Family:
    return Family(components, arguments, hand_made, TOKENS, WIDTH, per_image=False)


def xl_family(components) -> Family:
    return Family(components, xl_arguments, xl_hand_made, TOKENS, WIDTH, POOLED, per_image=False)


UNION = xl_family(union_components)
CONTROL_MODE = {"control_mode": [1], "control_image": [picture(3)[:1]]}
BOXES = {"gligen_boxes": [[0.1, 0.1, 0.6, 0.6]], "gligen_phrases": ["a cat"]}
ONE_MASK = torch.cat([torch.ones(1, 1, LATENT, LATENT // 2), torch.zeros(1, 1, LATENT, LATENT // 2)], dim=-1)
INVERTED = noise(9, 3, 2, 4, LATENT, LATENT)
LARGE = noise(6, 3, 4, SIDE, SIDE)

CASES = [
    Case("AltDiffusionPipeline", SD),
    Case("AltDiffusionImg2ImgPipeline", SD, several_images=False),  # it wants as many pictures as generators
    Case(
        "StableDiffusionDepth2ImgPipeline",
        SD,
        components={"unet": unet(5)},
        arguments={"depth_map": noise(9, 3, LATENT, LATENT)},
    ),
    Case(
        "StableDiffusionUpscalePipeline", family(upscale_components), arguments={"latents": noise(6, 3, 4, SIDE, SIDE)}
    ),
    Case("StableDiffusionInstructPix2PixPipeline", SD, components={"unet": unet(8)}),
    Case("StableUnCLIPPipeline", encoded(unclip_components), arguments={"prior_num_inference_steps": 2}),
    Case(
        "StableUnCLIPImg2ImgPipeline",
        family(unclip_image_components),
        arguments={"image": None, "image_embeds": noise(9, 3, POOLED)},
    ),
    Case("StableDiffusionControlNetXSPipeline", family(partial(xs_components, False))),
    Case("StableDiffusionXLControlNetXSPipeline", xl_family(partial(xs_components, True))),
    Case(
        "StableDiffusionAttendAndExcitePipeline",
        encoded(text_components),
        arguments={"attn_res": (LATENT, LATENT), "thresholds": {}},
    ),
    Case(
        "StableDiffusionDiffEditPipeline",
        SD,
        components={"inverse_scheduler": DDIMInverseScheduler()},
        arguments={
            "mask_image": ONE_MASK,
            "image_latents": noise(9, 3, 2, 4, LATENT, LATENT),
            "inpaint_strength": 1.0,
        },
    ),
    Case("StableDiffusionGLIGENPipeline", encoded(partial(gligen_components, "gated")), arguments=BOXES),
    Case(
        "StableDiffusionGLIGENTextImagePipeline",
        encoded(partial(gligen_components, "gated-text-image")),
        arguments={**BOXES, "gligen_phrases": ["cat"]},
    ),
    Case("StableDiffusionLDM3DPipeline", SD, components={"vae": vae(out_channels=6)}, arguments={"output_type": "np"}),
    Case("StableDiffusionPanoramaPipeline", SD, one_prompt="it pairs the two branches wrongly for more"),
    Case("StableDiffusionSAGPipeline", SD),
    Case("StableDiffusionInpaintPipelineLegacy", SD, several_images=False),  # their noise is drawn in another order
    Case("StableDiffusionModelEditingPipeline", encoded(text_components)),
    Case("StableDiffusionParadigmsPipeline", SD, components={"scheduler": DDPMParallelScheduler()}),
    Case(
        "StableDiffusionPix2PixZeroPipeline",
        SD,
        arguments={"source_embeds": noise(9, 2, TOKENS, WIDTH), "target_embeds": noise(10, 2, TOKENS, WIDTH)},
        one_prompt="its loss is a mean over the prompts",
    ),
    Case("StableDiffusionXLControlNetUnionPipeline", UNION, arguments=CONTROL_MODE),
    Case("StableDiffusionXLControlNetUnionImg2ImgPipeline", UNION, arguments=CONTROL_MODE),
    Case("StableDiffusionXLControlNetUnionInpaintPipeline", UNION, arguments=CONTROL_MODE),
    Case("StableDiffusionXLInstructPix2PixPipeline", XL, components={"unet": unet(8, xl=True)}),
    Case(
        "TextToVideoZeroSDXLPipeline",
        XL,
        arguments={"video_length": 2, "t0": 0, "t1": 1, "num_inference_steps": 4},
        one_prompt="it repeats one prompt's latents for the frames",
    ),
    Case(
        "StableDiffusionLatentUpscalePipeline",
        Family(
            latent_upscale_components,
            lambda count: {**xl_arguments(count), "latents": LARGE},
            xl_hand_made,
            TOKENS,
            WIDTH,
            POOLED,
        ),
    ),
]
