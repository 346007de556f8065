"""Stages `latents` and `generator`: the text encoder and the denoiser, trained together on latents.

The text encoder is trained with the denoiser, as in the first latent diffusion models (Rombach et al. 2022, §4.3.1),
and frozen ever after. The loss is Eq. 4 of the paper weighted by min-SNR (Hang et al. 2023, gamma 5).
"""

import json
import os
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .data import WORK, training_item
from .tokenizer import END, MAX_TOKENS, START
from .training import Run, rank, to_tensor
from .vae import LATENT_CHANNELS

BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PICTURES = 40_000
GAMMA = 5.0
SNAPSHOTS = (0.06, 0.31)
"""Shares of the training after which a snapshot is kept: their failures teach the rewards."""
EMPTY_SHARE = 0.1
"""Share of captions replaced by "", which makes the null text the unconditional branch."""


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.convert_tokens_to_ids(START),
            eos_token_id=tokenizer.convert_tokens_to_ids(END),
            pad_token_id=tokenizer.convert_tokens_to_ids(END),
        )
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(128, 192),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,  # the number of heads: diffusers keeps the old name
        norm_num_groups=16,
    )


def make_latents(vae: AutoencoderKL, tokenizer: CLIPTokenizer, count: int = PICTURES) -> None:
    """Encode the training set once: posterior means [n, c, 8, 8] and deviations in fp16, token ids [n, 32]."""
    rng = np.random.default_rng(11)
    means, deviations, captions = [], [], []
    for start in range(0, count, 100):
        items = [training_item(rng) for _ in range(min(100, count - start))]
        captions += [caption for _, caption, _ in items]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(to_tensor([i for i, _, _ in items]) * 2 - 1).latent_dist
        means.append(posterior.mean.half())
        deviations.append(posterior.std.half())
    mean = torch.cat(means)
    data = {
        "mean": mean,
        "deviation": torch.cat(deviations),
        "scaling_factor": 1 / mean.float().std(),
        "ids": tokenize(tokenizer, captions),
        "empty": tokenize(tokenizer, [""]),
    }
    torch.save(data, WORK / "latents.tmp")
    os.replace(WORK / "latents.tmp", WORK / "latents.pt")
    (WORK / "captions.json").write_text(json.dumps(captions))


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """[n] texts -> [n, 32] token ids."""
    options = {"padding": "max_length", "max_length": MAX_TOKENS, "truncation": True, "return_tensors": "pt"}
    return tokenizer(captions, **options).input_ids


class Generator(torch.nn.Module):
    """Token ids, noisy latents and timesteps -> predicted noise."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.text_encoder, self.unet = build_text_encoder(tokenizer), build_unet()

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.unet(latents, timesteps, self.text_encoder(ids).last_hidden_state).sample


def train(tokenizer: CLIPTokenizer, minutes: float, *, batch: int = 32, learning_rate: float = 1e-3) -> Generator:
    """Train for a budget of minutes and return the moving average of the weights.

    Args:
        batch: of each process; the shipped weights were trained by two, started by `torchrun`.
    """
    torch.manual_seed(3)
    data = torch.load(WORK / "latents.pt", weights_only=True)
    model = Generator(tokenizer).to(memory_format=torch.channels_last)
    model.unet.set_attn_processor(AttnProcessor())  # faster than the fused kernel at 64 positions on a CPU
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=1e-3, betas=(0.9, 0.99), fused=True
    )
    run = Run("generator", {"model": model, "average": average}, optimizer, minutes)
    alphas = DDPMScheduler(**BETAS).alphas_cumprod
    weight = (GAMMA * (1 - alphas) / alphas).clamp(max=1.0)  # min(SNR, gamma) / SNR for the epsilon loss

    def loss_of(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        noise_of = torch.Generator().manual_seed(1_000_003 * (5 + rank()) + step)
        rows = torch.randint(0, len(data["ids"]), (batch,), generator=noise_of)
        mean, deviation = data["mean"][rows].float(), data["deviation"][rows].float()
        latents = (mean + deviation * torch.randn(mean.shape, generator=noise_of)) * data["scaling_factor"]
        ids = torch.where(torch.rand(batch, 1, generator=noise_of) < EMPTY_SHARE, data["empty"], data["ids"][rows])
        noise = torch.randn(latents.shape, generator=noise_of)
        timesteps = torch.randint(0, 1000, (batch,), generator=noise_of)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(noisy, timesteps, ids)
        error = (predicted.float() - noise).pow(2).mean((1, 2, 3))
        return (error * weight[timesteps]).mean(), {"error": float(error.mean().detach())}

    def after() -> None:
        average.update_parameters(model)
        for number, share in enumerate(SNAPSHOTS):
            snapshot = run.folder / f"snapshot-{number}.pt"
            if run.seconds > share * run.budget and not snapshot.exists() and not rank():
                torch.save(model.state_dict(), snapshot)  # the average still remembers the start

    run.train(loss_of, after=after)
    return average.module


def pipeline(
    generator: Generator, tokenizer: CLIPTokenizer, vae: AutoencoderKL, scaling: float
) -> StableDiffusionPipeline:
    """diffusers' own pipeline around the trained parts."""
    vae.register_to_config(scaling_factor=float(scaling))
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=generator.text_encoder,
        tokenizer=tokenizer,
        unet=generator.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """fp16 safetensors in diffusers' layout."""
    pipe.to(torch.float16)
    pipe.save_pretrained(folder, safe_serialization=True)
    pipe.to(torch.float32)
