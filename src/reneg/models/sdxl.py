"""Stable Diffusion XL: two CLIP encoders, pooled vectors, and the picture's size as an input."""

from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from jaxtyping import Float, Real
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from reneg.interfaces import Conditioning
from reneg.models.base import LatentModel


class StableDiffusionXL(LatentModel):
    """CLIP-L and OpenCLIP-bigG side by side, the latter's pooled vector, and a UNet that is told the sizes."""

    family = "sdxl"
    pipeline_class = StableDiffusionXLPipeline
    text_encoders = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}

    @property
    def denoiser(self) -> Any:
        return self.pipe.unet

    def _encode(self, prompts: list[str], *, negative: bool) -> Conditioning:
        encoded = self.pipe.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)
        return Conditioning(encoded[0], encoded[2])

    def null_conditioning(self) -> Conditioning:
        """Zeros where the pipeline's force_zeros_for_empty_prompt says so: no encoding of any text.

        Learning does not start there: tokens that are all alike get the same gradient and stay alike for ever.
        """
        null = self.encode_negative_prompt([""])
        if not self.pipe.config.force_zeros_for_empty_prompt:
            return null
        return Conditioning(*(torch.zeros_like(tensor) for tensor in null.tensors()))

    def predict(
        self, latents: Float[Tensor, "b c h w"], timestep: Real[Tensor, ""], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        assert conditioning.pooled_prompt_embeds is not None  # every conditioning of the family has one
        embeds, pooled = conditioning.prompt_embeds.to(self.dtype), conditioning.pooled_prompt_embeds.to(self.dtype)
        height, width = (side * self.pipe.vae_scale_factor for side in latents.shape[-2:])
        # Original size, left upper corner of the crop, target size: those that the pipeline defaults to.
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=self.dtype)
        sizes = sizes.to(latents.device, non_blocking=True)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(latents), -1)}
        timestep = self._on_device(timestep, latents)
        return self.denoiser(latents, timestep, encoder_hidden_states=embeds, added_cond_kwargs=added).sample
