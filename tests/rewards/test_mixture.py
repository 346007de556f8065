"""A mixture is the hand-made weighted sum of normalised parts, in learning, log, checkpoints and gradient."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import pstdev

import pytest
import torch
import yaml
from fakes import PROMPTS, Brightness, Tone
from scorers import cosine_reward, pictures
from short_runs import assert_same_run, fake_learner, quick, save_tiny_world, timeless
from tiny import tiny_clip_reward
from torch import Tensor

from reneg.cli import parse
from reneg.config import LearnConfig
from reneg.learning import learn
from reneg.rewards import load_mixture
from reneg.rewards.mixture import Mixture, parse_weight

KEYS = ("reward/tone", "reward/brightness")


class StopAfter:
    """A reward that ends the run at one of its calls."""

    name = "tone"

    def __init__(self, calls: int):
        self.left = calls

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return Tone()(images, prompts)


def fakes() -> Mixture:
    return Mixture([Tone(), Brightness()], [1.0, 0.05])


def test_is_the_hand_made_sum(prove):
    clip, cosine = tiny_clip_reward(torch.float64), cosine_reward()
    images, prompts = pictures(6), PROMPTS[:6]
    mixture = Mixture([clip, cosine], [1.0, -0.3])
    with pytest.raises(ValueError, match="has no scales yet"):
        mixture(images, prompts)
    parts = {key: scores.tolist() for key, scores in mixture.parts(images, prompts).items()}
    mixture.fit(parts)
    one, two = clip(images, prompts), cosine(images, prompts)
    assert list(parts) == ["reward/tiny clip 1", "reward/tiny"]
    expected = one / one.std(correction=0) - 0.3 * two / two.std(correction=0)
    difference = float((mixture(images, prompts) - expected).abs().max())
    assert difference < 1e-12
    prove("a mixture", "score", "the hand-made sum of normalised parts", difference)
    taken = mixture.take()
    assert torch.equal(taken["reward/tiny clip 1"], one) and not taken["reward/tiny"].requires_grad


def test_gradient_is_that_of_the_hand_made_sum_and_of_finite_differences(prove):
    images, prompts = pictures(4), PROMPTS[:4]
    mixture = Mixture([tiny_clip_reward(torch.float64), Brightness()], [1.0, 0.2])
    mixture.fit({key: scores.tolist() for key, scores in mixture.parts(images, prompts).items()})
    pixels = images.clone().requires_grad_()
    mixture(pixels, prompts).sum().backward()
    assert pixels.grad is not None
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=images.dtype)
    near = [mixture(images + n * 1e-3 * direction, prompts).sum() for n in (-2, -1, 1, 2)]
    slope = (near[0] - 8 * near[1] + 8 * near[2] - near[3]) / 12e-3
    exact = (pixels.grad * direction).sum()
    difference = float(((slope - exact) / exact).abs())
    assert difference < 1e-6
    prove("a mixture", "gradient to the pixels", "finite differences in float64 (relative)", difference)
    by_hand = []
    for reward, key in zip((tiny_clip_reward(torch.float64), Brightness()), mixture.weights, strict=True):
        own = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(reward(own, prompts).sum(), own)
        by_hand.append(mixture.weights[key] / mixture.scales[key] * gradient)
    torch.testing.assert_close(pixels.grad, by_hand[0] + by_hand[1], rtol=1e-12, atol=1e-14)


def test_learning_normalises_by_the_first_look_and_logs_each_part(tmp_path: Path):
    mixture = fakes()
    learner = fake_learner(quick(tmp_path, validation_steps=4), reward=mixture)
    learner.run()
    negative = learner.model.null_conditioning()
    parts = [learner.monitor.measure(negative, batch) for batch in learner.monitor.batches]
    assert mixture.scales == {key: pstdev([v for part in parts for v in part.scores[key]]) for key in KEYS}
    rows = timeless(tmp_path)
    assert [(row["kind"], row["step"]) for row in rows[:2]] == [("validation", 0), ("update", 1)]  # scales come first
    for row in rows:
        total = row["reward" if row["kind"] == "validation" else "reward_mean"]
        tone, brightness = (float(row[key]) / mixture.scales[key] for key in KEYS)
        assert total == pytest.approx(tone + 0.05 * brightness, rel=1e-9)
    state = json.loads((tmp_path / "checkpoint-000008" / "state.json").read_text())
    assert state["reward_scales"] == mixture.scales
    report = (tmp_path / "report.html").read_text()
    assert "Part of the reward: tone" in report and "Part of the reward: brightness" in report


def test_resumed_equals_uninterrupted_at_every_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reneg.trainer.write_learning_report", lambda *arguments: None)
    fake_learner(quick(tmp_path / "whole"), reward=fakes()).run()
    for stop in (1, 4, 7):
        folder = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            fake_learner(quick(folder), reward=Mixture([StopAfter(stop), Brightness()], [1.0, 0.05])).run()
        fake_learner(quick(folder, resume_from_checkpoint="latest"), reward=fakes()).run()
        assert_same_run(tmp_path / "whole", folder)


def test_shares_of_processes_give_the_same_scales(tmp_path: Path):
    learner = fake_learner(quick(tmp_path, num_validation_prompts=7), reward=fakes())
    negative = learner.model.null_conditioning()
    parts = [learner.monitor.measure(negative, batch) for batch in (range(0, 4), range(4, 6), range(6, 14))]
    scales = []
    for order in (parts, parts[::-1]):
        mixture = learner.reward
        assert isinstance(mixture, Mixture)
        mixture.scales = {}
        learner.monitor.sum_up(order)
        scales.append(mixture.scales)
    assert scales[0] == scales[1]


def test_a_part_without_spread_is_refused(tmp_path: Path):
    class Constant(Brightness):
        name = "constant"

        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return images.mean((1, 2, 3)) * 0

    with pytest.raises(ValueError, match="--reward constant gives all pictures of the first look one score"):
        fake_learner(quick(tmp_path), reward=Mixture([Tone(), Constant()], [1.0, 1.0])).run()


def test_bad_mixtures_are_refused_in_one_line():
    for entries, message in {
        ("world/monitor=1", "world/monitor=2"): "--reward world/monitor is given twice",
        ("world/monitor=0",): "--reward world/monitor=0.0: the weight must be a number other than 0",
        ("world/monitor=nan",): "the weight must be a number other than 0",
        ("world/monitor", "beauty=1"): "reward 'beauty' is unknown",
        (): "--reward: give at least one",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            load_mixture(entries)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "parsed"),
    [
        ("hpsv2.1=1.0", ("hpsv2.1", 1.0)),
        ("pickscore", ("pickscore", None)),
        ("models/a=b", ("models/a=b", None)),
        ("models/a=b=-2e-1", ("models/a=b", -0.2)),
        ("mine:score=3", ("mine:score", 3.0)),
    ],
)
def test_weights(entry: str, parsed: tuple[str, float | None]):
    assert parse_weight(entry) == parsed


def test_one_reward_keeps_its_units_and_one_with_a_weight_is_a_mixture():
    assert load_mixture("world/monitor").name == load_mixture(["world/monitor"]).name == "world/monitor"
    mixture = load_mixture("world/monitor=2")
    assert isinstance(mixture, Mixture) and mixture.weights == {"reward/world/monitor": 2.0}
    assert mixture.name == "world/monitor=2"


def parsed_reward(*arguments: str) -> list[str] | str:
    _, config = parse(["learn", *arguments])
    assert isinstance(config, LearnConfig)
    return config.reward


def test_the_flag_repeats_and_yaml_has_a_text_or_a_list(tmp_path: Path):
    assert parsed_reward() == "world/preference"
    assert parsed_reward("--reward", "a=1.0") == "a=1.0"
    assert parsed_reward("--reward", "a=1.0", "--seed", "3", "--reward=b:c=2") == ["a=1.0", "b:c=2"]
    for given in ("x/y", ["x/y=1.0", "z"]):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"reward": given}))
        assert parsed_reward("--config", str(path)) == given
        assert parsed_reward("--config", str(path), "--reward", "w") == "w"


def test_learns_from_files(tmp_path: Path):
    names = save_tiny_world(tmp_path / "world")
    rewards = [f"{names['reward']}=1.0", f"{names['monitor']}=0.05"]
    config = quick(tmp_path / "run", max_train_steps=2, **(names | {"reward": rewards, "monitor": None}))
    negative = learn(config)
    assert negative.metadata["reward"] == f"{names['reward']}=1 + {names['monitor']}=0.05"
    assert f"reward/{names['reward']}_before" in negative.metadata
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["reward"] == rewards
