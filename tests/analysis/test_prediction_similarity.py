"""Fig. 3: against the method's own one-step prediction, the closed form, and a resumed run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import PROMPTS, GaussianModel
from tiny import tiny_model, tiny_pipeline

from reneg.algorithm import denoise, one_step_x0
from reneg.analysis.config import Fig3Config
from reneg.analysis.prediction_similarity import measure, predictions_along, run_fig_3, similarities, summarise
from reneg.evaluation.store import Shards
from reneg.generation import generate, picture_generators, picture_noise
from reneg.interfaces import GradientPolicy

SAMPLING = {"guidance_scale": 5.0, "num_inference_steps": 4}


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_predictions_are_those_that_the_method_makes(scheduler: str):
    model, prompts = tiny_model(torch.float64, scheduler=scheduler), PROMPTS[:2]
    positive, null = model.encode_prompt(prompts), model.null_conditioning().expand(2)
    generators = picture_generators(0, 0, 2)
    noise = picture_noise(model, generators)
    predictions, final = predictions_along(model, positive, null, noise, generators, **SAMPLING)
    for step in range(4):
        generators = picture_generators(0, 0, 2)
        latents = model.initial_latents(picture_noise(model, generators))
        timesteps = model.set_timesteps(4)
        latents = denoise(model, latents, timesteps[:step], positive, null, 5.0, generators)
        policy = GradientPolicy(positive=False, negative=False)
        x0, _ = one_step_x0(model, latents, timesteps[step], positive, null, 5.0, policy)
        torch.testing.assert_close(predictions[step], x0, rtol=1e-8, atol=1e-8)
    generators = picture_generators(0, 0, 2)
    null_of_one, noise = model.null_conditioning(), picture_noise(model, generators)
    pictures = generate(model, prompts, null_of_one, noise, generators=generators, **SAMPLING)
    torch.testing.assert_close(model.decode(final).clamp(0, 1), pictures)


def test_similarity_by_hand():
    model = GaussianModel()
    final = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    final[:, 0] = 1.0
    turned = torch.zeros_like(final)
    turned[:, 1] = 1.0
    found = similarities(model, torch.stack([final, 2 * final, turned]), final)
    assert found[:, 0].tolist() == pytest.approx(np.array([[1, 1, 0]] * 2))
    # One of three channels differs by 1/8 after decoding; for the turned one two do.
    assert found[:, 1].tolist() == pytest.approx(np.array([[0, 1 / 192, 2 / 192]] * 2))


def test_the_last_prediction_of_ddim_is_the_picture():
    """The Gaussian model's last step goes to t = 0, where x_0 is x0."""
    model, generators = GaussianModel(), picture_generators(0, 0, 2)
    null = model.null_conditioning().expand(2)
    noise = picture_noise(model, generators)
    positive = model.encode_prompt(PROMPTS[:2])
    predictions, final = predictions_along(model, positive, null, noise, generators, **SAMPLING)
    cosine, error = similarities(model, predictions, final).mean(0)
    assert cosine[-1] == pytest.approx(1) and error[-1] == pytest.approx(0, abs=1e-12)
    assert (error.diff() < 0).all()  # and it comes nearer at every step


def test_batches_and_restarts_change_nothing(tmp_path: Path):
    config = replace(Fig3Config(num_prompts=5), batch_size=5, **SAMPLING)
    model = GaussianModel()
    whole = measure(model, PROMPTS[:5], config, Shards(tmp_path / "whole", 5))
    parts = Shards(tmp_path / "parts", 5)
    parts.write(2, whole[2:3])
    before = model.calls
    found = measure(model, PROMPTS[:5], replace(config, batch_size=2), parts)
    assert model.calls - before == 4 * 2 * 4  # the four that were missing
    np.testing.assert_allclose(found, whole, rtol=1e-12, atol=1e-15)


def test_difference_is_paired():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(20, 2, 3))
    curves = summarise({"ddim": base + 0.1, "ddpm": base})
    point = curves["difference"]["latent cosine"][0]
    assert (point["mean"], point["low"], point["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert curves["ddim"]["latent cosine"][0]["low"] < base[:, 0, 0].mean()


def test_command_on_the_tiny_model(tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    config = Fig3Config(
        model=str(tmp_path / "model"),
        prompts=tmp_path / "prompts.txt",
        num_prompts=4,
        num_inference_steps=3,
        output_dir=tmp_path / "fig3",
    )
    table = run_fig_3(config)
    assert table.read_text().count("\n| ") == 2 + 3
    names = {path.name for path in table.parent.iterdir()}
    assert names == {"results.json", "table.md", "report.html", "fig3.png", "samples"}
    assert len(list((table.parent / "samples").iterdir())) == 2
    with pytest.raises(ValueError, match="--scheduler ddpm: the experiment runs both"):
        run_fig_3(replace(config, scheduler="ddpm"))
    with pytest.raises(ValueError, match="--num_prompts 40: there are only 7"):
        run_fig_3(replace(config, num_prompts=40))
