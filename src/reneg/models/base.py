"""What all families share: the frozen components of a diffusers pipeline behind the DiffusionModel protocol."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from jaxtyping import Float, Real
from torch import Tensor

from reneg.interfaces import Conditioning, PredictionType
from reneg.models.prompt_cache import PromptCache
from reneg.models.sampling import DiffusionSampler, FlowSampler, Sampler


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' report of all that it cuts off, padding included, at every batch: it was told once before.

    Within another such block it does nothing: changing the verbosity empties the caches of all loggers.
    """
    before = logging.get_verbosity()
    if before == logging.ERROR:
        yield
        return
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


class LatentModel(ABC):
    """A latent text-to-image model: one frozen denoiser, a VAE, and the text encoders of a pipeline.

    The pipeline's own `__call__` is never differentiated; `generate` is proven equal to it in the tests. Its
    `encode_prompt` is used as it is.
    """

    family: str
    pipeline_class: ClassVar[Any]
    text_encoders: ClassVar[dict[str, Any]]
    """Component -> its transformers class."""
    optional_encoders: ClassVar[tuple[str, ...]] = ()
    """Those that a checkpoint may lack, and their tokenizers with them."""
    predicts_flow: ClassVar[bool] = False
    loading: ClassVar[dict[str, Any]] = {}
    """Further arguments of the pipeline's from_pretrained."""

    def __init__(
        self, pipe: DiffusionPipeline, *, name: str, scheduler: str = "ddim", device: torch.device | None = None
    ):
        """Freeze a pipeline's components.

        Args:
            device: where they work, if they wait elsewhere until then; otherwise where they are.
        """
        # Any: diffusers gives each pipeline's components at run time only.
        self.pipe: Any = pipe
        self.name = name
        self.vae: Any = self.pipe.vae
        self.device: torch.device = self.denoiser.device if device is None else device
        self._encoded: dict[str, Conditioning] = {}
        self.sampler: Sampler
        if self.predicts_flow:
            self.sampler = FlowSampler(self.pipe.scheduler.config, model=name)
        else:
            self.sampler = DiffusionSampler(self.pipe.scheduler.config, name=scheduler, model=name)
        for module in (self.denoiser, self.vae, *self.encoders):
            module.requires_grad_(False).eval()
        if self.dtype == torch.float16:
            self.vae.float()  # its activations pass float16's range; bfloat16 has float32's

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The UNet or transformer."""

    @abstractmethod
    def predict(
        self, latents: Float[Tensor, "b c h w"], timestep: Real[Tensor, ""], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]: ...

    @abstractmethod
    def _encode(self, prompts: list[str], *, negative: bool) -> Conditioning:
        """Texts -> their encodings, in the form of a prompt or of a negative prompt."""

    @property
    def encoders(self) -> list[Any]:
        """The text encoders; some families may lack one."""
        return [part for part in (self.pipe.components[name] for name in self.text_encoders) if part is not None]

    @property
    def text_encoder(self) -> Any:
        return self.pipe.text_encoder

    @property
    def tokenizer(self) -> Any:
        """The tokenizer whose limit counts."""
        return self.pipe.tokenizer

    def enable_gradient_checkpointing(self) -> None:
        """Keep only the input of a block for backward, and compute the rest again there; modules stay in eval mode."""
        for module in (self.denoiser, self.vae):
            module.enable_gradient_checkpointing()

    @property
    def scheduler(self) -> Any:
        return self.sampler.scheduler

    @property
    def scheduler_name(self) -> str:
        return self.sampler.name

    @property
    def prediction_type(self) -> PredictionType:
        return self.sampler.prediction_type

    @property
    def dtype(self) -> torch.dtype:
        return self.denoiser.dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.denoiser.config.sample_size
        return (self.denoiser.config.in_channels, side, side)

    @property
    def max_tokens(self) -> int:
        """Longest prompt in tokens, start and end included."""
        return self.tokenizer.model_max_length

    def count_tokens(self, prompt: str) -> int:
        """Length of a prompt in tokens, start and end included, before any truncation."""
        return len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids)

    def encode_prompt(self, prompts: Sequence[str]) -> Conditioning:
        """[b] texts -> their encodings; what lies beyond the tokenizer's limit is cut off (`count_tokens` tells).

        Frozen encoders make no graph.

        Raises:
            ValueError: `encode_ahead` was not given one of the prompts.
        """
        missing = [prompt for prompt in prompts if prompt not in self._encoded]
        if not missing:
            return Conditioning.concatenate(*(self._encoded[prompt] for prompt in prompts)).to(self.device)
        if not self.encoders:
            raise ValueError(f"{self.name} has let go of its text encoders, and {missing[0]!r} was not encoded before")
        with _quiet():
            return self._encode(list(prompts), negative=False)

    def encode_negative_prompt(self, prompts: Sequence[str]) -> Conditioning:
        """[b] texts -> their encodings in the form of negative prompts."""
        with _quiet():
            return self._encode(list(prompts), negative=True)

    @torch.no_grad()
    def encode_ahead(self, prompts: Sequence[str], folder: Path | None = None) -> None:
        """Encode prompts once, for all of the times that they will be asked for.

        The encodings wait on the CPU. One at a time: in a batch the last bits of an encoding would depend on which
        others are in it.

        Args:
            folder: keeps the encodings for later runs, and gives those of earlier ones.
        """

        def encode(prompt: str) -> Conditioning:
            return self.encode_prompt([prompt]).to(torch.device("cpu"))

        cache = None if folder is None else PromptCache(folder, encode(""))
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._encoded]
        with _quiet():
            self._encoded |= {p: encode(p) if cache is None else cache.get(p, encode) for p in new}

    def let_go_of_encoders(self) -> None:
        """Free the text encoders: from here on what was encoded ahead can be encoded, and nothing else."""
        for part in self.text_encoders:
            setattr(self.pipe, part, None)

    def null_conditioning(self) -> Conditioning:
        """What the pipeline takes without a negative prompt, as the conditioning of one prompt."""
        return self.encode_negative_prompt([""])

    def set_timesteps(self, num_inference_steps: int) -> Real[Tensor, " n"]:
        """On the CPU, where all that the scheduler computes from them stays: to read a GPU's numbers is to wait."""
        self.scheduler.set_timesteps(num_inference_steps)
        return self.scheduler.timesteps

    @staticmethod
    def _on_device(timestep: Real[Tensor, ""], latents: Float[Tensor, "b c h w"]) -> Real[Tensor, " b"]:
        """A timestep for each sample, where the latents are."""
        return timestep.to(latents.device, non_blocking=True).expand(len(latents))

    def initial_latents(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.sampler.initial_latents(noise)

    def step(
        self,
        model_output: Float[Tensor, "b c h w"],
        timestep: Real[Tensor, ""],
        latents: Float[Tensor, "b c h w"],
        generators: list[torch.Generator],
    ) -> Float[Tensor, "b c h w"]:
        return self.sampler.step(model_output, timestep, latents, generators)

    def alpha_sigma(self, timestep: Real[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        return self.sampler.alpha_sigma(timestep, torch.promote_types(torch.float32, self.dtype))

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Latents -> images in float32 at least, whatever the VAE has, nominally in [0, 1] and not clamped."""
        return self._decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor)

    def _decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """The VAE's own latents -> images: rewards and statistics need more digits than 16 bits have."""
        images = self.vae.decode(latents).sample
        return images.to(torch.promote_types(torch.float32, images.dtype)) / 2 + 0.5
