"""A model and rewards in closed form: they satisfy reneg's protocols, need no weights, and run in microseconds."""

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from reneg.interfaces import Conditioning, PredictionType

NUM_TRAIN_TIMESTEPS = 1000
TOKENS, WIDTH = 3, 4


class GaussianModel:
    """Pictures of a prompt are Gaussian, x_0 ~ N(m(c), spread^2), with a mean that is linear in the conditioning.

    The best denoiser is then known: the expected noise given x_t = alpha x_0 + sigma eps is
    `sigma (x_t - alpha m(c)) / (alpha^2 spread^2 + sigma^2)`, linear in the latents and in the conditioning.
    """

    name = "gaussian"
    family = "fake"
    scheduler_name = "ddim"
    prediction_type: PredictionType = "epsilon"
    device = torch.device("cpu")
    latent_shape = (3, 4, 4)
    max_tokens = 77
    spread = 0.3

    def __init__(self, dtype: torch.dtype = torch.float64):
        self.dtype = dtype
        generator = torch.Generator().manual_seed(0)
        size = math.prod(self.latent_shape)
        self.weight = torch.randn(size, TOKENS * WIDTH, generator=generator, dtype=torch.float64).to(dtype) / 4
        self.calls = 0
        """Denoiser evaluations so far, one a sample and branch."""

    def count_tokens(self, prompt: str) -> int:
        return len(prompt.split()) + 2

    def encode_prompt(self, prompts: Sequence[str]) -> Conditioning:
        seeds = [int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:7], "big") for prompt in prompts]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return Conditioning(torch.stack([torch.randn(TOKENS, WIDTH, generator=g) for g in generators]).to(self.dtype))

    def encode_negative_prompt(self, prompts: Sequence[str]) -> Conditioning:
        return self.encode_prompt(prompts)

    def null_conditioning(self) -> Conditioning:
        return self.encode_negative_prompt([""])

    def set_timesteps(self, num_inference_steps: int) -> Int[Tensor, " n"]:
        stride = NUM_TRAIN_TIMESTEPS // num_inference_steps
        self._stride = stride
        return torch.arange(num_inference_steps).flip(0) * stride + 1

    def initial_latents(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return noise

    def mean(self, conditioning: Conditioning) -> Float[Tensor, "b c h w"]:
        embeds = conditioning.prompt_embeds.to(self.dtype)
        return (embeds.flatten(1) @ self.weight.T).unflatten(1, self.latent_shape)

    def slope(self, timestep: Real[Tensor, ""]) -> Float[Tensor, ""]:
        """Derivative of the predicted noise with respect to x_t."""
        alpha, sigma = self.alpha_sigma(timestep)
        return sigma / (alpha**2 * self.spread**2 + sigma**2)

    def predict(
        self, latents: Float[Tensor, "b c h w"], timestep: Real[Tensor, ""], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        self.calls += len(latents)
        alpha, _ = self.alpha_sigma(timestep)
        return self.slope(timestep) * (latents - alpha * self.mean(conditioning))

    def step(
        self,
        model_output: Float[Tensor, "b c h w"],
        timestep: Real[Tensor, ""],
        latents: Float[Tensor, "b c h w"],
        generators: list[torch.Generator],
    ) -> Float[Tensor, "b c h w"]:
        alpha, sigma = self.alpha_sigma(timestep)
        x0 = (latents - sigma * model_output) / alpha
        alpha, sigma = self.alpha_sigma((timestep - self._stride).clamp(min=0))
        return alpha * x0 + sigma * model_output

    def alpha_sigma(self, timestep: Real[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        angle = timestep.to(self.dtype) / (NUM_TRAIN_TIMESTEPS + 10) * math.pi / 2
        return angle.cos(), angle.sin()

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        return latents.repeat_interleave(2, -1).repeat_interleave(2, -2) / 8 + 0.5


class NoisyGaussianModel(GaussianModel):
    """A little noise is left at timestep 0, as in Stable Diffusion's schedule, so that the last step is random too."""

    def alpha_sigma(self, timestep: Real[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        return super().alpha_sigma(timestep + 9)


class Brightness:
    """The mean pixel: its gradient is the same everywhere."""

    name = "brightness"

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        return images.mean((1, 2, 3))


class Tone:
    """Minus the squared distance from a grey that the prompt's length decides: its gradient depends on everything."""

    name = "tone"

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        wanted = torch.tensor([0.3 + 0.02 * (len(prompt) % 20) for prompt in prompts], dtype=images.dtype)
        return -(images - wanted[:, None, None, None]).square().mean((1, 2, 3))


PROMPTS = ["a cat", "a red house", "two dogs", "the sea", "a long road", "rain", "an old clock"]
