"""Stable Diffusion 1.x and 2.x, and every model in their layout: the bundled world is one."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel

from reneg.interfaces import Conditioning, PredictionType

SCHEDULERS = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}


class StableDiffusion:
    """The components of a StableDiffusionPipeline, frozen and in evaluation mode, behind the DiffusionModel protocol.

    The pipeline's own `__call__` is never differentiated; `generate` is proven equal to it in the tests.
    """

    family = "sd"

    def __init__(self, pipe: StableDiffusionPipeline, *, name: str, scheduler: str = "ddim"):
        self.name = name
        self.denoiser, self.vae = pipe.unet, pipe.vae
        self.text_encoder, self.tokenizer = pipe.text_encoder, pipe.tokenizer
        for module in (self.denoiser, self.vae, self.text_encoder):
            module.requires_grad_(False).eval()
        # Any: diffusers annotates timesteps as int and every output as possibly a tuple.
        self.scheduler: Any = SCHEDULERS[scheduler].from_config(pipe.scheduler.config)
        self.prediction_type: PredictionType = self.scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"{name} predicts {self.prediction_type!r}; epsilon and v_prediction are supported")

    @classmethod
    def from_pretrained(
        cls, source: str, *, name: str, scheduler: str, device: str, dtype: torch.dtype
    ) -> "StableDiffusion":
        """Load safetensors weights from a folder or the hub; no pickle is read and no remote code is run.

        Raises:
            ValueError: there is no such pipeline, or a part of it is missing or damaged.
        """
        options = {"dtype": dtype, "use_safetensors": True}
        load: Any = CLIPTextModel.from_pretrained  # annotated as if it never gave the loading info
        try:
            # transformers fills missing weights with random ones and says so in its loading info alone.
            text_encoder, info = load(source, subfolder="text_encoder", output_loading_info=True, **options)
            if info["missing_keys"]:
                raise ValueError(f"text_encoder lacks {len(info['missing_keys'])} of its weights")
            pipe = StableDiffusionPipeline.from_pretrained(
                source, text_encoder=text_encoder, safety_checker=None, requires_safety_checker=False, **options
            ).to(device)
            if pipe.tokenizer.vocab_size <= len(pipe.tokenizer.all_special_ids):
                raise ValueError("there is no tokenizer")  # transformers makes an empty one up
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"--model {name!r} cannot be loaded as a Stable Diffusion pipeline: {reason}") from error
        return cls(pipe, name=name, scheduler=scheduler)

    @property
    def dtype(self) -> torch.dtype:
        return self.denoiser.dtype

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.denoiser.config.sample_size
        return (self.denoiser.config.in_channels, side, side)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Conditioning:
        """[b] texts -> [b, l, d]; what lies beyond the tokenizer's limit is cut off (`count_tokens` tells)."""
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = self.tokenizer(list(prompts), max_length=self.max_tokens, **options).input_ids
        return Conditioning(self.text_encoder(ids.to(self.device))[0])

    @property
    def max_tokens(self) -> int:
        """Longest prompt in tokens, start and end included."""
        return self.tokenizer.model_max_length

    def count_tokens(self, prompt: str) -> int:
        """Length of a prompt in tokens, start and end included, before any truncation."""
        return len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids)

    def set_timesteps(self, num_inference_steps: int) -> Int[Tensor, " n"]:
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        return self.scheduler.timesteps

    def initial_latents(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return noise * self.scheduler.init_noise_sigma

    def predict(
        self, latents: Float[Tensor, "b c h w"], timestep: Int[Tensor, ""], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        embeds = conditioning.prompt_embeds.to(self.dtype)
        return self.denoiser(latents, timestep, encoder_hidden_states=embeds).sample

    def step(
        self,
        model_output: Float[Tensor, "b c h w"],
        timestep: Int[Tensor, ""],
        latents: Float[Tensor, "b c h w"],
        generators: list[torch.Generator],
    ) -> Float[Tensor, "b c h w"]:
        # DDIM with eta 0 draws nothing; DDPM draws each sample's noise from its own generator.
        options = {"generator": generators} if isinstance(self.scheduler, DDPMScheduler) else {}
        step: Any = self.scheduler.step
        return step(model_output, timestep, latents, **options).prev_sample

    def alpha_sigma(self, timestep: Int[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        alpha_bar = self.scheduler.alphas_cumprod.to(self.device, self.dtype)[timestep.long()]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample / 2 + 0.5
