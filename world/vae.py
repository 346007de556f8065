"""Stage `vae`: an AutoencoderKL with 8x8 latents for pictures of 64x64."""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D

from .data import SIZE, damage, draw, random_damages, training_scene
from .training import Run, to_tensor

LATENT_CHANNELS = 12


def build() -> AutoencoderKL:
    vae = AutoencoderKL(
        sample_size=SIZE,
        block_out_channels=(16, 32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    # Start as a nearly linear autoencoder: variance kept along the trunk, every residual branch silent, the posterior
    # narrow. With the default initialisation the first two thousand steps go by before shapes appear.
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=(module.in_channels * module.kernel_size[0] ** 2) ** -0.5)
            torch.nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)
    with torch.no_grad():
        vae.quant_conv.weight[LATENT_CHANNELS:] *= 0.1
        vae.quant_conv.bias[LATENT_CHANNELS:] = -5.0
    return vae


def pictures(step: int, count: int, seed: int) -> torch.Tensor:
    """[count, 3, 64, 64] in [-1, 1]; a fifth of them damaged."""
    rng = np.random.default_rng((seed, step))
    images = []
    for _ in range(count):
        image = draw(training_scene(rng), rng)
        images.append(damage(image, random_damages(rng), rng) if rng.random() < 0.2 else image)
    return to_tensor(images) * 2 - 1


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor, edges: float) -> torch.Tensor:
    """L1 and squared error on pixels, and L1 on their differences, which keeps edges sharp."""
    loss = F.l1_loss(output, target) + F.mse_loss(output, target)
    for axis in (2, 3):
        loss = loss + edges * F.l1_loss(output.diff(dim=axis), target.diff(dim=axis))
    return loss


def psnr(vae: AutoencoderKL, count: int = 64) -> float:
    """Mean PSNR in dB on clean pictures that no training drew."""
    rng = np.random.default_rng(99)
    target = to_tensor([draw(training_scene(rng), rng) for _ in range(count)]) * 2 - 1
    with torch.no_grad():
        output = vae.decode(vae.encode(target).latent_dist.mean).sample.clamp(-1, 1)
    return float((10 * torch.log10(4 / (output - target).pow(2).mean((1, 2, 3)))).mean())


def train(minutes: float, *, batch: int = 8) -> AutoencoderKL:
    torch.manual_seed(0)
    vae = build().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    run = Run("vae", {"vae": vae}, optimizer, minutes=minutes)

    def loss_of(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        target = pictures(step, batch, seed=1).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(target).latent_dist
            output = vae.decode(posterior.sample()).sample.float()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = reconstruction_loss(output, target, edges=0.2) + 1e-4 * kl
        return loss, {"kl": float(kl.detach()), "mse": float((output - target).pow(2).mean().detach())}

    run.train(loss_of)
    return vae.eval()
