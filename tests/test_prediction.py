"""Eq. 6 against diffusers' own scheduler, in float64."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from reneg.interfaces import PredictionType
from reneg.prediction import predict_x0, prediction_target

TIMESTEPS = [1, 34, 300, 700, 999]
EXACT = {"rtol": 0, "atol": 1e-11}


def scheduler_of(prediction_type: Any) -> Any:
    """Any, because diffusers annotates tensors as FloatTensor and timesteps as int."""
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        prediction_type=prediction_type,
    )
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(30)
    return scheduler


def draw(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def alpha_sigma(scheduler: Any, timestep: int) -> tuple[torch.Tensor, torch.Tensor]:
    alpha_bar = scheduler.alphas_cumprod[timestep]
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


@pytest.mark.parametrize("timestep", TIMESTEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_denoiser_gives_back_x0(prediction_type: PredictionType, timestep: int):
    """x0 -> x_t -> x0, with x_t and the perfect prediction made by diffusers."""
    scheduler, x0, noise = scheduler_of(prediction_type), draw(0), draw(1)
    at = torch.tensor([timestep, timestep])
    latents = scheduler.add_noise(x0, noise, at)
    output = {"epsilon": lambda: noise, "v_prediction": lambda: scheduler.get_velocity(x0, noise, at)}[
        prediction_type
    ]()
    assert not torch.allclose(latents, x0, atol=0.01)  # something to undo
    recovered = predict_x0(latents, output, *alpha_sigma(scheduler, timestep), prediction_type)
    torch.testing.assert_close(recovered, x0, **EXACT)


@pytest.mark.parametrize("timestep", TIMESTEPS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_equal_to_the_schedulers_pred_original_sample(prediction_type: PredictionType, timestep: int):
    scheduler, latents, output = scheduler_of(prediction_type), draw(2), draw(3)
    reference = scheduler.step(output, timestep, latents).pred_original_sample
    own = predict_x0(latents, output, *alpha_sigma(scheduler, timestep), prediction_type)
    torch.testing.assert_close(own, reference, **EXACT)


@pytest.mark.parametrize("step_index", [0, 3, 9])
def test_a_flow_gives_back_x0_from_the_schedulers_own_x_t(step_index: int):
    """x0 -> x_t by diffusers' scale_noise -> x0; the velocity of the straight path is noise - x0."""
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    scheduler.sigmas = scheduler.sigmas.double()
    x0, noise, timestep = draw(0), draw(1), scheduler.timesteps[step_index]
    sigma = scheduler.sigmas[step_index]
    latents = scheduler.scale_noise(x0, timestep[None], noise)
    recovered = predict_x0(latents, noise - x0, 1 - sigma, sigma, "flow_prediction")
    torch.testing.assert_close(recovered, x0, **EXACT)


def test_a_flow_is_the_schedulers_euler_step_to_sigma_zero():
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(9)  # the last step ends at sigma 0
    latents, output, sigma = draw(2).float(), draw(3).float(), scheduler.sigmas[9]
    reference = scheduler.step(output, scheduler.timesteps[9], latents).prev_sample
    torch.testing.assert_close(predict_x0(latents, output, 1 - sigma, sigma, "flow_prediction"), reference)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "flow_prediction"])
def test_the_target_of_a_prediction_gives_back_x0(prediction_type: PredictionType):
    x0, noise = draw(0), draw(1)
    alpha, sigma = torch.tensor([0.6, 0.8], dtype=torch.float64)
    if prediction_type == "flow_prediction":
        alpha = 1 - sigma
    target = prediction_target(x0, noise, alpha, sigma, prediction_type)
    recovered = predict_x0(alpha * x0 + sigma * noise, target, alpha, sigma, prediction_type)
    torch.testing.assert_close(recovered, x0, **EXACT)
