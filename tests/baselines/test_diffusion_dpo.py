"""Diffusion-DPO: the loss against a literal transcription and finite differences, pairs, learning, resuming."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import PROMPTS, Brightness, NoisyGaussianModel
from PIL import Image
from short_runs import assert_same_state, last_state, save_tiny_world, timeless
from tiny import tiny_clip_reward, tiny_model

from reneg import trainer
from reneg.baselines.diffusion_dpo import (
    DiffusionDpoTrainer,
    denoising_errors,
    dpo_loss,
    dpo_margins,
    run_diffusion_dpo,
)
from reneg.baselines.pairs import PairStore, encode_pictures, make_pairs, own_pairs, picture_pairs, read_pairs
from reneg.baselines.policy_config import DiffusionDpoConfig
from reneg.processes import make_accelerator
from reneg.targets.weights_files import open_weights


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the page."""
    monkeypatch.setattr(trainer, "write_learning_report", lambda *arguments: None)


def config(output_dir: Path, **changes: Any) -> DiffusionDpoConfig:
    quick = DiffusionDpoConfig(
        output_dir=output_dir,
        lora_rank=2,
        num_inference_steps=2,
        num_pairs=6,
        pictures_per_pair=2,
        train_batch_size=2,
        gradient_accumulation_steps=2,
        max_train_steps=3,
        learning_rate=0.01,
        lr_warmup_steps=1,
        checkpointing_steps=1,
        checkpoints_total_limit=9,
        validation_steps=3,
        num_validation_prompts=1,
    )
    return dataclasses.replace(quick, **changes)


def make_trainer(settings: DiffusionDpoConfig, dtype: torch.dtype = torch.float64) -> DiffusionDpoTrainer:
    model, reward = tiny_model(dtype), tiny_clip_reward(dtype)
    run = DiffusionDpoTrainer(settings, model, reward, reward, list(PROMPTS), make_accelerator(settings))
    pairs, evaluations = own_pairs(tiny_model(), tiny_clip_reward(), PROMPTS, settings)
    run.learn_from(pairs, evaluations, 1000)
    return run


def test_the_loss_is_the_papers_sample_by_sample():
    """Eq. 14, transcribed with scalars, errors as means and beta halved as in the authors' code."""
    generator = torch.Generator().manual_seed(0)
    errors, reference = torch.rand(2, 2, 6, generator=generator, dtype=torch.float64)
    beta, total = 7.0, 0.0
    for n in range(6):
        w, ref_w = float(errors[0, n]), float(reference[0, n])
        l, ref_l = float(errors[1, n]), float(reference[1, n])  # noqa: E741 - the paper's letter
        inside = -beta / 2 * ((w - ref_w) - (l - ref_l))
        total += -math.log(1 / (1 + math.exp(-inside)))
    loss = dpo_loss(dpo_margins(errors, reference, beta))
    assert float(loss) == pytest.approx(total / 6, abs=1e-14)
    assert float(dpo_loss(dpo_margins(reference, reference, beta))) == pytest.approx(math.log(2), abs=1e-15)


