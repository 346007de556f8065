"""Table 3 and Fig. 7: on two tiny generators with one text encoder and a third with another."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from fakes import PROMPTS
from tiny import save_tiny_reward, tiny_pipeline

from reneg.analysis import transfer
from reneg.analysis.config import TransferConfig
from reneg.analysis.transfer import Transfer, run_fig_7, run_table_3, win_rates
from reneg.models.sd import StableDiffusion
from reneg.targets.negative_embedding import NegativeEmbeddingTarget

QUICK = {"num_inference_steps": 3, "grad_step_range": (1, 2), "max_train_steps": 2, "train_batch_size": 2}
QUICK |= {"num_validation_prompts": 1, "validation_steps": 2, "checkpointing_steps": 2}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TransferConfig:
    monkeypatch.setattr("reneg.negatives.HANDCRAFTED_NEGATIVE_PROMPT", "ugly")  # the official one is too long here
    first, second, foreign = tiny_pipeline(), tiny_pipeline(prediction_type="v_prediction"), tiny_pipeline()
    with torch.no_grad():
        second.unet.conv_out.bias += 0.5
        for parameter in foreign.text_encoder.parameters():
            parameter *= 2
    for name, pipe in {"first": first, "second": second, "foreign": foreign}.items():
        pipe.save_pretrained(tmp_path / name)
    rewards = [str(save_tiny_reward(tmp_path / name, seed=seed)) for seed, name in enumerate(("reward", "watch"), 1)]
    monkeypatch.setattr(transfer, "preset", lambda model: QUICK)
    (tmp_path / "learn.txt").write_text("\n".join(PROMPTS))
    (tmp_path / "evaluate.txt").write_text("a fox\na tree\na house\n")
    for name, pipe in {"first": first, "foreign": foreign}.items():
        target = NegativeEmbeddingTarget(StableDiffusion(pipe, name=name))
        with torch.no_grad():
            target.negative_prompt_embeds.add_(0.3)
        target.artifact({}).save(tmp_path / f"{name}.safetensors")
    return TransferConfig(
        model=str(tmp_path / "first"),
        models=[str(tmp_path / name) for name in ("first", "second", "foreign")],
        learned=[f"{name}={tmp_path / name}.safetensors" for name in ("first", "foreign")],
        learning_prompts=tmp_path / "learn.txt",
        prompts=tmp_path / "evaluate.txt",
        num_inference_steps=2,
        num_seeds=1,
        rewards=rewards,
        reward=rewards[0],
        monitor=rewards[1],
        output_dir=tmp_path / "table3",
        stages_dir=tmp_path / "stages",
    )


@pytest.mark.slow
def test_both_experiments_from_the_same_pictures(config: TransferConfig, monkeypatch: pytest.MonkeyPatch):
    table = run_table_3(config)
    results = json.loads((table.parent / "results.json").read_text())
    generators = results["generators"]
    # What was learned on one is applied to all that share its text encoder, and to no other.
    assert {name: list(told["wins"]) for name, told in generators.items()} == {
        "first": ["on-first", "on-second"],
        "second": ["on-first", "on-second"],
        "foreign": ["on-foreign"],
    }
    learned = config.stages_dir / "second" / "learned"
    made = yaml.safe_load((learned / "config.yaml").read_text())
    assert made["model"].endswith("/second") and made["max_train_steps"] == 2
    assert not (config.stages_dir / "first" / "learned").exists()  # it was given

    monkeypatch.setattr(transfer, "evaluate", None)  # whatever would sample again fails
    figure = run_fig_7(replace(config, output_dir=config.output_dir.parent / "fig7"))
    against_null = json.loads((figure.parent / "results.json").read_text())
    assert (results["against"], against_null["against"]) == ("N-star", "null")
    for name, told in generators.items():
        evaluation = json.loads((config.stages_dir / name / "evaluation-evaluate" / "results.json").read_text())
        assert told["wins"] == win_rates(evaluation, "N-star") != win_rates(evaluation, "null")
        assert against_null["generators"][name]["wins"] == win_rates(evaluation, "null")
    assert (figure.parent / "wins.png").stat().st_size > 1000


def test_plan(config: TransferConfig):
    text = run_table_3(replace(config, dry_run=True, evaluations_per_second=1.0)).read_text()
    stages = {stage.name: stage for stage in Transfer(config).stages()}
    assert list(stages) == [
        "second/learning",
        "first/evaluating-evaluate",
        "second/evaluating-evaluate",
        "foreign/evaluating-evaluate",
    ]
    assert (
        stages["first/evaluating-evaluate"].evaluations == 3 * 1 * 5 * 2 * 2
    )  # prompts, noises, contenders, steps, branches
    assert all(name in text for name in stages)


def test_a_file_for_no_generator_is_refused(config: TransferConfig):
    with pytest.raises(ValueError, match="--learned: 'third' is none of --models; choose from first, second, foreign"):
        run_table_3(replace(config, learned=["third=x.safetensors"]))
    with pytest.raises(ValueError, match="two have the same name"):
        run_table_3(replace(config, models=[config.models[0], "elsewhere/first"]))
