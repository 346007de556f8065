"""DDPO's rounds: ratios, evaluations, a reward without a gradient that rises, processes, NaN, and resuming."""

import dataclasses
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from fakes import PROMPTS, Brightness, NoisyGaussianModel
from safetensors.torch import load_file
from short_runs import assert_same_state, last_state, save_tiny_world, timeless
from tiny import tiny_model

from reneg import trainer
from reneg.baselines.ddpo import DdpoTrainer, check_ddpo, run_ddpo
from reneg.baselines.policy_config import DdpoConfig
from reneg.processes import make_accelerator
from reneg.targets.weights_files import open_weights


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the page where a test does not ask for it."""
    monkeypatch.setattr(trainer, "write_learning_report", lambda *arguments: None)


def config(output_dir: Path, **changes: Any) -> DdpoConfig:
    quick = DdpoConfig(
        output_dir=output_dir,
        target="negative_embedding",
        num_inference_steps=5,
        guidance_scale=3.0,
        num_samples=8,
        updates_per_round=2,
        train_batch_size=3,
        noises_per_prompt=2,
        history_min_count=2,
        max_train_steps=4,
        learning_rate=0.02,
        checkpointing_steps=1,
        checkpoints_total_limit=9,
        validation_steps=2,
        num_validation_prompts=2,
    )
    return dataclasses.replace(quick, **changes)


class Steps:
    """Brightness in steps of a thousandth: its gradient is zero wherever there is one."""

    name = "steps"

    def __call__(self, images, prompts):
        assert not images.requires_grad
        return (images.mean((1, 2, 3)) * 1000).floor() / 1000


def make_trainer(settings: DdpoConfig, reward=None, model=None) -> DdpoTrainer:
    model, reward = model or NoisyGaussianModel(), reward or Steps()
    return DdpoTrainer(settings, model, reward, Brightness(), list(PROMPTS), make_accelerator(settings))


def test_a_reward_without_a_gradient_rises(tmp_path: Path):
    run = make_trainer(config(tmp_path, num_samples=32, train_batch_size=16, noises_per_prompt=8))
    rewards = [float(run._step(0.05)["reward_mean"]) for _ in range(15)]
    spread = NoisyGaussianModel.spread / 8 / math.sqrt(48)  # of a picture's brightness, about
    assert sum(rewards[-3:]) / 3 > rewards[0] + spread


def test_ratios_are_one_at_the_first_update_and_evaluations_are_counted(tmp_path: Path):
    settings = config(tmp_path, updates_per_round=1, timestep_fraction=0.6, max_train_steps=1)
    model = NoisyGaussianModel()
    run = make_trainer(settings, model=model)
    before = model.calls
    facts = run._step(0.01)
    assert facts["clip_fraction"] == facts["approx_kl"] == 0.0
    assert facts["forward_evaluations"] == model.calls - before == 2 * 8 * (5 + 3)
    assert facts["backward_evaluations"] == 8 * 3  # the negative branch alone


def test_later_updates_of_a_round_meet_other_ratios(tmp_path: Path):
    facts = make_trainer(config(tmp_path, num_inner_epochs=2, clip_range=1e-6))._step(0.05)
    assert 0 < float(facts["clip_fraction"]) <= 1
    assert float(facts["approx_kl"]) > 0


@pytest.mark.parametrize("size", [1, 3, 4])
def test_micro_batches_do_not_change_a_round(tmp_path: Path, size: int):
    run = make_trainer(config(tmp_path, train_batch_size=size))
    facts = run._step(0.02)
    other = make_trainer(config(tmp_path, train_batch_size=8))
    assert facts["reward_mean"] == other._step(0.02)["reward_mean"]
    for mine, theirs in zip(run.state.parameters, other.state.parameters, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


class OneOfTwo:
    """What a round asks of accelerate, in one of two processes that do not talk to each other."""

    num_processes = 2

    def __init__(self, process_index: int):
        self.process_index = process_index

    def gather(self, tensor):
        return tensor

    def reduce(self, tensor, how):
        return tensor


def test_two_processes_share_a_round_out(tmp_path: Path):
    """Samples, rewards, advantages and the mean of the gradients are those of one process."""
    run = make_trainer(config(tmp_path, train_batch_size=8))
    shares = [run._sample_share(share) for share in range(2)]
    rewards = [torch.cat([rollout.rewards for rollout in rollouts]) for rollouts in shares]
    advantages = run._advantages({}, rewards)
    run._surrogate_gradient(shares[1], advantages[1])
    wanted = [gradient.clone() for gradient in run.state.gradients()]
    mean = [torch.zeros_like(gradient) for gradient in wanted]
    for process in range(2):
        run.accelerator = cast(Any, OneOfTwo(process))
        mine = [run._sample_share(share) for share in range(2)]
        own = run._advantages({}, rewards)
        for share in range(2):
            part = slice(2 * process, 2 * process + 2)
            got = torch.cat([rollout.rewards for rollout in mine[share]])
            torch.testing.assert_close(got, rewards[share][part], rtol=0, atol=1e-12)
            torch.testing.assert_close(own[share], advantages[share][part], rtol=0, atol=1e-12)
        run.state.parameters[0].grad = None
        run._surrogate_gradient(mine[1], own[1])
        for total, gradient in zip(mean, run.state.gradients(), strict=True):
            total.add_(gradient / 2)
    for got, gradient in zip(mean, wanted, strict=True):
        torch.testing.assert_close(got, gradient, rtol=1e-9, atol=1e-15)
        assert gradient.abs().max() > 0


def test_a_resumed_run_is_bit_for_bit_an_uninterrupted_one(tmp_path: Path):
    whole = config(tmp_path / "whole")
    make_trainer(whole).run()
    parts = config(tmp_path / "parts")
    run = make_trainer(parts)
    run._start()
    run._begin()
    for _ in range(3):  # the third round is lost: no checkpoint is written after it
        run._update()
        run._look_at_start()
        if run.state.step < 3:
            run._save()
    make_trainer(dataclasses.replace(parts, resume_from_checkpoint="latest")).run()
    assert_same_state(last_state(tmp_path / "whole"), last_state(tmp_path / "parts"))
    rows = [row for row in timeless(tmp_path / "whole") if row["kind"] == "update"]
    assert rows == [row for row in timeless(tmp_path / "parts") if row["kind"] == "update"]


def test_nan_between_the_updates_of_a_round_leaves_no_checkpoint_of_half_a_round(tmp_path: Path):
    run = make_trainer(config(tmp_path, updates_per_round=2))
    run._start()
    run._begin()
    run._update()
    run._look_at_start()
    run._save()
    gradient, calls = run._surrogate_gradient, []

    def poisoned(rollouts, advantages):
        told = gradient(rollouts, advantages)
        calls.append(1)
        if len(calls) == 2:
            run.state.gradients()[0].fill_(torch.nan)
        return told

    run._surrogate_gradient = poisoned
    with pytest.raises(FloatingPointError, match="step 2: the gradient became NaN .* best state, of step 0"):
        run._update()
    assert [path.name for path in sorted(tmp_path.glob("checkpoint-*"))] == ["checkpoint-000001"]


def test_what_cannot_be_run_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="--updates_per_round 3: must divide --num_samples 8"):
        config(tmp_path, updates_per_round=3)
    for name, value in (("timestep_fraction", 0.0), ("eta", 0.0), ("clip_range", 0.0), ("advantage_clip", -1.0)):
        with pytest.raises(ValueError, match=f"--{name} {value}"):
            config(tmp_path, **{name: value})
    with pytest.raises(ValueError, match="--num_samples 8: 3 processes cannot share the 4"):
        check_ddpo(config(tmp_path), NoisyGaussianModel(), 3)
    flow = NoisyGaussianModel()
    flow.prediction_type = "flow_prediction"
    with pytest.raises(ValueError, match="--model gaussian predicts a flow"):
        check_ddpo(config(tmp_path), flow, 1)


def test_the_command_leaves_lora_that_diffusers_loads(tmp_path: Path):
    files = save_tiny_world(tmp_path)
    settings = config(tmp_path / "run", target="lora", lora_rank=2, max_train_steps=1, updates_per_round=1, **files)
    settings = dataclasses.replace(settings, num_samples=2, num_validation_prompts=1, num_inference_steps=2)
    file = run_ddpo(settings)
    weights = open_weights(file, tiny_model())
    assert weights is not None and weights.kind == "lora"
    looks = 2 * 2 * 2 * 2  # two, of two pictures
    assert weights.metadata["denoiser_evaluations"] == str(2 * 2 * (2 + 2) + looks)
    assert weights.metadata["denoiser_backward_evaluations"] == str(2 * 2 * 2)  # LoRA is in both branches
    last = load_file(file.with_stem(file.stem + "_last"))
    assert any(tensor.abs().max() > 0 for name, tensor in last.items() if "lora_B" in name)
