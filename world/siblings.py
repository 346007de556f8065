"""Stages `siblings-latents`, `world-small` and `world-v`: two more denoisers behind the generator's text encoder.

They stand for the generators of Table 3 and Fig. 7 of the paper, which share a text encoder, so that a negative
embedding learned with one applies to all. Tokenizer, text encoder and autoencoder are the shipped ones, frozen; the
training pictures are drawn anew, with another seed.
"""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from . import export, generator
from .data import WORK
from .training import PACKAGE

BASE = PACKAGE / "generator"
LATENTS = "siblings-latents"
PICTURES = 20_000


@dataclass(frozen=True)
class Sibling:
    """How one of them is trained."""

    seed: int
    steps: int
    block_out_channels: tuple[int, int] = (128, 192)
    from_shipped: bool = False
    """Start from the shipped denoiser instead of random weights."""
    prediction_type: str = "epsilon"
    batch: int = 16
    learning_rate: float = 1e-3
    decay: float = 0.998
    """Of the moving average."""


SIBLINGS = {
    "world-small": Sibling(seed=701, steps=6000, block_out_channels=(64, 128)),
    # As Stable Diffusion 1.4 and 1.5 both went on from 1.2, and 2's v-prediction from its epsilon.
    "world-v": Sibling(seed=801, steps=2000, from_shipped=True, prediction_type="v_prediction", learning_rate=5e-4),
}


def make_latents() -> None:
    """Draw and encode the training pictures, unless it is done."""
    if not (WORK / f"{LATENTS}.pt").exists():
        WORK.mkdir(parents=True, exist_ok=True)
        vae, tokenizer = AutoencoderKL.from_pretrained(BASE / "vae"), CLIPTokenizer.from_pretrained(BASE / "tokenizer")
        generator.make_latents(vae, tokenizer, PICTURES, seed=71, name=LATENTS)


def train(name: str) -> None:
    """Train a sibling and ship it: in half precision, with its own scheduler's configuration."""
    sibling = SIBLINGS[name]
    data = torch.load(WORK / f"{LATENTS}.pt", weights_only=True)
    data["scaling_factor"] = AutoencoderKL.load_config(BASE / "vae")["scaling_factor"]
    torch.manual_seed(sibling.seed)
    unet = generator.build_unet(sibling.block_out_channels)
    if sibling.from_shipped:
        unet.load_state_dict(load_file(BASE / "unet" / "diffusion_pytorch_model.safetensors"))
    text_encoder = CLIPTextModel.from_pretrained(BASE / "text_encoder").requires_grad_(False).eval()
    trained = generator.train(
        name,
        generator.Generator(text_encoder, unet),
        data,
        steps=sibling.steps,
        seed=sibling.seed,
        prediction_type=sibling.prediction_type,
        batch=sibling.batch,
        learning_rate=sibling.learning_rate,
        decay=sibling.decay,
    )
    trained.unet.half().save_pretrained(PACKAGE / name / "unet")
    generator.build_scheduler(sibling.prediction_type).save_pretrained(PACKAGE / name / "scheduler")
    export.write_checksums(PACKAGE)
    export.copy_logs()
