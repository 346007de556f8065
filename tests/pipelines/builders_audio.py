"""Sounds: Stable Audio and AudioLDM 2; and videos with sound: LTX-2, Kandinsky 6."""

# diffusers' and transformers' annotations contradict their code.
# pyright: reportArgumentType=false

import string
from functools import partial
from typing import Any

import torch
from diffusers import (
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderKL,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderOobleck,
    AutoencoderSAME,
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky6Transformer3DModel,
    LTX2VideoTransformer3DModel,
    StableAudio3DiTModel,
    StableAudioDiTModel,
    StableAudioProjectionModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder
from pipelines.builders_video_more import BLOCKS, PICTURES
from pipelines.families import POOLED, TOKENS, WIDTH, call_arguments, flow, hand_made
from pipelines.harness import Case, Family, Pool, noise, repeated
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapModel,
    ClapTextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from reneg.negative import NegativeEmbedding


@torch.no_grad()  # else its normed weights cannot be copied
def stable_audio_components() -> Pool:
    transformer = StableAudioDiTModel(
        sample_size=4,
        in_channels=3,
        out_channels=3,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        cross_attention_dim=WIDTH,
        cross_attention_input_dim=WIDTH,
        global_states_input_dim=2 * WIDTH,
        time_proj_dim=8,
    )
    vae = AutoencoderOobleck(
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        channel_multiples=[2, 4],
        decoder_channels=3,
        decoder_input_channels=3,
        sampling_rate=4,
    )
    projection = StableAudioProjectionModel(text_encoder_dim=WIDTH, conditioning_dim=WIDTH, min_value=0, max_value=32)
    scheduler = EDMDPMSolverMultistepScheduler(solver_order=2, prediction_type="v_prediction", sigma_data=1.0)
    return {"transformer": transformer, "vae": vae, "projection_model": projection, "scheduler": scheduler}


@torch.no_grad()
def stable_audio_3_components() -> Pool:
    transformer = StableAudio3DiTModel(
        io_channels=4,
        embed_dim=32,
        depth=1,
        num_heads=2,
        cond_token_dim=WIDTH,
        global_cond_dim=WIDTH,
        local_add_cond_dim=5,
        timestep_features_dim=8,
        num_memory_tokens=2,
    )
    vae = AutoencoderSAME(
        patch_size=4,
        encoder_channels=8,
        encoder_c_mults=[2],
        encoder_strides=[2],
        encoder_transformer_depths=[1],
        latent_dim=4,
        dim_heads=8,
        sampling_rate=16,
    )
    embedder = StableAudio3DurationEmbedder(output_dim=WIDTH, fourier_dim=8)
    return {"transformer": transformer, "vae": vae, "duration_embedder": embedder, "scheduler": flow()}


def letters(tokenizer_class: Any, **more) -> Any:
    """The class asks which tokenizer it is given; every letter is a token."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = [*special, *string.ascii_lowercase, "▁", "Ġ"]
    if tokenizer_class is T5Tokenizer:
        return T5Tokenizer(vocab=[(token, -1.0) for token in tokens], extra_ids=0, **more)
    return tokenizer_class(vocab={token: number for number, token in enumerate(tokens)}, merges=[], **more)


def audioldm_components() -> Pool:
    size = {"vocab_size": 64}
    unet = AudioLDM2UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=([None, 8, WIDTH], [None, 8, WIDTH]),
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    text = ClapTextConfig(
        hidden_size=8, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1, projection_dim=8, **size
    )
    audio = ClapAudioConfig(
        spec_size=64,
        num_mel_bins=64,
        window_size=4,
        depths=[1, 1],
        num_attention_heads=[2, 2],
        num_hidden_layers=2,
        hidden_size=16,
        patch_embeds_hidden_size=8,
        projection_dim=8,
        patch_size=4,
        patch_stride=4,
    )
    clap = ClapModel(ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8))
    t5 = T5Config(d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2, **size)
    vocoder = SpeechT5HifiGanConfig(
        model_in_dim=8,
        upsample_initial_channel=8,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3, 5]],
        normalize_before=False,
    )
    language = GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, n_positions=64, **size))
    language.config.max_new_tokens = GENERATED
    return {
        "unet": unet,
        "vae": vae,
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
        "text_encoder": clap,
        "tokenizer": letters(RobertaTokenizer, model_max_length=16),
        "text_encoder_2": T5EncoderModel(t5),
        "tokenizer_2": letters(T5Tokenizer, model_max_length=16),
        "projection_model": AudioLDM2ProjectionModel(
            text_encoder_dim=8, text_encoder_1_dim=WIDTH, langauge_model_dim=8
        ),
        "language_model": language,
        "vocoder": SpeechT5HifiGan(vocoder),
    }


def ltx2_components() -> Pool:
    transformer = LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=1,
        caption_channels=LTX_WIDTH,
        rope_type="split",
    )
    connectors = LTX2TextConnectors(
        caption_channels=LTX_WIDTH,
        text_proj_in_factor=WIDTH // LTX_WIDTH,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=4,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=4,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_type="split",
    )
    vae = AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=1,
    )
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
    )
    return {
        "transformer": transformer,
        "connectors": connectors,
        "vae": vae,
        "audio_vae": audio_vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }


def kandinsky_components() -> Pool:
    transformer = Kandinsky6Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=WIDTH,
        in_text_dim2=POOLED,
        time_dim=8,
        model_dim=12,
        ff_dim=16,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 4, 4),
        in_audio_dim=4,
        out_audio_dim=4,
    )
    return {"transformer": transformer, "vae": AutoencoderKLHunyuanVideo(**BLOCKS), "scheduler": flow()}


def audio_arguments(count: int, *, mask: str, latents: tuple[int, ...], **more) -> Pool:
    pool = call_arguments(count, latents=latents, mask=mask, **more)
    del pool["image"]
    return pool


def audioldm_arguments(count: int) -> Pool:
    pool = audio_arguments(count, mask="attention_mask", latents=(4, 8, 4))
    return pool | {"generated_prompt_embeds": noise(12, count, GENERATED, 8)}


def generated(pipe: Any, count: int) -> Pool:
    """What the language model makes of the two encodings of ""."""
    embeds = pipe.encode_prompt([""], torch.device("cpu"), 1, False)[2]
    return {"negative_generated_prompt_embeds": repeated(embeds, count)}


def left_padded(file: NegativeEmbedding, count: int) -> Pool:
    """Gemma's tokenizer pads on the left, and the connectors look for the tokens there."""
    pool = hand_made(file, count, mask="negative_prompt_attention_mask")
    for name in ("negative_prompt_embeds", "negative_prompt_attention_mask"):
        filler = torch.zeros(count, LTX_TOKENS - TOKENS, *pool[name].shape[2:], dtype=pool[name].dtype)
        pool[name] = torch.cat([filler, pool[name]], dim=1)
    return pool


def audio_family(components, mask: str, latents: tuple[int, ...], **more) -> Family:
    arguments = partial(audio_arguments, mask=mask, latents=latents, **more)
    by_hand = partial(hand_made, mask=f"negative_{mask}")
    return Family(components, arguments, by_hand, TOKENS, WIDTH, masked=True, per_image=False)


GENERATED = 2
"""Tokens that AudioLDM 2's language model makes."""
LTX_WIDTH, LTX_TOKENS = 8, 1024
SIZE = {"height": 32, "width": 32, "num_frames": 5}
LTX2 = Family(
    ltx2_components,
    partial(
        call_arguments,
        tokens=LTX_TOKENS,
        mask="prompt_attention_mask",
        latents=(4, 3, 16, 16),
        image=PICTURES,
        stg_scale=0.0,
        audio_stg_scale=0.0,
        modality_scale=1.0,
        audio_modality_scale=1.0,
        spatio_temporal_guidance_blocks=None,
        **SIZE,
    ),
    left_padded,
    TOKENS,
    WIDTH,
    masked=True,
)
AUDIOLDM = Family(
    audioldm_components,
    audioldm_arguments,
    partial(hand_made, mask="negative_attention_mask"),
    TOKENS,
    WIDTH,
    masked=True,
    per_image=False,
    filled=generated,
)
KANDINSKY = Family(
    kandinsky_components,
    partial(call_arguments, latents=(4, 2, 4, 4), pooled=True, image=None, sample_audio=False, **SIZE),
    partial(hand_made, pooled=True),
    TOKENS,
    WIDTH,
    POOLED,
    per_image=False,
)

CASES = [
    Case("StableAudioPipeline", audio_family(stable_audio_components, "attention_mask", (3, 4))),
    Case(
        "StableAudio3Pipeline", audio_family(stable_audio_3_components, "encoder_attention_mask", (4, 4), duration=2)
    ),
    Case("AudioLDM2Pipeline", AUDIOLDM),
    Case("LTX2Pipeline", LTX2),
    *(Case(f"LTX2{kind}Pipeline", LTX2, slow=True) for kind in ("Condition", "ImageToVideo", "InContext", "HDR")),
    Case("Kandinsky6TI2VAPipeline", KANDINSKY),
]
