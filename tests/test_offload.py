"""Text encoders that are let go, and what waits on the CPU: who is where, and that nothing else changes."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import PROMPTS
from short_runs import assert_same_run, fake_learner, quick, save_tiny_world
from tiny import encoded_texts, tiny_clip_reward, tiny_model
from tiny_sd3 import tiny_sd3

from reneg.interfaces import ModuleReward
from reneg.learning import learn
from reneg.models.sd3 import StableDiffusion3
from reneg.offload import Offload
from reneg.rewards.mixture import Mixture
from reneg.rewards.own import OwnReward

GPU = torch.device("cuda")
BRIEF = {"max_train_steps": 2, "checkpointing_steps": 1, "validation_steps": 1, "train_batch_size": 2}


class Part(torch.nn.Module):
    """Remembers where it was moved."""

    def __init__(self, log: list[tuple[str, str]], name: str):
        super().__init__()
        self.log, self.name = log, name

    def to(self, device: Any) -> "Part":
        self.log.append((self.name, torch.device(device).type))
        return self


class Mean(torch.nn.Module):
    """A user's own module."""

    def forward(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return images.mean((1, 2, 3))


def test_the_rest_leaves_before_what_is_needed_comes():
    log: list[tuple[str, str]] = []
    a, b, c = (Part(log, name) for name in "abc")
    offload = Offload({"one": lambda: [a, b], "two": lambda: [c], "three": lambda: [b]}, GPU)
    offload.only("one")
    assert log == [("c", "cpu"), ("a", "cuda"), ("b", "cuda")]  # b is needed, so it does not go for being in three
    log.clear()
    offload.only("two")
    assert log == [("a", "cpu"), ("b", "cpu"), ("b", "cpu"), ("c", "cuda")]


def test_what_was_let_go_is_not_held():
    """Neither by the model nor by what moves its parts."""
    model, reward = tiny_model(), tiny_clip_reward()
    encoder = weakref.ref(model.text_encoder)
    before = model.encode_prompt([PROMPTS[1]])
    model.encode_ahead(PROMPTS)
    assert torch.equal(model.encode_prompt([PROMPTS[1]]).prompt_embeds, before.prompt_embeds)
    model.let_go_of_encoders()
    gc.collect()
    assert encoder() is None and model.encoders == []
    assert torch.equal(model.encode_prompt([PROMPTS[1]]).prompt_embeds, before.prompt_embeds)
    both = model.encode_prompt([PROMPTS[2], PROMPTS[1]]).prompt_embeds
    assert torch.equal(both[1:], before.prompt_embeds)
    with pytest.raises(ValueError, match="let go of its text encoders, and 'something else' was not encoded before"):
        model.encode_prompt(["something else"])
    assert reward.modules() == [reward.model]


def test_tokens_can_still_be_counted():
    model = StableDiffusion3(tiny_sd3(), name="tiny")
    before = (model.max_tokens, model.count_tokens("a cat"))
    model.encode_ahead(["a cat"])
    model.let_go_of_encoders()
    assert (model.max_tokens, model.count_tokens("a cat")) == before


@pytest.mark.parametrize(
    ("target", "freed"), [("negative_embedding", True), ("denoiser", True), ("text_encoder", False)]
)
def test_learning_lets_go_of_encoders_that_it_does_not_train(tmp_path: Path, target: Any, freed: bool):
    model = tiny_model()
    config = quick(tmp_path, target=target, **BRIEF, num_inference_steps=3, grad_step_range=(1, 2))
    fake_learner(config, model=model, reward=tiny_clip_reward()).run()
    assert (model.pipe.text_encoder is None) == freed


def test_only_what_the_run_will_need_is_encoded_and_first_what_its_first_step_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = tiny_model()
    many = [f"number {n}" for n in range(50)]
    config = quick(tmp_path, **BRIEF, num_validation_prompts=1, num_inference_steps=3, grad_step_range=(1, 2))
    learner = fake_learner(config, model=model, reward=tiny_clip_reward(), prompts=many)
    seen = encoded_texts(model, monkeypatch)
    before_step: list[int] = []
    update = learner._update

    def watched() -> dict:
        before_step.append(len(seen))
        return update()

    monkeypatch.setattr(learner, "_update", watched)
    learner.run()
    assert len(seen) == len(set(seen)) <= 5 and set(seen) <= set(many)
    assert set(learner.monitor.prompts) <= set(seen)
    first = {*learner.monitor.prompts, *learner._prompts_of(learner._numbers(0, 0))}
    assert before_step[:2] == [len(first), len(seen)]


@pytest.mark.slow
def test_offloading_changes_nothing_and_every_part_works_in_a_phase_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`reneg learn` with and without, bit for bit; a forward pass elsewhere would be on the wrong device."""
    settings = save_tiny_world(tmp_path)
    config = {**BRIEF, "num_inference_steps": 3, "grad_step_range": (1, 2)}
    learn(quick(tmp_path / "plain", **settings, **config))
    here: set[int] = set()
    worked, phases, only, call = set[str](), set[tuple[str, ...]](), Offload.only, torch.nn.Module.__call__

    def spy(self: Offload, *names: str) -> None:
        only(self, *names)
        if self._parts:
            phases.add(names)
            here.clear()
            here.update(id(module) for name in names for module in self._parts[name]())
            outside.clear()
            outside.update(id(m) for part in self._parts.values() for m in part() if id(m) not in here)

    def checked(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        assert id(module) not in outside, type(module).__name__
        if id(module) in here:
            worked.add(type(module).__name__)
        return call(module, *args, **kwargs)

    outside: set[int] = set()
    monkeypatch.setattr(Offload, "only", spy)
    monkeypatch.setattr(torch.nn.Module, "__call__", checked)
    learn(quick(tmp_path / "offload", **settings, **config, offload=True))
    assert phases == {("text encoders",), ("model", "rewards"), ("model",), ("rewards", "monitor")}
    assert {"CLIPTextModel", "UNet2DConditionModel"} <= worked
    assert_same_run(tmp_path / "plain", tmp_path / "offload")


def test_rewards_name_their_modules():
    clip = tiny_clip_reward()
    module = Mean()
    own, plain = OwnReward(module, name="own"), OwnReward(lambda images, prompts: images.mean((1, 2, 3)), name="plain")
    assert all(isinstance(reward, ModuleReward) for reward in (clip, own, plain))
    assert own.modules() == [module] and plain.modules() == []
    assert Mixture([clip, own, plain], [1.0, 1.0, 1.0]).modules() == [clip.model, module]


def test_a_target_that_trains_the_model_does_not_offload(tmp_path: Path):
    with pytest.raises(ValueError, match="--offload: goes with a model that stays as it is, and --target lora"):
        quick(tmp_path, target="lora", offload=True)


@pytest.mark.gpu
@pytest.mark.parametrize("offload", [False, True])
def test_learning_on_a_gpu_is_learning_on_a_cpu(tmp_path: Path, offload: bool):
    settings = save_tiny_world(tmp_path)
    config = {**BRIEF, "num_inference_steps": 3, "grad_step_range": (1, 2)}
    cpu = learn(quick(tmp_path / "cpu", **settings, **config))
    gpu = learn(quick(tmp_path / "gpu", **settings, **config, device="cuda", offload=offload))
    left, right = (run.conditioning().prompt_embeds for run in (cpu, gpu))  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(left, right, rtol=0, atol=2e-2)
