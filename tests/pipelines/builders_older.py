"""DeepFloyd IF, Kandinsky 3, Wuerstchen, Stable Cascade, aMUSEd, Kolors, HunyuanDiT and Latte."""

# diffusers' annotations contradict its code.
# pyright: reportArgumentType=false

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers import (
    AmusedScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    HunyuanDiT2DControlNetModel,
    HunyuanDiT2DModel,
    Kandinsky3UNet,
    LatteTransformer3DModel,
    UNet2DConditionModel,
    UVit2DModel,
    VQModel,
)
from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenDiffNeXt, WuerstchenPrior
from pipelines.builders_sd import (
    POOLED,
    SIDE,
    TOKENS,
    WIDTH,
    XL,
    arguments,
    hand_made,
    picture,
    unet_settings,
    vae,
)
from pipelines.harness import Case, Family, Pool, noise, repeated
from tiny import MAX_TOKENS, tiny_text_encoder, tiny_tokenizer
from transformers import BertConfig, BertModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from reneg.negative import NegativeEmbedding


def floyd_components(in_channels: int = 3, classes: int | None = None) -> Pool:
    unet = UNet2DConditionModel(
        in_channels=in_channels,
        out_channels=6,
        num_class_embeds=classes,
        **{**unet_settings(False), "sample_size": SIDE},
    )
    return {
        "unet": unet,
        "scheduler": DDPMScheduler(variance_type="learned_range"),
        "image_noising_scheduler": DDPMScheduler(),
        "requires_safety_checker": False,
    }


def kandinsky_components() -> Pool:
    unet = Kandinsky3UNet(
        time_embedding_dim=8,
        groups=2,
        attention_head_dim=4,
        layers_per_block=2,
        block_out_channels=(8, 16),
        cross_attention_dim=8,
        encoder_hid_dim=WIDTH,
    )
    movq = VQModel(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        vq_embed_dim=4,
        norm_num_groups=4,
    )
    return {"unet": unet, "movq": movq, "scheduler": DDPMScheduler(beta_end=0.005)}


def tiny_text() -> Pool:
    tokenizer = tiny_tokenizer()
    return {"text_encoder": tiny_text_encoder(), "tokenizer": tokenizer, "prior_tokenizer": tokenizer}


def wuerstchen_components() -> Pool:
    prior = WuerstchenPrior(c_in=2, c=8, c_cond=WIDTH, c_r=8, depth=2, nhead=2)
    decoder = WuerstchenDiffNeXt(
        c_cond=WIDTH,
        c_hidden=[8, 16],
        nhead=[-1, 2],
        blocks=[1, 1],
        level_config=["CT", "CTA"],
        inject_effnet=[False, True],
        effnet_embd=2,
        clip_embd=WIDTH,
    )
    with torch.no_grad():  # else it hardly reads what the prior gives it
        for mapper in decoder.effnet_mappers:
            if isinstance(mapper, torch.nn.Conv2d):
                mapper.weight.mul_(1000)
    return {
        "prior": prior,
        "prior_prior": prior,
        "decoder": decoder,
        "vqgan": PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2),
        "scheduler": DDPMWuerstchenScheduler(),
        "prior_scheduler": DDPMWuerstchenScheduler(),
        "prior_text_encoder": tiny_text_encoder(),
        **tiny_text(),
    }


def cascade_components() -> Pool:
    shared = {"conditioning_dim": 8, "clip_text_pooled_in_channels": POOLED, "clip_seq": 1, "dropout": (0.0, 0.0)}
    prior = StableCascadeUNet(
        block_out_channels=(8, 8),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        switch_level=(False,),
        clip_text_in_channels=WIDTH,
        clip_image_in_channels=8,
        **shared,
    )
    decoder = StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        patch_size=2,
        block_out_channels=(8, 16),
        num_attention_heads=(-1, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock"),) * 2,
        effnet_in_channels=16,
        timestep_conditioning_type=("sca",),
        **shared,
    )
    pool = {**wuerstchen_components(), "prior": prior, "prior_prior": prior, "decoder": decoder}
    config = tiny_text_encoder().config
    config.projection_dim = POOLED
    encoder = CLIPTextModelWithProjection(config)
    return {**pool, "text_encoder": encoder, "prior_text_encoder": encoder}


