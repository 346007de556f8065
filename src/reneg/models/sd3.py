"""Stable Diffusion 3 and 3.5: two CLIP encoders and T5, pooled vectors, and a transformer that predicts a flow."""

from typing import Any

from diffusers import StableDiffusion3Pipeline
from jaxtyping import Float, Real
from torch import Tensor
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from reneg.interfaces import Conditioning
from reneg.models.base import LatentModel

T5_TOKENS = 256
"""Those that the pipeline lets T5 read, its max_sequence_length."""


class StableDiffusion3(LatentModel):
    """The CLIP tokens, then T5's, which are zeros where a checkpoint goes without T5."""

    family = "sd3"
    pipeline_class = StableDiffusion3Pipeline
    text_encoders = {
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
    }
    optional_encoders = ("text_encoder_3",)
    predicts_flow = True

    @property
    def denoiser(self) -> Any:
        return self.pipe.transformer

    @property
    def tokenizer(self) -> Any:
        """T5's, which reads on where the CLIP encoders stop, if there is T5."""
        return self.pipe.tokenizer if self.pipe.tokenizer_3 is None else self.pipe.tokenizer_3

    @property
    def max_tokens(self) -> int:
        return self.pipe.tokenizer_max_length if self.pipe.tokenizer_3 is None else T5_TOKENS

    def _encode(self, prompts: list[str], *, negative: bool) -> Conditioning:
        encoded = self.pipe.encode_prompt(
            prompts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=T5_TOKENS,
        )
        return Conditioning(encoded[0], encoded[2])

    def predict(
        self, latents: Float[Tensor, "b c h w"], timestep: Real[Tensor, ""], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        assert conditioning.pooled_prompt_embeds is not None  # every conditioning of the family has one
        return self.denoiser(
            latents,
            timestep=self._on_device(timestep, latents),
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            pooled_projections=conditioning.pooled_prompt_embeds.to(self.dtype),
        ).sample

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        config = self.vae.config
        latents = latents.to(self.vae.dtype) / config.scaling_factor + config.shift_factor
        return self._decode(latents)
