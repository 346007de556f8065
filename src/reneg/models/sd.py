"""Stable Diffusion 1.x and 2.x, and every model in their layout: the bundled world is one."""

from typing import Any

from diffusers import StableDiffusionPipeline
from jaxtyping import Float, Real
from torch import Tensor
from transformers import CLIPTextModel

from reneg.interfaces import Conditioning
from reneg.models.base import LatentModel


class StableDiffusion(LatentModel):
    """One CLIP encoder and a UNet that predicts epsilon or v."""

    family = "sd"
    pipeline_class = StableDiffusionPipeline
    text_encoders = {"text_encoder": CLIPTextModel}
    loading = {"safety_checker": None, "requires_safety_checker": False}

    @property
    def denoiser(self) -> Any:
        return self.pipe.unet

    def _encode(self, prompts: list[str], *, negative: bool) -> Conditioning:
        return Conditioning(self.pipe.encode_prompt(prompts, self.device, 1, False)[0])

    def predict(
        self, latents: Float[Tensor, "b c h w"], timestep: Real[Tensor, ""], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        embeds = conditioning.prompt_embeds.to(self.dtype)
        return self.denoiser(latents, self._on_device(timestep, latents), encoder_hidden_states=embeds).sample
