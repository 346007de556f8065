"""Stages `latents` and `generator`: the text encoder and the denoiser, trained together on latents.

The text encoder is trained with the denoiser, as in the first latent diffusion models (Rombach et al. 2022, §4.3.1),
and frozen ever after. The loss is Eq. 4 of the paper weighted by min-SNR (Hang et al. 2023, gamma 5).
"""

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
from .training import BFLOAT16, Run, rank, to_tensor
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


def build_unet(block_out_channels: tuple[int, int] = (128, 192)) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=block_out_channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,  # the number of heads: diffusers keeps the old name
        norm_num_groups=16,
    )


def make_latents(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, count: int = PICTURES, *, seed: int = 11, name: str = "latents"
) -> None:
    """Encode the training set once: posterior means [n, c, 8, 8] and deviations in fp16, token ids [n, 32]."""
    rng = np.random.default_rng(seed)
    means, deviations, captions = [], [], []
    for start in range(0, count, 100):
        items = [training_item(rng) for _ in range(min(100, count - start))]
        captions += [caption for _, caption, _ in items]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
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
    torch.save(data, WORK / f"{name}.tmp")
    os.replace(WORK / f"{name}.tmp", WORK / f"{name}.pt")


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """[n] texts -> [n, 32] token ids."""
    options = {"padding": "max_length", "max_length": MAX_TOKENS, "truncation": True, "return_tensors": "pt"}
    return tokenizer(captions, **options).input_ids


class Generator(torch.nn.Module):
    """Token ids, noisy latents and timesteps -> what the denoiser predicts."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel):
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.unet(latents, timesteps, self.text_encoder(ids).last_hidden_state).sample


def build(tokenizer: CLIPTokenizer) -> Generator:
    """The world's generator before its training."""
    torch.manual_seed(3)
    return Generator(build_text_encoder(tokenizer), build_unet())


def train(
    name: str,
    model: Generator,
    data: dict[str, torch.Tensor],
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 5,
    prediction_type: str = "epsilon",
    batch: int = 32,
    learning_rate: float = 1e-3,
    decay: float = 0.999,
    snapshots: tuple[float, ...] = (),
) -> Generator:
    """Train what is not frozen for a budget of minutes or steps; returns the moving average of the weights.

    Args:
        data: of `make_latents`.
        seed: of the order of the pictures, and of their noises and timesteps.
        batch: of each process; the shipped generator was trained by two, started by `torchrun`.
        decay: of the moving average.
        snapshots: shares of the training after which the weights are kept.
    """
    model.to(memory_format=torch.channels_last)
    model.unet.set_attn_processor(AttnProcessor())  # faster than the fused kernel at 64 positions on a CPU
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=1e-3, betas=(0.9, 0.99), fused=True)
    run = Run(name, {"model": model, "average": average}, optimizer, minutes=minutes, steps=steps)
    alphas = DDPMScheduler(**BETAS).alphas_cumprod
    weight = loss_weight(alphas, prediction_type)

    def loss_of(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        noise_of = torch.Generator().manual_seed(1_000_003 * (seed + rank()) + step)
        rows = torch.randint(0, len(data["ids"]), (batch,), generator=noise_of)
        mean, deviation = data["mean"][rows].float(), data["deviation"][rows].float()
        latents = (mean + deviation * torch.randn(mean.shape, generator=noise_of)) * data["scaling_factor"]
        ids = torch.where(torch.rand(batch, 1, generator=noise_of) < EMPTY_SHARE, data["empty"], data["ids"][rows])
        noise = torch.randn(latents.shape, generator=noise_of)
        timesteps = torch.randint(0, 1000, (batch,), generator=noise_of)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).to(memory_format=torch.channels_last)
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents  # Salimans and Ho 2022, §4
        with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
            predicted = model(noisy, timesteps, ids)
        target = velocity if prediction_type == "v_prediction" else noise
        error = (predicted.float() - target).pow(2).mean((1, 2, 3))
        return (error * weight[timesteps]).mean(), {"error": float(error.mean().detach())}

    def after() -> None:
        average.update_parameters(model)
        for number, share in enumerate(snapshots):
            snapshot = run.folder / f"snapshot-{number}.pt"
            if run.progress > share and not snapshot.exists() and not rank():
                torch.save(model.state_dict(), snapshot)  # the average still remembers the start

    run.train(loss_of, after=after)
    return average.module


def loss_weight(alphas: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """min-SNR for each timestep: the same weight of the error in x0, min(SNR, gamma), whatever is predicted."""
    snr = alphas / (1 - alphas)
    return snr.clamp(max=GAMMA) / (snr + 1 if prediction_type == "v_prediction" else snr)


def build_scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        **BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type
    )


def pipeline(
    generator: Generator, tokenizer: CLIPTokenizer, vae: AutoencoderKL, scaling: float
) -> StableDiffusionPipeline:
    """diffusers' own pipeline around the trained parts."""
    vae.register_to_config(scaling_factor=float(scaling))
    scheduler = build_scheduler("epsilon")
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