def amused_components() -> Pool:
    transformer = UVit2DModel(
        hidden_size=16,
        cond_embed_dim=POOLED,
        micro_cond_encode_dim=2,
        micro_cond_embed_dim=10,
        encoder_hidden_size=WIDTH,
        vocab_size=32,
        codebook_size=24,
        in_channels=16,
        block_out_channels=16,
        num_res_blocks=1,
        block_num_heads=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        sample_size=SIDE // 2,
    )
    vqvae = VQModel(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        num_vq_embeddings=24,
        norm_num_groups=4,
        lookup_from_codebook=True,
    )
    return {"transformer": transformer, "vqvae": vqvae, "scheduler": AmusedScheduler(mask_token_id=31)}


def hunyuan_components() -> Pool:
    settings = {
        "sample_size": SIDE // 2,
        "patch_size": 2,
        "in_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "hidden_size": 16,
        "cross_attention_dim": WIDTH,
        "cross_attention_dim_t5": WIDTH,
        "pooled_projection_dim": 8,
        "text_len": BERT_TOKENS,
        "text_len_t5": T5_TOKENS,
    }
    tokenizer = tiny_tokenizer()
    size = {"vocab_size": len(tokenizer)}
    bert = BertConfig(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, **size)
    t5 = T5Config(d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2, **size)
    return {
        "transformer": HunyuanDiT2DModel(num_layers=2, **settings),
        "controlnet": HunyuanDiT2DControlNetModel(transformer_num_layers=2, **settings),
        "vae": vae(),
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
        "text_encoder": BertModel(bert),
        "tokenizer": tokenizer,
        "text_encoder_2": T5EncoderModel(t5),
        "tokenizer_2": tokenizer,
        "requires_safety_checker": False,
    }


def latte_components() -> Pool:
    transformer = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=16,
        sample_size=SIDE // 2,
        patch_size=2,
        norm_type="ada_norm_single",
        num_embeds_ada_norm=1000,
        caption_channels=WIDTH,
        video_length=1,
        attention_bias=True,
        norm_elementwise_affine=False,
    )
    return {"transformer": transformer, "vae": vae(), "scheduler": DDIMScheduler(clip_sample=False)}


BERT_TOKENS, T5_TOKENS = 77, 256
ALL_READ = torch.ones(3, TOKENS, dtype=torch.long)
LAST_OUT = ALL_READ * torch.tensor([1] * (TOKENS - 1) + [0])


def cascade_arguments(count: int) -> Pool:
    more = {"height": 128, "width": 128, "latents": None, "prior_num_inference_steps": 2, "prior_guidance_scale": 3.0}
    more["prompt_embeds"] = noise(5, count, MAX_TOKENS, WIDTH)
    return {**arguments(count), **more, "prompt_embeds_pooled": noise(8, count, 1, POOLED)}


def cascade_hand_made(file: NegativeEmbedding, count: int) -> Pool:
    pooled = repeated(file.negative_pooled_prompt_embeds, count)
    return {**hand_made(file, count), "negative_prompt_embeds_pooled": pooled.reshape(count, 1, POOLED)}


def amused_arguments(count: int) -> Pool:
    shared = {**arguments(count), "latents": None, "generator": None}
    return {
        **shared,
        "prompt_embeds": noise(8, count, POOLED),
        "encoder_hidden_states": noise(5, count, TOKENS, WIDTH),
    }


def amused_hand_made(file: NegativeEmbedding, count: int) -> Pool:
    return {
        "negative_encoder_hidden_states": repeated(file.negative_prompt_embeds, count),
        "negative_prompt_embeds": repeated(file.negative_pooled_prompt_embeds, count),
    }


def masked_hand_made(file: NegativeEmbedding, count: int) -> Pool:
    return {**hand_made(file, count), "negative_attention_mask": LAST_OUT[:count]}


def no_text_hand_made(file: NegativeEmbedding, count: int) -> Pool:
    return {**hand_made(file, count), "negative_prompt": None}


