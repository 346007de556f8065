"""Stable Diffusion 1 and 2 (epsilon and v), zero terminal SNR included: what is proven of every other family too."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from family_proofs import (
    difference_from_the_pipeline,
    gradient_error,
    learn_by_command,
    learned_rewards,
    like_a_learned_one,
    noise_for,
    x0_round_trip,
)
from tiny import tiny_pipeline

from reneg.algorithm import denoise_fast
from reneg.models.sampling import DiffusionSampler
from reneg.models.sd import StableDiffusion

ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
SCHEDULES: dict[str, dict[str, Any]] = {
    "epsilon": {},
    "v_prediction": {"prediction_type": "v_prediction"},
    "v_prediction, zero terminal SNR": {"prediction_type": "v_prediction", **ZERO_SNR},
    "epsilon, trailing": {"timestep_spacing": "trailing"},
}


def tiny_model(schedule: str, dtype: torch.dtype = torch.float32) -> StableDiffusion:
    pipe: Any = tiny_pipeline(dtype)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **SCHEDULES[schedule])
    return StableDiffusion(pipe, name="tiny")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_generate_equals_the_pipeline(schedule: str):
    model = tiny_model(schedule)
    for negative in (like_a_learned_one(model), None):
        assert difference_from_the_pipeline(model, negative, guidance_scale=5.0) < 1e-5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_x0_round_trip_at_every_step(schedule: str):
    assert x0_round_trip(tiny_model(schedule, torch.float64)) < 1e-9


@pytest.mark.parametrize("schedule", ["v_prediction", "v_prediction, zero terminal SNR"])
@pytest.mark.parametrize("step_index", [0, 6])
def test_gradient_equals_finite_differences(schedule: str, step_index: int):
    (error,) = gradient_error(tiny_model(schedule, torch.float64), step_index)
    assert error < 1e-6


def test_zero_terminal_snr_begins_with_noise_alone():
    model = tiny_model("v_prediction, zero terminal SNR", torch.float64)
    timesteps = model.set_timesteps(8)
    alpha, sigma = model.alpha_sigma(timesteps[0])
    assert (float(alpha), float(sigma)) == (0, 1)
    positive, negative = model.encode_prompt(["a"]), model.null_conditioning()
    latents = denoise_fast(model, noise_for(model, 1), timesteps, positive, negative, 5.0)
    assert bool(latents.isfinite().all())  # its log-SNR is minus infinity


def test_epsilon_on_a_schedule_of_zero_terminal_snr_is_refused():
    config = {"prediction_type": "epsilon", **ZERO_SNR}
    with pytest.raises(ValueError, match="tiny predicts epsilon on a schedule of zero terminal SNR"):
        DiffusionSampler(config, name="ddim", model="tiny")


def test_learning_raises_a_closed_form_reward(tmp_path: Path):
    before, after = learned_rewards(tiny_model("v_prediction"), tmp_path, learning_rate=0.2)
    assert after > before + 0.005


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_learning_from_a_folder_and_using_the_file(tmp_path: Path, prediction_type: str):
    learn_by_command(partial(tiny_pipeline, prediction_type=prediction_type), tmp_path)
