"""DNP: opposite pictures against the closed form, captions as negatives, any batch size, resumed."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from fakes import GaussianModel
from PIL import Image
from tiny import tiny_pipeline

import reneg.baselines.dnp as dnp
from reneg.baselines.config import DnpConfig
from reneg.baselines.dnp import find_negatives, run_dnp, sample_opposites
from reneg.baselines.store import PromptRows
from reneg.randomness import make_generator

PROMPTS = ["a cat", "a red house", "two dogs", "the sea", "a cat"]


def brightness_in_words(images: torch.Tensor) -> list[str]:
    """A captioner whose words are numbers."""
    return [f"{float(image.mean()):.9f}" for image in images]


def config(output_dir: Path, **changes) -> DnpConfig:
    quick = DnpConfig(model="gaussian", num_inference_steps=6, guidance_scale=3.0, output_dir=output_dir, batch_size=2)
    return dataclasses.replace(quick, **changes)


def test_opposites_are_guided_away_from_the_prompt(tmp_path: Path):
    """With null + s (null - prompt), step by step in closed form, s = guidance_scale - 1."""
    model, settings = GaussianModel(), config(tmp_path)
    images = sample_opposites(model, ["a cat"], settings)
    null, prompt = model.encode_prompt([""]), model.encode_prompt(["a cat"])
    latents = torch.randn(model.latent_shape, generator=make_generator(0, "dnp a cat", 0))[None].double()
    for timestep in model.set_timesteps(6):
        of_null = model.predict(latents, timestep, null)
        away = of_null + 2.0 * (of_null - model.predict(latents, timestep, prompt))
        latents = model.step(away, timestep, latents, [])
    torch.testing.assert_close(images, model.decode(latents).clamp(0, 1), rtol=0, atol=1e-7)
    # The opposite lies beyond the null text's pictures, on the side away from the prompt's.
    toward = (model.mean(prompt) - model.mean(null)).flatten()
    assert float((latents - model.mean(null)).flatten() @ toward) < 0


def test_every_prompt_gets_its_caption_whatever_the_batch_size_and_the_evaluations_are_counted(tmp_path: Path):
    files = []
    for batch_size in (1, 3, 8):
        settings, model = config(tmp_path / str(batch_size), batch_size=batch_size), GaussianModel()
        store = PromptRows(settings, {})
        find_negatives(model, brightness_in_words, PROMPTS, settings, store)
        files.append(store.file.read_text())
        assert model.calls == sum(int(row["denoiser_evaluations"]) for row in store.rows.values()) == 4 * 2 * 6
    assert files[0] == files[1] == files[2]
    rows = [json.loads(line) for line in files[0].splitlines()]
    assert [row["prompt"] for row in rows] == PROMPTS[:4]
    for row in rows:
        image = Image.open(tmp_path / "1" / row["opposite"])
        assert image.size == (8, 8)
        pixels = torch.tensor(list(image.tobytes())).double().mean() / 255
        assert float(row["negative"]) == pytest.approx(float(pixels), abs=0.003)


def test_an_interrupted_run_makes_only_what_is_missing(tmp_path: Path):
    whole, parts = config(tmp_path / "whole"), config(tmp_path / "parts")
    find_negatives(GaussianModel(), brightness_in_words, PROMPTS, whole, PromptRows(whole, {}))
    find_negatives(GaussianModel(), brightness_in_words, PROMPTS[:2], parts, PromptRows(parts, {}))
    model = GaussianModel()
    find_negatives(model, brightness_in_words, PROMPTS, parts, PromptRows(parts, {}))
    assert model.calls == 2 * 2 * 6
    assert (tmp_path / "whole" / "negatives.jsonl").read_text() == (tmp_path / "parts" / "negatives.jsonl").read_text()


def test_other_weights_are_other_settings(tmp_path: Path):
    PromptRows(config(tmp_path), {"model": "one"})
    with pytest.raises(ValueError, match="--output_dir .* was made with fingerprints"):
        PromptRows(config(tmp_path), {"model": "two"})


def test_the_command_runs_on_a_folder_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    asked = []

    def load(name: str, *, device: str):
        asked.append(name)
        return lambda images: ["c"] * len(images)

    monkeypatch.setattr(dnp, "load_captioner", load)
    settings = config(
        tmp_path / "out", model=str(tmp_path / "model"), prompts=tmp_path / "prompts.txt", captioner="mine/blip"
    )
    rows = [json.loads(line) for line in run_dnp(settings).read_text().splitlines()]
    assert [(row["prompt"], row["negative"]) for row in rows] == [("a", "c"), ("b", "c")]
    assert asked == ["mine/blip"]
    told = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert told["captioner"] == told["fingerprints"]["captioner"] == "mine/blip"