def hunyuan_arguments(count: int) -> Pool:
    pool = {
        **arguments(count),
        "prompt_embeds": noise(5, count, BERT_TOKENS, WIDTH),
        "prompt_embeds_2": noise(11, count, T5_TOKENS, WIDTH),
        "use_resolution_binning": False,
    }
    for name, tokens in (("prompt_attention_mask", BERT_TOKENS), ("prompt_attention_mask_2", T5_TOKENS)):
        pool[name] = torch.ones(count, tokens, dtype=torch.long)
    return pool


def hunyuan_hand_made(file: NegativeEmbedding, count: int) -> Pool:
    mask = torch.tensor([[1] * (BERT_TOKENS - 1) + [0]] * count)
    return {**hand_made(file, count), "negative_prompt_attention_mask": mask}


def hunyuan_filled(pipe: Any, count: int) -> Pool:
    """What the T5 encoder makes of "", for each prompt."""
    returned = pipe.encode_prompt("", torch.device("cpu"), text_encoder_index=1, do_classifier_free_guidance=False)
    return {
        "negative_prompt_embeds_2": repeated(returned[0], count),
        "negative_prompt_attention_mask_2": repeated(returned[2], count),
    }


def family(components) -> Family:
    return Family(components, arguments, hand_made, TOKENS, WIDTH, per_image=False)


FLOYD = family(floyd_components)
FLOYD_LARGE = family(partial(floyd_components, 6, 1000))
CASCADE = Family(cascade_components, cascade_arguments, cascade_hand_made, MAX_TOKENS, WIDTH, POOLED, per_image=False)
WUERSTCHEN = Family(wuerstchen_components, cascade_arguments, hand_made, MAX_TOKENS, WIDTH, per_image=False)
AMUSED = Family(amused_components, amused_arguments, amused_hand_made, TOKENS, WIDTH, POOLED, per_image=False)
KANDINSKY = Family(
    kandinsky_components,
    lambda count: {**arguments(count), "attention_mask": ALL_READ[:count], "height": 64, "width": 64},
    masked_hand_made,
    TOKENS,
    WIDTH,
    masked=True,
    per_image=False,
)
HUNYUAN = Family(
    hunyuan_components,
    hunyuan_arguments,
    hunyuan_hand_made,
    BERT_TOKENS,
    WIDTH,
    masked=True,
    filled=hunyuan_filled,
)
ONE_STREAM = "it draws the tokens of all prompts from one generator"
NO_CLEANING = {"output_type": "pt", "clean_caption": False, "original_image": picture(3)}

CASES = [
    *(Case(f"IF{kind}Pipeline", FLOYD, arguments=NO_CLEANING) for kind in ("", "Img2Img", "Inpainting")),
    *(
        Case(f"IF{kind}SuperResolutionPipeline", FLOYD_LARGE, arguments=NO_CLEANING)
        for kind in ("", "Img2Img", "Inpainting")
    ),
    Case("Kandinsky3Pipeline", KANDINSKY),
    Case("Kandinsky3Img2ImgPipeline", KANDINSKY, arguments={"image": picture(3)}),
    Case("WuerstchenPriorPipeline", WUERSTCHEN, arguments={"output_type": "pt"}, runs_without_guidance=False),
    Case("WuerstchenCombinedPipeline", WUERSTCHEN, runs_without_guidance=False),
    Case("StableCascadePriorPipeline", CASCADE, arguments={"output_type": "pt"}, runs_without_guidance=False),
    Case("StableCascadeCombinedPipeline", CASCADE, runs_without_guidance=False),
    *(Case(f"Amused{kind}Pipeline", AMUSED, one_prompt=ONE_STREAM) for kind in ("", "Img2Img", "Inpaint")),
    *(
        Case(f"HunyuanDiT{kind}Pipeline", HUNYUAN, runs_without_guidance=kind != "PAG")
        for kind in ("", "ControlNet", "PAG")
    ),
    *(Case(f"Kolors{kind}Pipeline", replace(XL, per_image=True)) for kind in ("", "PAG")),
    Case(
        "LattePipeline",
        Family(latte_components, arguments, no_text_hand_made, TOKENS, WIDTH, per_image=False),
        arguments={"latents": noise(6, 3, 4, 1, SIDE // 2, SIDE // 2), "video_length": 1, "clean_caption": False},
    ),
]
