"""Published architectures with random weights: what costs and memory are measured on where no weights are at hand."""

from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import CLIPTokenizer

from reneg.models.base import LatentModel
from reneg.models.sd import StableDiffusion
from reneg.models.sdxl import StableDiffusionXL
from reneg.planning.skeletons import build, read_model, read_reward
from reneg.rewards.clip import ClipReward
from reneg.rewards.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocess
from reneg.world import WEIGHTS

SEED = 0


def random_model(
    name: str, *, resolution: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> LatentModel:
    """`sd1.5` or `sdxl` with random weights, the same at every call; its tokenizer is the bundled world's.

    SDXL comes without its text encoders, whose weights alone would fill a small machine: give it encodings.

    Within FakeTensorMode(allow_non_fake_inputs=True) the weights have shapes and no numbers, and so has all that is
    computed from them afterwards, outside the mode: the bytes of any size are told without memory or time. The
    schedule keeps its numbers, which the method reads.

    Args:
        resolution: height and width of its pictures in pixels.
    """
    configs = read_model(name)
    scheduler: Any = DDIMScheduler(steps_offset=1, clip_sample=False)  # diffusers annotates another type
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(SEED)
        unet, vae = build(configs["unet"] | {"sample_size": resolution // 8}, dtype), build(configs["vae"], dtype)
        encoder = None if name == "sdxl" else build(configs["text_encoder"], dtype)
    if encoder is None:
        nothing: dict[str, Any] = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
        pipe = StableDiffusionXLPipeline(unet=unet, vae=vae, scheduler=scheduler, **nothing, add_watermarker=False)
        with unset_fake_temporarily():
            return StableDiffusionXL(pipe, name="sdxl with random weights")
    tokenizer = CLIPTokenizer.from_pretrained(
        WEIGHTS / "generator" / "tokenizer", model_max_length=encoder.config.max_position_embeddings
    )
    no_checker: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
    pipe = StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        requires_safety_checker=False,
        **no_checker,
    )
    with unset_fake_temporarily():
        return StableDiffusion(pipe, name=f"{name} with random weights")


def random_reward(name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> ClipReward:
    """A CLIP model with random weights, the architecture of a reward such as `hpsv2.1`."""
    config = read_reward(name, "--reward")
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(SEED)
        model = build(config, dtype)
    preprocess = ImagePreprocess(config["vision_config"]["image_size"], CLIP_MEAN, CLIP_STD)
    tokenizer = CLIPTokenizer.from_pretrained(
        WEIGHTS / "generator" / "tokenizer", model_max_length=config["text_config"].get("max_position_embeddings", 77)
    )
    return ClipReward(model, tokenizer, preprocess, name=f"random {name}")