def test_errors_are_those_of_one_noise_and_one_timestep():
    model, generator = NoisyGaussianModel(), torch.Generator().manual_seed(1)
    pairs = torch.randn(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    positive, timestep = model.encode_prompt(["a", "b"]), torch.tensor(300)
    errors = denoising_errors(model, positive, pairs, noise, timestep)
    alpha, sigma = model.alpha_sigma(timestep)
    for pair in range(2):
        own = model.encode_prompt([["a", "b"][pair]])
        for place in range(2):
            noisy = alpha * pairs[pair, place] + sigma * noise[pair]
            wanted = (model.predict(noisy[None], timestep, own)[0] - noise[pair]).square().mean()
            assert float(errors[place, pair]) == pytest.approx(float(wanted), abs=1e-12)


def test_the_gradient_is_the_finite_difference_of_the_loss(tmp_path: Path):
    settings = config(
        tmp_path, train_batch_size=4, gradient_accumulation_steps=1, beta=300.0, proportion_empty_prompts=0.0
    )
    run = make_trainer(settings)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # away from the start, where the reference is another than the model
        for parameter in run.state.parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in run.state.parameters]

    def loss(step: float) -> float:
        values = [p.detach() + step * d for p, d in zip(run.state.parameters, directions, strict=True)]
        with run.state.holding(values):
            return float(dpo_loss(run._gradient([0, 1, 2, 3])[0]))

    assert loss(0.0) != pytest.approx(math.log(2), abs=1e-6)
    numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5
    for parameter in run.state.parameters:
        parameter.grad = None
    run._gradient([0, 1, 2, 3])
    pairs = zip(run.state.parameters, directions, strict=True)
    along = sum(float((p.grad * d).sum()) for p, d in pairs if p.grad is not None)
    assert along == pytest.approx(numeric, rel=1e-4)


def test_it_starts_at_log_two_and_the_reference_stays(tmp_path: Path):
    run = make_trainer(config(tmp_path))
    initial = [tensor.clone() for tensor in run.state.initial]
    facts = run._step(0.01)
    assert facts["loss"] == pytest.approx(math.log(2), abs=1e-12)
    assert facts["margin"] == pytest.approx(0.0, abs=1e-9)
    assert (facts["forward_evaluations"], facts["backward_evaluations"]) == (4 * 4, 2 * 4)
    for before, after in zip(initial, run.state.initial, strict=True):
        assert torch.equal(before, after)


@pytest.mark.slow
def test_chosen_pictures_are_told_apart_better_and_better(tmp_path: Path):
    """Over the learned pairs at fixed noises, errors fall for the chosen relative to the rejected pictures."""
    settings = config(tmp_path, beta=2000.0, proportion_empty_prompts=0.0, train_batch_size=6)
    run = make_trainer(settings, torch.float32)
    told = [run._step(0.02) for _ in range(12)]
    assert float(told[0]["margin"]) == pytest.approx(0.0, abs=1e-3)
    assert sum(float(facts["margin"]) for facts in told[-4:]) / 4 > 0.05
    assert sum(float(facts["loss"]) for facts in told[-4:]) / 4 < math.log(2)


def test_pairs_are_the_best_and_the_worst_and_do_not_depend_on_what_is_made_with_them(tmp_path: Path):
    model, reward, settings = NoisyGaussianModel(), Brightness(), config(tmp_path, pictures_per_pair=3)
    before = model.calls
    pairs, rewards = make_pairs(model, reward, list(PROMPTS), range(0, 3), settings)
    assert model.calls - before == 2 * 2 * 3 * 3
    again, _ = make_pairs(model, reward, list(PROMPTS), range(1, 3), settings)
    torch.testing.assert_close(pairs[1:], again, rtol=0, atol=1e-12)
    for pair, (best, worst) in zip(pairs, rewards, strict=True):
        assert best > worst
        scores = reward(model.decode(pair).clamp(0, 1), [""] * 2)
        assert scores.tolist() == pytest.approx([best, worst])


def test_pairs_that_are_there_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = config(tmp_path, model="gaussian", num_pairs=20)
    store, evaluations = own_pairs(NoisyGaussianModel(), Brightness(), PROMPTS, settings)
    assert evaluations == 2 * 2 * 2 * 20
    store.file(8).unlink()
    kept = store.file(0).read_bytes()
    model = NoisyGaussianModel()
    again, _ = own_pairs(model, Brightness(), PROMPTS, settings)
    assert model.calls == 2 * 2 * 2 * 8
    assert store.file(0).read_bytes() == kept
    assert again.read([3, 11, 19]).shape == (3, 2, 3, 4, 4)
    chosen, rejected = again.mean_rewards()
    assert chosen > rejected
    with pytest.raises(ValueError, match="was made with pictures_per_pair 2, and not 4"):
        own_pairs(model, Brightness(), PROMPTS, dataclasses.replace(settings, pictures_per_pair=4))


