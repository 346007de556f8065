"""Fig. 6: what is drawn, against diffusers' order of the branches; the statistics by hand; the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import Brightness
from tiny import save_tiny_reward, tiny_model, tiny_pipeline

from reneg.analysis.config import Fig6Config
from reneg.analysis.pseudo_prompts import ALONE, draw, run_fig_6, statistics
from reneg.generation import generate, picture_generators, picture_noise
from reneg.negative import NegativeEmbedding
from reneg.targets.negative_embedding import NegativeEmbeddingTarget

CONFIG = Fig6Config(num_noises=3, num_inference_steps=3, batch_size=2, guidance_scale=4.0)


def test_a_text_is_drawn_as_a_prompt_is():
    model = tiny_model(torch.float64)
    drawn = draw(model, model.encode_prompt(["a cat"]), 4.0, CONFIG)
    noise = picture_noise(model, picture_generators(CONFIG.seed, 0, 3))
    sampling = {"guidance_scale": 4.0, "num_inference_steps": 3}
    torch.testing.assert_close(drawn, generate(model, ["a cat"] * 3, model.null_conditioning(), noise, **sampling))


def test_guidance_changes_the_null_text_in_nothing_and_others_much():
    model = tiny_model(torch.float64)
    null, cat = model.null_conditioning(), model.encode_prompt(["a cat"])
    torch.testing.assert_close(draw(model, null, ALONE, CONFIG), draw(model, null, 4.0, CONFIG))
    assert (draw(model, cat, ALONE, CONFIG) - draw(model, cat, 4.0, CONFIG)).abs().max() > 1e-4


def test_statistics_by_hand():
    images = torch.zeros(2, 3, 4, 4)
    images[0, 0] = 0.6  # plain red
    images[1, :, :, ::2] = 1.0  # white stripes
    found = statistics(images, Brightness())
    np.testing.assert_allclose(found["saturation"], [1, 0])
    np.testing.assert_allclose(found["brightness"], [0.2, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found["contrast"], [0, 0.5], atol=1e-6)
    np.testing.assert_allclose(found["edges"], [0, 0.5], atol=1e-6)
    np.testing.assert_allclose(found["clipped"], [2 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(found["brightness"], found[Brightness.name], rtol=1e-6)


def test_command_on_the_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reneg.negatives.HANDCRAFTED_NEGATIVE_PROMPT", "ugly")  # the official one is too long here
    tiny_pipeline().save_pretrained(tmp_path / "model")
    target = NegativeEmbeddingTarget(tiny_model())
    with torch.no_grad():
        target.negative_prompt_embeds.add_(0.3)
    learned = target.artifact({})
    assert isinstance(learned, NegativeEmbedding)
    learned.save(tmp_path / "learned.safetensors")
    config = Fig6Config(
        model=str(tmp_path / "model"),
        negative=str(tmp_path / "learned.safetensors"),
        reward=str(save_tiny_reward(tmp_path / "reward")),
        num_noises=3,
        num_inference_steps=2,
        output_dir=tmp_path / "fig6",
    )
    table = run_fig_6(config)
    rows = json.loads((table.parent / "results.json").read_text())["rows"]
    assert list(rows) == ["null", "N*", "learned", "N*, guidance 7.5", "learned, guidance 7.5"]
    assert (table.parent / "fig6.png").stat().st_size > 1000
    assert "learned, guidance 7.5" in table.read_text()
