"""A user's own reward: a Python callable, or `module:function` on the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fakes import Brightness
from safetensors.torch import load_file
from scorers import pictures
from short_runs import assert_same_state, quick, save_tiny_world, timeless
from torch import Tensor

from reneg.evaluation.runner import reward_fingerprint
from reneg.learning import learn
from reneg.rewards import load_reward
from reneg.rewards.own import OwnReward, as_reward

MODULE = """
import torch

def blue(images, prompts):
    return images[:, 2].mean((1, 2))

def alone(images):
    return images.mean((1, 2, 3))

class Scorer(torch.nn.Module):
    def forward(self, images, prompts):
        return images.mean((1, 2, 3))

scorer = Scorer()
number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_scores.py").write_text(MODULE)
    monkeypatch.delitem(__import__("sys").modules, "my_own_scores", raising=False)
    return tmp_path


def blue(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images[:, 2].mean((1, 2))


def test_module_and_function(here: Path):
    images = pictures(3)
    reward = load_reward("my_own_scores:blue")
    assert reward.name == "my_own_scores:blue"
    assert torch.equal(reward(images, [""] * 3), images[:, 2].mean((1, 2)))
    assert torch.equal(load_reward("my_own_scores:scorer")(images, [""] * 3), images.mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("my_own_scores:green", "module my_own_scores has no green; write MODULE:FUNCTION"),
        ("no_such_module_here:score", "No module named 'no_such_module_here'; install the module"),
        ("my_own_scores:alone", r"must take \(images, prompts\): too many positional"),
        ("my_own_scores:Scorer", "is a class; give a function"),
        ("my_own_scores:number", "is a int; give a function"),
    ],
)
def test_what_is_none_is_refused_in_one_line(here: Path, reward: str, message: str):
    with pytest.raises(ValueError, match=message) as error:
        load_reward(reward)
    assert "\n" not in str(error.value) and reward in str(error.value)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            lambda images, prompts: images.mean(),
            r"gave torch.float64 \[\]; it must give a float tensor of shape \[3\]",
        ),
        (lambda images, prompts: images.mean((2, 3)), r"gave torch.float64 \[3, 3\]"),
        (lambda images, prompts: [1.0, 2.0, 3.0], "gave list"),
        (lambda images, prompts: torch.arange(3), r"gave torch.int64 \[3\]"),
        (lambda images, prompts: images.detach().mean((1, 2, 3)), "gives no gradient"),
    ],
)
def test_scores_of_another_kind_are_refused(scores: Any, message: str):
    reward = OwnReward(scores, name="mine")
    with pytest.raises(ValueError, match=message):
        reward(pictures(3).requires_grad_(), [""] * 3)


def test_evaluation_tells_versions_and_functions_apart(here: Path):
    def fingerprint(function: str) -> str:
        return reward_fingerprint(f"my_own_scores:{function}", published=False)

    before = fingerprint("blue")
    assert fingerprint("blue") == before != fingerprint("scorer")
    (here / "my_own_scores.py").write_text(MODULE + "# changed")
    assert fingerprint("blue") != before


def test_a_reward_stays_itself():
    reward = Brightness()
    assert as_reward(reward) is reward
    assert as_reward(blue).name == f"{__name__}:blue"


@pytest.mark.slow
def test_learning_from_a_callable_and_from_its_name_is_one_run(
    tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    names = save_tiny_world(tmp_path / "world")
    short = {"max_train_steps": 2, "monitor": None}
    learned = [
        learn(quick(tmp_path / "callable", **(names | short)), reward=blue),
        learn(quick(tmp_path / "name", **(names | short | {"reward": "my_own_scores:blue"}))),
    ]
    files = [tmp_path / name / "negative_embedding.safetensors" for name in ("callable", "name")]
    assert_same_state(*(load_file(file) for file in files))
    assert timeless(tmp_path / "callable") == timeless(tmp_path / "name")
    assert learned[0].metadata["reward"] == f"{__name__}:blue"
    saved = yaml.safe_load((tmp_path / "callable" / "config.yaml").read_text())
    assert saved["reward"] == f"{__name__}:blue"  # not the setting that the callable stands in for
