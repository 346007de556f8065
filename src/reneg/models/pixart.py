"""PixArt-alpha and PixArt-Sigma: T5 alone, read through a mask; a transformer that predicts epsilon and a sigma."""

from typing import Any, ClassVar

import torch
from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline
from diffusers.utils import is_bs4_available
from jaxtyping import Float, Real
from torch import Tensor
from transformers import T5EncoderModel

from reneg.interfaces import Conditioning
from reneg.models.base import LatentModel


class PixArtAlpha(LatentModel):
    """T5's tokens with their mask; of twice as many channels as the latents have, the second half is dropped."""

    family = "pixart"
    pipeline_class = PixArtAlphaPipeline
    text_encoders = {"text_encoder": T5EncoderModel}
    t5_tokens: ClassVar[int] = 120
    """Those that the pipeline lets T5 read, its max_sequence_length."""

    @property
    def denoiser(self) -> Any:
        return self.pipe.transformer

    @property
    def max_tokens(self) -> int:
        return self.t5_tokens

    def count_tokens(self, prompt: str) -> int:
        return super().count_tokens(self.pipe._text_preprocessing(prompt, clean_caption=is_bs4_available())[0])

    def _encode(self, prompts: list[str], *, negative: bool) -> Conditioning:
        embeds, mask, _, _ = self.pipe.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            device=self.device,
            # The pipeline's own choice: it cleans if beautifulsoup4 is installed, and warns at every text if not.
            clean_caption=is_bs4_available(),
            max_sequence_length=self.t5_tokens,
        )
        return Conditioning(embeds, prompt_attention_mask=mask)

    def predict(
        self, latents: Float[Tensor, "b c h w"], timestep: Real[Tensor, ""], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.denoiser.use_additional_conditions:  # PixArt-alpha at 1024 pixels
            height, width = (side * self.pipe.vae_scale_factor for side in latents.shape[-2:])
            given = {"resolution": [height, width], "aspect_ratio": [height / width]}
            tensors = {name: torch.tensor([size]).to(latents, non_blocking=True) for name, size in given.items()}
            sizes = {name: size.expand(len(latents), -1) for name, size in tensors.items()}
        output = self.denoiser(
            latents,
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            encoder_attention_mask=conditioning.prompt_attention_mask,
            timestep=self._on_device(timestep, latents),
            added_cond_kwargs=sizes,
        ).sample
        return output[:, : latents.shape[1]]  # what follows is the learned sigma


class PixArtSigma(PixArtAlpha):
    """The same with longer prompts and another VAE."""

    pipeline_class = PixArtSigmaPipeline
    t5_tokens = 300