def write_pictures(folder: Path, count: int) -> Path:
    """A --pairs file and its pictures: grey against white, of another size than the model's."""
    lines = []
    for number in range(count):
        Image.new("RGB", (20, 24), (100, 110, 120)).save(folder / f"{number}-chosen.png")
        Image.new("RGB", (20, 24), (255, 255, 255)).save(folder / f"{number}-rejected.png")
        row = {"prompt": f"p{number}", "chosen": f"{number}-chosen.png", "rejected": f"{number}-rejected.png"}
        lines.append(json.dumps(row))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "pairs.jsonl"


def test_picture_files_are_what_the_vae_encodes(tmp_path: Path):
    pictures = read_pairs(write_pictures(tmp_path, 3))
    model = tiny_model()
    store = picture_pairs(model, pictures, config(tmp_path / "run"))
    latents = store.read([2])[0]
    pixels = torch.tensor([100, 110, 120]).view(1, 3, 1, 1).expand(1, 3, 16, 16) / 255 * 2 - 1
    wanted = model.vae.encode(pixels).latent_dist.mode() * model.vae.config.scaling_factor
    torch.testing.assert_close(latents[:1], wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(encode_pictures(model, [pictures[2].rejected]), latents[1:], rtol=0, atol=1e-5)


def test_bad_pairs_are_refused_in_one_line(tmp_path: Path):
    file = write_pictures(tmp_path, 2)
    good = file.read_text()
    for text, message in (
        ("", "holds no pair"),
        ("no json\n", "line 1: must be a JSON object"),
        (good + '{"prompt": "a"}\n', "line 3: must be a JSON object"),
        (good + '{"prompt": "a", "chosen": "x.png", "rejected": "y.png"}\n', "line 3: there is no .*x.png"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_pairs(file)
    (tmp_path / "0-chosen.png").write_text("no picture")
    with pytest.raises(ValueError, match="--pairs: .*0-chosen.png is no picture"):
        encode_pictures(tiny_model(), [tmp_path / "0-chosen.png"])
    with pytest.raises(ValueError, match="--target negative_embedding"):
        config(tmp_path, target="negative_embedding")
    with pytest.raises(ValueError, match="--pictures_per_pair 1"):
        config(tmp_path, pictures_per_pair=1)


@pytest.mark.slow
def test_a_resumed_run_is_bit_for_bit_an_uninterrupted_one(tmp_path: Path):
    make_trainer(config(tmp_path / "whole"), torch.float32).run()
    parts = config(tmp_path / "parts")
    run = make_trainer(parts, torch.float32)
    run._start()
    run._begin()
    for _ in range(2):  # the second step is lost
        run._update()
        run._look_at_start()
        if run.state.step < 2:
            run._save()
    make_trainer(dataclasses.replace(parts, resume_from_checkpoint="latest"), torch.float32).run()
    assert_same_state(last_state(tmp_path / "whole"), last_state(tmp_path / "parts"))
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")


@pytest.mark.parametrize("own", [True, False])
def test_the_command_leaves_lora_that_diffusers_loads(tmp_path: Path, own: bool):
    files = save_tiny_world(tmp_path)
    pairs = None if own else write_pictures(tmp_path, 3)
    file = run_diffusion_dpo(config(tmp_path / "run", max_train_steps=1, pairs=pairs, **files))
    weights = open_weights(file, tiny_model())
    assert weights is not None and weights.kind == "lora"
    made = 2 * 2 * 2 * 6 if own else 0
    looks = 2 * 2 * 2 * 2  # two, of two pictures
    assert weights.metadata["denoiser_evaluations"] == str(made + 4 * 4 + looks)
    assert weights.metadata["denoiser_backward_evaluations"] == str(2 * 4)
    assert PairStore(tmp_path / "run" / "pairs", ["a"]).missing() == []
