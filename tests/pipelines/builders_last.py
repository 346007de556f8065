"""Further pictures: SD3's inpainting, PRX in pixels, Z-Image Omni, HiDream, Qwen-Image 2.1."""

# diffusers' and transformers' annotations contradict their code.
# pyright: reportArgumentType=false

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    HiDreamImageTransformer2DModel,
    PRXTransformer2DModel,
    QwenImage21Transformer2DModel,
    SD3ControlNetModel,
    ZImageTransformer2DModel,
)
from pipelines import builders_image as image
from pipelines.builders_image import LATENT, SQUARE
from pipelines.builders_sd import SIDE, picture
from pipelines.families import POOLED, TOKENS, WIDTH, call_arguments, flow, flow_vae, hand_made
from pipelines.harness import Case, Family, Layers, PerPrompt, Pool, noise, repeated
from tiny import tiny_text_encoder, tiny_tokenizer
from transformers import CLIPTextModelWithProjection, LlamaConfig, LlamaForCausalLM, T5Config, T5EncoderModel

from reneg.negative import NegativeEmbedding


def sd3_components() -> Pool:
    pool = image.sd3_components()
    settings = {**pool["controlnet"].config, "extra_conditioning_channels": 1}
    settings = {name: value for name, value in settings.items() if not name.startswith("_")}
    return {**pool, "controlnet": SD3ControlNetModel(**settings)}


def prx_components() -> Pool:
    transformer = PRXTransformer2DModel(
        in_channels=3,
        patch_size=2,
        context_in_dim=WIDTH,
        hidden_size=16,
        num_heads=2,
        depth=1,
        axes_dim=[4, 4],
        bottleneck_size=8,
        resolution_embeds=True,
    )
    return {"transformer": transformer, "scheduler": flow(), "default_sample_size": SIDE}


def omni_components() -> Pool:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        siglip_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return {"transformer": transformer, "vae": flow_vae(4), "scheduler": flow()}


def hidream_components() -> Pool:
    size = {"vocab_size": len(tiny_tokenizer())}
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[WIDTH, 16],
        text_emb_dim=2 * POOLED,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(LATENT, LATENT),
        llama_layers=[0, 1],
    )
    config = tiny_text_encoder().config
    config.projection_dim, config.max_position_embeddings = POOLED, 128
    t5 = T5Config(d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2, **size)
    llama = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, pad_token_id=None, **size
    )
    tokenizers = {f"tokenizer{which}": tiny_tokenizer() for which in ("", "_2", "_3", "_4")}
    return {
        "transformer": transformer,
        "vae": flow_vae(4),
        "scheduler": flow(),
        "text_encoder": CLIPTextModelWithProjection(config),
        "text_encoder_2": CLIPTextModelWithProjection(config),
        "text_encoder_3": T5EncoderModel(t5),
        "text_encoder_4": LlamaForCausalLM(llama),
        **tokenizers,
    }


def qwen_components() -> Pool:
    transformer = QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    vae = AutoencoderKLQwenImage21(
        base_dim=4, decoder_base_dim=4, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    return {"transformer": transformer, "vae": vae, "scheduler": flow(), "processor": Chat()}


class Chat:
    """In the place of Qwen3-VL's processor: asked, as the pipeline is built, how long its template is."""

    def __init__(self):
        self.tokenizer = tiny_tokenizer()

    def apply_chat_template(self, messages: list, *, tokenize: bool, return_dict: bool) -> list[list[int]]:
        return [[0]]


def hidream_arguments(count: int) -> Pool:
    pool = call_arguments(count, latents=image.GRID, **SQUARE)
    pool["prompt_embeds_t5"] = noise(5, count, T5_TOKENS, WIDTH)
    pool["prompt_embeds_llama3"] = Layers(noise(13, 2, count, T5_TOKENS, 16))
    return pool | {"pooled_prompt_embeds": noise(8, count, 2 * POOLED)}


def hidream_hand_made(file: NegativeEmbedding, count: int) -> Pool:
    return {
        "negative_prompt_embeds_t5": repeated(file.negative_prompt_embeds, count),
        "negative_pooled_prompt_embeds": repeated(file.negative_pooled_prompt_embeds, count),
    }


def hidream_filled(pipe: Any, count: int) -> Pool:
    """What Llama makes of "": its layers come first, the prompts second."""
    layers = pipe.encode_prompt("", do_classifier_free_guidance=False)[2]
    return {"negative_prompt_embeds_llama3": torch.cat([layers] * count, dim=1)}


T5_TOKENS = 16
EMBEDS_MASK = {"mask": "negative_prompt_embeds_mask"}
HIDREAM = Family(
    hidream_components,
    hidream_arguments,
    hidream_hand_made,
    T5_TOKENS,
    WIDTH,
    2 * POOLED,
    per_image=False,
    filled=hidream_filled,
)
QWEN = Family(
    qwen_components,
    partial(
        call_arguments,
        latents=(4, 4),
        mask="prompt_embeds_mask",
        scale="true_cfg_scale",
        image=None,
        height=32,
        width=32,
    ),
    partial(hand_made, **EMBEDS_MASK),
    TOKENS,
    WIDTH,
    masked=True,
    per_image=False,
)
PRX = Family(
    prx_components,
    partial(
        call_arguments,
        latents=(3, SIDE, SIDE),
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
)


def omni_arguments(count: int) -> Pool:
    """The embeddings of a prompt are a list of the parts between its pictures: here there is none, and one part."""
    pool = image.zimage_arguments(count)
    return pool | {"prompt_embeds": PerPrompt([part] for part in pool["prompt_embeds"]), "image": None}


def omni_hand_made(file: NegativeEmbedding, count: int) -> Pool:
    return {"negative_prompt_embeds": [[file.negative_prompt_embeds[0]]] * count}


OMNI = replace(image.zimage_family(omni_components), arguments=omni_arguments, hand_made=omni_hand_made)

CASES = [
    Case(
        "StableDiffusion3ControlNetInpaintingPipeline",
        replace(image.SD3, components=sd3_components),
        arguments={"control_image": picture(3), "control_mask": image.masked_out()},
    ),
    Case("PRXPixelPipeline", PRX, one_prompt="its timesteps are those of one"),
    Case("ZImageOmniPipeline", OMNI),
    Case("HiDreamImagePipeline", HIDREAM, attributes={"default_sample_size": LATENT}),
    Case("QwenImage21Pipeline", QWEN),
]
