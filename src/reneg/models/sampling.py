"""How each kind of prediction is sampled: its timesteps, its steps, and alpha and sigma of Eq. 6."""

import inspect
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from jaxtyping import Float, Real
from torch import Tensor

from reneg.interfaces import PredictionType

SCHEDULERS = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}
FLOW_EULER = "flow_euler"


def _wide(tensor: Tensor) -> torch.dtype:
    """The precision to compute a step in: float32 at least."""
    return torch.promote_types(torch.float32, tensor.dtype)


class Sampler(Protocol):
    """What a family asks of its sampler."""

    name: str
    scheduler: Any
    prediction_type: PredictionType

    def initial_latents(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]: ...

    def step(
        self,
        model_output: Float[Tensor, "b c h w"],
        timestep: Real[Tensor, ""],
        latents: Float[Tensor, "b c h w"],
        generators: list[torch.Generator],
    ) -> Float[Tensor, "b c h w"]: ...

    def alpha_sigma(
        self, timestep: Real[Tensor, ""], dtype: torch.dtype
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]: ...


class DiffusionSampler:
    """DDIM or DDPM, for models that predict epsilon or v."""

    def __init__(self, config: Any, *, name: str, model: str):
        if "sigma_data" in config:
            raise ValueError(f"{model} is preconditioned as in EDM; epsilon and v_prediction are supported")
        # Latents are not bounded: where a config is silent on clip_sample, as DPM-Solver's are, DDIM would clip them.
        clip = config.get("clip_sample", False)
        # Any: diffusers annotates timesteps as int and every output as possibly a tuple.
        self.scheduler: Any = SCHEDULERS[name].from_config(config, clip_sample=clip)
        self.name = name
        self.prediction_type: PredictionType = self.scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"{model} predicts {self.prediction_type!r}; epsilon and v_prediction are supported")
        # There alpha is 0 at the first step, and Eq. 6 would divide by it; v_prediction does not.
        if self.prediction_type == "epsilon" and self.scheduler.config.rescale_betas_zero_snr:
            raise ValueError(f"{model} predicts epsilon on a schedule of zero terminal SNR, where epsilon gives no x0")

    def initial_latents(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return noise * self.scheduler.init_noise_sigma

    def step(
        self,
        model_output: Float[Tensor, "b c h w"],
        timestep: Real[Tensor, ""],
        latents: Float[Tensor, "b c h w"],
        generators: list[torch.Generator],
    ) -> Float[Tensor, "b c h w"]:
        # DDIM with eta 0 draws nothing; DDPM draws each sample's noise from its own generator.
        options = {"generator": generators} if self.name == "ddpm" else {}
        return self.scheduler.step(model_output, timestep, latents, **options).prev_sample

    def alpha_sigma(
        self, timestep: Real[Tensor, ""], dtype: torch.dtype
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        alpha_bar = self.scheduler.alphas_cumprod.to(timestep.device, dtype)[timestep.long()]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


class FlowSampler:
    """Euler steps along a flow, x_t = (1 - sigma) x_0 + sigma noise, with the model's own shift of the schedule.

    DDIM and DDPM are defined for epsilon and v alone, so a flow has this one sampler.
    """

    name = FLOW_EULER
    prediction_type: PredictionType = "flow_prediction"

    def __init__(self, config: Any, *, model: str):
        # DPM-Solver's configs call it flow_shift.
        shift = config.get("shift", config.get("flow_shift", 1.0))
        known = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
        # Another scheduler's settings that this one does not have are no matter for a warning.
        given = {key: value for key, value in config.items() if key in known}
        self.scheduler: Any = FlowMatchEulerDiscreteScheduler(**given | {"shift": shift})
        own = self.scheduler.config
        predicts = config.get("prediction_type", "flow_prediction")
        if predicts != "flow_prediction" or own.use_dynamic_shifting or own.stochastic_sampling:
            raise ValueError(
                f"{model} is no plain flow (prediction_type {predicts}, use_dynamic_shifting "
                f"{own.use_dynamic_shifting}, stochastic_sampling {own.stochastic_sampling}); these are not supported"
            )

    def initial_latents(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return noise

    def step(
        self,
        model_output: Float[Tensor, "b c h w"],
        timestep: Real[Tensor, ""],
        latents: Float[Tensor, "b c h w"],
        generators: list[torch.Generator],
    ) -> Float[Tensor, "b c h w"]:
        # The scheduler's own step counts its calls and rounds to float32: a step must depend on its timestep alone.
        index = int((self.scheduler.timesteps - timestep).abs().argmin())
        change = self.scheduler.sigmas[index + 1] - self.scheduler.sigmas[index]
        return (latents.to(_wide(latents)) + change * model_output).to(model_output.dtype)

    def alpha_sigma(
        self, timestep: Real[Tensor, ""], dtype: torch.dtype
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        sigma = timestep.to(dtype) / self.scheduler.config.num_train_timesteps
        return 1 - sigma, sigma
