"""Algorithm 1: printed against a literal transcription, the default's promises, batches that change nothing."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from fakes import PROMPTS, Brightness, GaussianModel, Tone
from jaxtyping import Float
from tiny import tiny_clip_reward, tiny_model
from torch import Tensor

from reneg.generation import generate
from reneg.guidance import guided_prediction
from reneg.interfaces import Conditioning, DiffusionModel, Reward
from reneg.randomness import Streams, draw_noise, make_generator
from reneg.refinement.algorithm import Refinement, gradients, refine_prompts
from reneg.refinement.config import RefineConfig
from reneg.refinement.state import PromptState, gradient_step_indices
from reneg.targets import NegativeEmbeddingTarget

QUICK = RefineConfig(
    model="fake",
    guidance_scale=3.0,
    num_inference_steps=4,
    grad_step_range=(1, 3),
    refine_learning_rate=0.05,
    max_refine_steps=6,
    monitor=None,
    batch_size=4,
)
SOME = PROMPTS[:4]


class Raised:
    """A reward plus a constant, so that it is positive, or counts its calls."""

    name = "raised"

    def __init__(self, reward: Reward, by: float):
        self._reward, self._by = reward, by

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        return self._reward(images, prompts) + self._by


class Falling:
    """Falls with the brightness: what raises Brightness lowers it."""

    name = "falling"

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        return -images.mean((1, 2, 3))


def null_of(model: DiffusionModel) -> Conditioning:
    return NegativeEmbeddingTarget(model).negative().detach()


def refined(
    config: RefineConfig,
    *,
    model: DiffusionModel | None = None,
    prompts: Sequence[str] = SOME,
    reward: Reward | None = None,
    monitor: Reward | None = None,
) -> dict[str, Refinement]:
    model = model or GaussianModel()
    found = refine_prompts(model, null_of(model), prompts, reward or Tone(), monitor, config)
    return {str(done.facts["prompt"]): done for done in found}


def algorithm_1(prompt: str, reward: Reward, config: RefineConfig) -> tuple[Tensor, list[float]]:
    """Algorithm 1 line by line, with an optimiser written out, on one step of the trajectory; (n, rewards)."""
    model, n = GaussianModel(), null_of(GaussianModel()).prompt_embeds.clone().requires_grad_()
    positive = model.encode_prompt([prompt])
    first, second = torch.zeros_like(n), torch.zeros_like(n)
    j_best, p_ctr, rewards = 0.0, 0, []
    for i in range(1, config.max_refine_steps + 1):
        generator = make_generator(config.seed, f"refine {prompt}", i - 1)
        latents = draw_noise([generator], model.latent_shape, model.dtype, model.device)
        (step_index,) = Streams(config.seed, i - 1, []).step_indices(config.grad_step_range)
        timesteps = model.set_timesteps(config.num_inference_steps)

        def guided(x: Tensor, t: Tensor, n: Tensor = n) -> Tensor:
            pred_cond, pred_uncond = model.predict(x, t, positive), model.predict(x, t, Conditioning(n))
            return guided_prediction(pred_cond, pred_uncond, config.guidance_scale)

        for timestep in timesteps[:step_index]:
            with torch.no_grad():
                latents = model.step(guided(latents, timestep), timestep, latents, [])
        alpha, sigma = model.alpha_sigma(timesteps[step_index])
        x0 = (latents - sigma * guided(latents, timesteps[step_index])) / alpha
        j_n = reward(model.decode(x0), [prompt])[0]
        rewards.append(float(j_n.detach()))
        if rewards[-1] > j_best:
            j_best, p_ctr = rewards[-1], 0
        else:
            p_ctr = p_ctr + 1
            if p_ctr >= config.patience:
                break
        (gradient,) = torch.autograd.grad(-j_n, n)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        with torch.no_grad():
            n -= config.refine_learning_rate * (first / (1 - 0.9**i)) / ((second / (1 - 0.999**i)).sqrt() + 1e-8)
    return n.detach(), rewards


@pytest.mark.parametrize("by", [0.0, 1.0], ids=["rewards below 0", "rewards above 0"])
@pytest.mark.parametrize("patience", [1, 3])
def test_the_paper_mode_is_algorithm_1_as_printed(by: float, patience: int):
    config, reward = dataclasses.replace(QUICK, mode="paper", patience=patience), Raised(Tone(), by)
    found, steps = refined(config, prompts=PROMPTS, reward=reward), set()
    for prompt in PROMPTS:
        n, rewards = algorithm_1(prompt, reward, config)
        torch.testing.assert_close(found[prompt].negative.prompt_embeds, n, rtol=0, atol=1e-10)
        assert found[prompt].facts["reward_global"] == pytest.approx(rewards[0], abs=1e-12)
        assert found[prompt].facts["reward"] == pytest.approx(max(rewards), abs=1e-12)
        # The last look may end it without an update.
        assert found[prompt].facts["steps"] in (len(rewards), len(rewards) - 1)
        steps.add(found[prompt].facts["steps"])
    if by == 0.0:
        assert steps == {patience - 1}
    elif patience == 1:
        assert max(steps) < config.max_refine_steps


@pytest.mark.parametrize("mode", ["keep_best", "paper"])
@pytest.mark.parametrize("estimator", ["late_steps", "draft", "draft_lv"])
@pytest.mark.parametrize(("gradient_steps", "trajectory_steps", "noises"), [(1, None, 1), (2, 2, 2)])
def test_each_prompt_gets_what_it_gets_alone_and_evaluations_are_counted(
    mode, estimator, gradient_steps: int, trajectory_steps: int | None, noises: int
):
    """With steps that differ between updates, so that not every prompt can share a batch with every other."""
    changes = {"mode": mode, "gradient_estimator": estimator, "gradient_steps": gradient_steps}
    changes |= {"trajectory_steps": trajectory_steps, "noises_per_prompt": noises}
    config = dataclasses.replace(QUICK, **changes, batch_size=5)
    reward = Raised(Tone(), 1.0)
    model = GaussianModel()
    together = refined(config, model=model, reward=reward)
    assert model.calls == sum(int(done.facts["denoiser_evaluations"]) for done in together.values())
    for prompt in SOME[::2]:
        alone = refined(dataclasses.replace(config, batch_size=1), prompts=[prompt], reward=reward)[prompt]
        assert_same(together[prompt], alone, 1e-10)


def assert_same(left: Refinement, right: Refinement, tolerance: float) -> None:
    torch.testing.assert_close(left.negative.prompt_embeds, right.negative.prompt_embeds, rtol=0, atol=tolerance)
    assert left.facts == pytest.approx(right.facts, abs=tolerance)


def test_real_classes_give_each_prompt_what_it_gets_alone():
    config = dataclasses.replace(QUICK, num_inference_steps=3, grad_step_range=(1, 2), refine_learning_rate=0.2)
    config = dataclasses.replace(config, max_refine_steps=3, patience=1, batch_size=6)
    reward, monitor = tiny_clip_reward(torch.float64), tiny_clip_reward(torch.float64, seed=2)
    prompts = ["a cat", "the sea", "rain"]
    models = {"reward": reward, "monitor": monitor, "model": tiny_model(torch.float64)}
    together = refined(config, prompts=prompts, **models)
    assert len({int(done.facts["steps"]) for done in together.values()}) > 1  # so that prompts come and go
    for prompt in prompts:
        alone = refined(dataclasses.replace(config, batch_size=1), prompts=[prompt], **models)[prompt]
        assert_same(together[prompt], alone, 1e-8)


def test_batches_stay_full_as_long_as_prompts_wait(monkeypatch: pytest.MonkeyPatch):
    """Prompts end at different steps, and updates have different gradient steps; only the last batches are short."""
    prompts, sizes = [f"{'very ' * (n % 5)}{n}" for n in range(24)], []
    predict = GaussianModel.predict

    def counted(self: GaussianModel, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        sizes.append(len(latents))
        return predict(self, latents, timestep, conditioning)

    monkeypatch.setattr(GaussianModel, "predict", counted)
    config = dataclasses.replace(QUICK, refine_learning_rate=0.4, patience=1, batch_size=4, judged_noises=2)
    found = refined(config, prompts=prompts)
    assert len({int(done.facts["steps"]) for done in found.values()}) > 1
    full = sum(size in (4, 8) for size in sizes)  # one branch with a graph, or both together
    assert full / len(sizes) > 0.8
    first_short = next(number for number, size in enumerate(sizes) if size not in (4, 8))
    assert first_short / len(sizes) > 0.5


def pictures_reward(prompt: str, negative: Conditioning, reward: Reward, config: RefineConfig) -> float:
    """The reward of the judged pictures, sampled anew."""
    model = GaussianModel()
    generators = [make_generator(config.seed, f"judge {prompt}", noise) for noise in range(config.judged_noises)]
    noise = draw_noise(generators, model.latent_shape, model.dtype, model.device)
    prompts = [prompt] * config.judged_noises
    images = generate(model, prompts, negative, noise, guidance_scale=3.0, num_inference_steps=4)
    return float(reward(images, prompts).mean())


@pytest.mark.parametrize("learning_rate", [0.05, 3.0], ids=["fair", "far too high"])
def test_nothing_worse_than_the_global_embedding_is_returned(learning_rate: float):
    config, null = dataclasses.replace(QUICK, refine_learning_rate=learning_rate), null_of(GaussianModel())
    better = 0
    for prompt, done in refined(config).items():
        before = pictures_reward(prompt, null, Tone(), config)
        after = pictures_reward(prompt, done.negative, Tone(), config)
        assert after >= before
        assert done.facts["reward_global"] == pytest.approx(before, abs=1e-12)
        assert done.facts["reward"] == pytest.approx(after, abs=1e-12)
        better += after > before
        if done.facts["step"] == 0:
            assert torch.equal(done.negative.prompt_embeds, null.prompt_embeds)
    assert better >= (3 if learning_rate < 1 else 0)


def test_patience_counts_the_candidates_that_are_no_better():
    """A walk that never helps ends after `patience` candidates, and the global embedding stays."""
    config = dataclasses.replace(QUICK, patience=3, refine_learning_rate=50.0)
    for done in refined(config).values():
        assert (done.facts["step"], done.facts["steps"]) == (0, 3)
    found = refined(dataclasses.replace(QUICK, max_refine_steps=4), reward=Raised(Brightness(), 0))
    assert {int(done.facts["steps"]) for done in found.values()} == {4}


def test_no_candidate_may_lower_the_monitor():
    free = refined(QUICK, reward=Brightness())
    guarded = refined(QUICK, reward=Brightness(), monitor=Falling())
    assert all(int(done.facts["step"]) > 0 for done in free.values())
    for done in guarded.values():
        assert (done.facts["step"], done.facts["steps"]) == (0, QUICK.patience)
        assert done.facts["monitor"] == done.facts["monitor_global"]


def test_noises_depend_on_seed_prompt_and_step_alone():
    model = GaussianModel()
    start, positive = null_of(model), model.encode_prompt(["rain"])

    def gradient(seed: int, step: int, neighbours: int) -> Tensor:
        config = dataclasses.replace(QUICK, seed=seed)
        states = [PromptState("rain", positive, start, 0.1) for _ in range(1 + neighbours)]
        for number, state in enumerate(states[1:]):
            state.prompt = f"neighbour {number}"
        for state in states:
            state.step = step
        gradients(model, states, Tone(), config)
        found = states[0].parameters[0].grad
        assert found is not None
        return found

    torch.testing.assert_close(gradient(0, 1, 0), gradient(0, 1, 2), rtol=0, atol=1e-14)
    for other in (gradient(1, 1, 0), gradient(0, 2, 0)):
        assert not torch.allclose(gradient(0, 1, 0), other)


def test_step_indices_are_those_of_the_update_and_in_range():
    steps = [gradient_step_indices(QUICK, step) for step in range(30)]
    assert {index for (index,) in steps} == {1, 2, 3}
    covering = dataclasses.replace(QUICK, gradient_steps=3)
    assert {gradient_step_indices(covering, step) for step in range(10)} == {(1, 2, 3)}


def test_a_reward_that_breaks_is_named():
    class Broken:
        name = "broken"

        def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
            return images.mean((1, 2, 3)) * float("nan")

    with pytest.raises(FloatingPointError, match=r"step 1 of 'a cat': .* --refine_learning_rate"):
        refined(QUICK, reward=Broken())
