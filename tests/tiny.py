"""Real Stable Diffusion and CLIP classes with random weights, small enough for a test and built without a file."""

# diffusers' and transformers' annotations contradict their code.
# pyright: reportArgumentType=false

import string
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from reneg.interfaces import Conditioning
from reneg.models.base import LatentModel
from reneg.models.sd import StableDiffusion
from reneg.rewards.clip import ClipReward
from reneg.rewards.preprocess import ImagePreprocess

MAX_TOKENS, WIDTH, SIDE = 16, 16, 16
"""Context length, width of the text encoding, and height and width of the pictures in pixels."""
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def tiny_tokenizer() -> CLIPTokenizer:
    """Every letter is a token, alone and at a word's end."""
    letters = string.ascii_lowercase + string.digits + ",.*-'"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=MAX_TOKENS, pad_token="<|endoftext|>")


def tiny_bert_tokenizer(*, blip: bool = True) -> BertTokenizer:
    """Every letter is a token, at a word's beginning and within; with BLIP's two tokens, or without as BERT's own."""
    letters = string.ascii_lowercase + string.digits + ",.*-'[]"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertTokenizer(vocab={token: number for number, token in enumerate(tokens)})
    if blip:
        tokenizer.add_tokens(["[DEC]", "[ENC]"], special_tokens=True)
    return tokenizer


def tiny_pipeline(dtype: torch.dtype = torch.float32, *, prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    """A StableDiffusionPipeline of 16x16 pictures in float32 or float64, the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=SIDE // 2,
            in_channels=4,
            out_channels=4,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=SIDE,
        )
        text_encoder = CLIPTextModel(_text_config())
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tiny_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    if dtype == torch.float64:
        for module in (pipe.unet, pipe.vae, pipe.text_encoder):
            module.double()  # the pipeline's own `to` warns about mixed precision
    return pipe


def tiny_model(dtype: torch.dtype = torch.float32, *, scheduler: str = "ddim") -> StableDiffusion:
    """The pipeline behind reneg's protocol."""
    return StableDiffusion(tiny_pipeline(dtype), name="tiny", scheduler=scheduler)


def tiny_clip_reward(dtype: torch.dtype = torch.float32, *, seed: int = 1, size: int = 8) -> ClipReward:
    """A CLIPModel as a reward; other seeds are other rewards."""
    model = tiny_clip(seed, size).to(dtype)
    return ClipReward(model, tiny_tokenizer(), ImagePreprocess(size, MEAN, STD), name=f"tiny clip {seed}")


def tiny_clip(seed: int, size: int) -> CLIPModel:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": size,
        "patch_size": 4,
    }
    config = CLIPConfig(text_config=_text_config().to_dict(), vision_config=vision, projection_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIPModel(config)


def tiny_vision(projection_dim: int = 1) -> CLIPVisionModelWithProjection:
    """A CLIP vision tower of 8x8 pictures; with one output it is an aesthetic reward."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        projection_dim=projection_dim,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return CLIPVisionModelWithProjection(config)


def save_tiny_reward(folder: Path, *, seed: int = 1, size: int = 8) -> Path:
    """The same reward as a folder that `load_reward` takes."""
    tiny_clip(seed, size).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    CLIPImageProcessor(image_mean=MEAN, image_std=STD, size={"shortest_edge": size}).save_pretrained(folder)
    return folder


def tiny_text_encoder() -> CLIPTextModel:
    """Of `MAX_TOKENS` tokens of `WIDTH`, for a pipeline that a test puts together itself."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIPTextModel(_text_config())


def _text_config() -> CLIPTextConfig:
    vocabulary = len(tiny_tokenizer())
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )


def encoded_texts(model: LatentModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that a model encodes from here on."""
    texts: list[str] = []
    encode = model._encode

    def recorded(prompts: list[str], *, negative: bool) -> Conditioning:
        texts.extend(prompts)
        return encode(prompts, negative=negative)

    monkeypatch.setattr(model, "_encode", recorded)
    return texts
