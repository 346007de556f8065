"""The shapes, ranges and units of everything that flows through reneg, and the three protocols that plug into it.

Dims: `b` batch, `c h w` a latent, `l` tokens, `d` embedding width, `H W` pixels. Images are in [0, 1]. Rewards are in
the scorer's own units, and higher is better.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "flow_prediction"]


@dataclass(frozen=True)
class Conditioning:
    """What feeds one branch of the denoiser, positive or negative alike; a family fills in what it has."""

    prompt_embeds: Float[Tensor, "b l d"]
    """The text encoder's output, in the encoder's dtype or wider."""
    pooled_prompt_embeds: Float[Tensor, "b p"] | None = None
    """One vector of the whole text (SDXL, SD3, Flux)."""
    prompt_attention_mask: Float[Tensor, "b l"] | Int[Tensor, "b l"] | None = None
    """1 where the denoiser reads a token, 0 where it does not (T5 and other masked encoders)."""

    def tensors(self) -> list[Tensor]:
        """What the family has, in the order of the fields."""
        named = (self.prompt_embeds, self.pooled_prompt_embeds, self.prompt_attention_mask)
        return [tensor for tensor in named if tensor is not None]

    def expand(self, batch_size: int) -> "Conditioning":
        """A conditioning of one prompt repeated for a batch, without copying; gradients add up in the original."""
        return self._map(lambda tensor: tensor.expand(batch_size, *tensor.shape[1:]))

    def detach(self) -> "Conditioning":
        return self._map(torch.Tensor.detach)

    def to(self, device: torch.device) -> "Conditioning":
        # To a GPU nothing has to wait; what arrives on the CPU may be read at once.
        return self._map(lambda tensor: tensor.to(device, non_blocking=device.type != "cpu"))

    def filled(self) -> "Conditioning":
        """Every token read: those that the mask hides become copies of those that are read, in turn.

        Where one token is read, as in the null text of T5 and Gemma, cross-attention cannot tell the two apart: equal
        tokens share one token's weight. Without a mask nothing changes.
        """
        mask = self.prompt_attention_mask
        if mask is None:
            return self
        rows = []
        for tokens, read in zip(self.prompt_embeds, mask.bool(), strict=True):
            sources = read.nonzero().flatten()
            order = torch.arange(len(tokens), device=tokens.device)
            rows.append(
                tokens if len(sources) == 0 else tokens[torch.where(read, order, sources[order % len(sources)])]
            )
        return Conditioning(torch.stack(rows), self.pooled_prompt_embeds, torch.ones_like(mask))

    @staticmethod
    def concatenate(*parts: "Conditioning") -> "Conditioning":
        """Several conditionings of one family in one batch; diffusers' pipelines run guidance negative first."""
        pooled = [part.pooled_prompt_embeds for part in parts if part.pooled_prompt_embeds is not None]
        masks = [part.prompt_attention_mask for part in parts if part.prompt_attention_mask is not None]
        return Conditioning(
            _cat([part.prompt_embeds for part in parts]),
            _cat(pooled) if pooled else None,
            _cat(masks) if masks else None,
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        pooled, mask = self.pooled_prompt_embeds, self.prompt_attention_mask
        return Conditioning(
            change(self.prompt_embeds),
            None if pooled is None else change(pooled),
            None if mask is None else change(mask),
        )


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    """Along the batch, in the widest dtype of them all."""
    dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    return torch.cat([tensor.to(dtype) for tensor in tensors])


@dataclass(frozen=True)
class GradientPolicy:
    """Which branches of Eq. 5 keep a graph in the step that carries the gradient."""

    positive: bool
    negative: bool
    text: bool = False
    """The text encoders are trained, so prompts are encoded at every step; otherwise once, before learning."""


@dataclass(frozen=True)
class Place:
    """Where samples stand on their trajectories between two updates."""

    step_index: int
    """The step that comes next, 0 … num_inference_steps - 1."""
    latents: Float[Tensor, "b c h w"]
    """x_t of that step, without a graph."""


@dataclass(frozen=True)
class StepOutput:
    """What one training step gives."""

    loss: Float[Tensor, ""]
    """Minus the mean reward (Eq. 7), with its graph; of several gradient steps of one batch, each has its share."""
    rewards: Float[Tensor, " b"]
    """Reward of each sample, detached, in the reward's own units."""
    images: Float[Tensor, "b 3 H W"]
    """The one-step predictions that were scored, detached; nominally in [0, 1], not clamped."""
    step_index: int
    """The step of the trajectory that carried the gradient, 0 … num_inference_steps - 1."""
    onward: Place | None = None
    """Where the samples go on from at the next update; None where they are done with, as they mostly are."""


@runtime_checkable  # so that the tests can check types at run time
class DiffusionModel(Protocol):
    """A frozen text-to-image model: everything that the method asks of a family."""

    name: str
    """Short name, hub id or folder it was loaded from."""
    family: str
    """Such as "sd" or "sdxl"."""

    @property
    def prediction_type(self) -> PredictionType: ...

    @property
    def scheduler_name(self) -> str:
        """What samples it: "ddim", "ddpm" or, for a flow, "flow_euler"."""
        ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one latent."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest prompt in tokens, start and end included."""
        ...

    def count_tokens(self, prompt: str) -> int:
        """Length of a prompt in tokens, start and end included, before any truncation."""
        ...

    def encode_prompt(self, prompts: Sequence[str]) -> Conditioning:
        """[b] texts -> their encodings, without a graph unless the encoder's weights are trained."""
        ...

    def encode_negative_prompt(self, prompts: Sequence[str]) -> Conditioning:
        """The same in the form in which the family's pipeline takes negative prompts."""
        ...

    def null_conditioning(self) -> Conditioning:
        """What the family's pipeline takes without a negative prompt, as the conditioning of one prompt."""
        ...

    def set_timesteps(self, num_inference_steps: int) -> Real[Tensor, " n"]:
        """Prepare the scheduler; its timesteps, from noise to image, on the CPU."""
        ...

    def initial_latents(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Standard normal noise -> x_T."""
        ...

    def predict(
        self, latents: Float[Tensor, "b c h w"], timestep: Real[Tensor, ""], conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """One evaluation of the denoiser, without guidance."""
        ...

    def step(
        self,
        model_output: Float[Tensor, "b c h w"],
        timestep: Real[Tensor, ""],
        latents: Float[Tensor, "b c h w"],
        generators: list[torch.Generator],
    ) -> Float[Tensor, "b c h w"]:
        """x_t and a (guided) prediction -> x_{t-1}; a stochastic sampler draws from each sample's own generator."""
        ...

    def alpha_sigma(self, timestep: Real[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """(alpha, sigma) of x_t = alpha * x_0 + sigma * noise."""
        ...

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Latents -> images in float32 at least, nominally in [0, 1] and not clamped: no gradient is cut off."""
        ...


@runtime_checkable  # so that the tests can check types at run time
class PipelineModel(DiffusionModel, Protocol):
    """A model made of a diffusers pipeline's components: what the targets that train weights ask beyond the rest."""

    pipe: Any
    """The pipeline."""
    vae: Any
    """Its VAE, a module."""

    @property
    def denoiser(self) -> Any:
        """The UNet or transformer, a module."""
        ...

    @property
    def encoders(self) -> list[Any]:
        """The text encoders, modules; none once they were let go."""
        ...

    def encode_ahead(self, prompts: Sequence[str], folder: Path | None = None) -> None:
        """Encode prompts once, for all of the times that they will be asked for.

        A folder keeps the encodings for later runs.
        """
        ...

    def let_go_of_encoders(self) -> None:
        """Free the text encoders: from here on what was encoded ahead can be encoded, and nothing else."""
        ...


@runtime_checkable  # so that the tests can check types at run time
class Reward(Protocol):
    """A frozen, differentiable scorer."""

    name: str

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Images in [0, 1] and their prompts -> one score each; no item's score depends on its batch-mates."""
        ...


@runtime_checkable  # so that the tests can check types at run time
class ModuleReward(Reward, Protocol):
    """A reward whose weights are torch modules, which can wait on the CPU."""

    def modules(self) -> list[Any]:
        """All of them."""
        ...


@runtime_checkable  # so that the tests can check types at run time
class Artifact(Protocol):
    """What a learning run leaves: a negative embedding, or weights of the model."""

    @property
    def metadata(self) -> dict[str, str]:
        """How it was learned."""
        ...

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically."""
        ...

    def facts(self) -> dict[str, str]:
        """What it is and how it was learned, as label -> text."""
        ...


@runtime_checkable  # so that the tests can check types at run time
class Conditioner(Protocol):
    """What a gradient asks of a target: the conditioning of both branches, and which of them keep a graph."""

    policy: GradientPolicy

    def guidance_scale(self, configured: float) -> float | Float[Tensor, ""]:
        """The scale of Eq. 5, given the one of the settings; a tensor with a graph where it is learned."""
        ...

    def condition(self, model: DiffusionModel, prompts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        """The (positive, negative) conditioning of a batch of prompts, with the graphs that the policy names."""
        ...


@runtime_checkable  # so that the tests can check types at run time
class Target(Conditioner, Protocol):
    """What is trained by a learning run."""

    def parameters(self) -> list[torch.nn.Parameter]: ...

    def fingerprint(self) -> list[Tensor]:
        """What tells the model that a state belongs to from others, for resumed runs; far apart for other models."""
        ...

    def negative(self) -> Conditioning:
        """The negative conditioning of one prompt, in the present state."""
        ...

    def artifact(self, metadata: dict[str, str]) -> Artifact:
        """The present state as a file's content, detached."""
        ...
