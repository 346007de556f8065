"""A learning step never makes the host wait for a GPU: run on torch's meta device, whose numbers cannot be read.

There every read of a value raises, `.item()`, `int()`, `bool()` and an index alike, as it would wait on a GPU. Copies
from the CPU go through, so a dispatch mode looks for those that would wait.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import PROMPTS
from short_runs import fake_learner, quick
from tiny import tiny_clip_reward
from tiny_families import FAMILIES, build
from torch.utils._python_dispatch import TorchDispatchMode

from reneg.algorithm import StepSettings
from reneg.estimators import ESTIMATORS
from reneg.interfaces import Conditioning, DiffusionModel, GradientPolicy
from reneg.models.base import LatentModel
from reneg.randomness import Streams
from reneg.rewards.clip import ClipReward

META = torch.device("meta")
STEPS = {"guidance_scale": 5.0, "num_inference_steps": 3, "grad_step_range": (1, 2), "gradient_steps": 2}


class Waiting(TorchDispatchMode):
    """Copies from the CPU to another device that the host would wait for."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source, asked = (args[0], kwargs.get("non_blocking")) if len(args) == 1 else (args[1], any(args[2:]))
            if not asked and source.device.type == "cpu" and result.device.type != "cpu":
                self.found.append(str(func))
        return result


class Learned:
    """One embedding for all prompts on the meta device, with the encodings of the prompts made before."""

    policy = GradientPolicy(positive=False, negative=True)

    def __init__(self, model: LatentModel):
        null, prompts = model.null_conditioning(), model.encode_prompt(PROMPTS[:2])
        self._prompts = prompts  # on the CPU, where encodings wait
        self.embeds = torch.nn.Parameter(null.prompt_embeds.to(META))
        tensors = null.to(META)
        self._null = Conditioning(self.embeds, tensors.pooled_prompt_embeds, tensors.prompt_attention_mask)

    def guidance_scale(self, configured: float) -> float:
        return configured

    def condition(self, model: DiffusionModel, prompts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        return self._prompts.to(META), self._null.expand(len(prompts))


def on_meta(family: str) -> tuple[LatentModel, Learned, ClipReward]:
    """A tiny model and reward without numbers, and what is learned with them."""
    model = build(family, torch.float32)
    learned, reward = Learned(model), tiny_clip_reward()
    for module in (model.denoiser, model.vae, reward.model):
        module.to(META)
    model.device = META
    return model, learned, reward


LEAN = {"vae_slicing": True, "trajectory_steps": 1}


@pytest.mark.parametrize(
    ("family", "estimator", "settings"),
    [(family, "late_steps", {}) for family in FAMILIES]
    + [("sd", "late_steps", LEAN), ("sd", "draft", {}), ("sd", "draft_lv", {})],
    ids=str,
)
def test_nothing_waits(family: str, estimator: str, settings: dict[str, Any]):
    model, learned, reward = on_meta(family)
    streams, count = Streams(0, 0, [0, 1]), 0
    with Waiting() as waiting:
        for output in ESTIMATORS[estimator](
            model, learned, reward, PROMPTS[:2], streams, StepSettings(**STEPS, **settings)
        ):
            output.loss.backward()
            count += 1
    assert not waiting.found
    assert count == (1 if estimator == "draft" else 2)
    assert learned.embeds.grad is not None and learned.embeds.grad.device == META


@pytest.mark.slow
def test_an_update_reads_nothing_before_its_last_backward_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = {"train_batch_size": 2, "gradient_accumulation_steps": 2, "num_inference_steps": 3}
    config = quick(tmp_path, grad_step_range=(1, 2), **settings)
    learner = fake_learner(config, model=build("sd", torch.float32), prompts=PROMPTS[:2])
    learner.model, learner.target, learner.reward = on_meta("sd")  # pyright: ignore[reportAttributeAccessIssue]
    told: list[torch.Tensor] = []

    def statistics(rewards: torch.Tensor) -> dict[str, float]:
        told.append(rewards)
        return {}

    monkeypatch.setattr("reneg.learning.reward_statistics", statistics)
    with Waiting() as waiting:
        learner._gradient()
    assert not waiting.found
    (rewards,) = told
    assert rewards.device == META and rewards.shape == (4,)


def test_the_modes_would_find_both():
    """What the tests above look for, on purpose."""
    with pytest.raises(RuntimeError, match="meta"):
        float(torch.zeros(1, device=META))
    with Waiting() as waiting:
        torch.zeros(2).to(META)
        torch.zeros(2).to(META, non_blocking=True)
    assert len(waiting.found) == 1
