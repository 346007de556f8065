"""Sana: Gemma-2 read through a mask, and a transformer that predicts a flow, guided at every step."""

import inspect
from typing import Any

import torch
from diffusers import SanaPipeline
from jaxtyping import Float, Real
from torch import Tensor
from transformers import Gemma2Model

from reneg.interfaces import Conditioning
from reneg.models.base import LatentModel

GEMMA_TOKENS = 300
"""Those of Gemma's output that the pipeline gives the transformer, its max_sequence_length."""
INSTRUCTION = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
"""The lines that the pipeline puts before a prompt, and before no negative prompt."""


class Sana(LatentModel):
    """Gemma's first token and its last 299 that follow the instruction; latents are float32 at least."""

    family = "sana"
    pipeline_class = SanaPipeline
    text_encoders = {"text_encoder": Gemma2Model}
    predicts_flow = True

    @property
    def denoiser(self) -> Any:
        return self.pipe.transformer

    @property
    def max_tokens(self) -> int:
        """One less than the transformer reads: one is the instruction's last."""
        return GEMMA_TOKENS - 1

    def count_tokens(self, prompt: str) -> int:
        return super().count_tokens(self.pipe._text_preprocessing(prompt)[0])

    def _encode(self, prompts: list[str], *, negative: bool) -> Conditioning:
        embeds, mask, _, _ = self.pipe.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=GEMMA_TOKENS,
            complex_human_instruction=None if negative else INSTRUCTION,
        )
        return Conditioning(embeds, prompt_attention_mask=mask)

    def initial_latents(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return noise.to(self._wide)

    def predict(
        self, latents: Float[Tensor, "b c h w"], timestep: Real[Tensor, ""], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        output = self.denoiser(
            latents.to(self.dtype),
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            encoder_attention_mask=conditioning.prompt_attention_mask,
            timestep=self._on_device(timestep, latents) * self.denoiser.config.timestep_scale,
        ).sample
        return output.to(self._wide)

    def enable_gradient_checkpointing(self) -> None:
        """Of the transformer alone: diffusers has none for this VAE."""
        self.denoiser.enable_gradient_checkpointing()

    @property
    def _wide(self) -> torch.dtype:
        """The precision of the latents between the steps."""
        return torch.promote_types(torch.float32, self.dtype)
