"""The shortcut text gradient: against finite differences, and as a way to the better word."""

from typing import Any

import pytest
import torch
from fakes import Brightness, Tone
from tiny import tiny_model

from reneg.algorithm import denoise, one_step_x0
from reneg.baselines.config import DpoDiffConfig
from reneg.baselines.search_space import SearchSpace
from reneg.baselines.shortcut import POLICY, RelaxedWords, WordDistribution, learn_distribution, shortcut_loss
from reneg.generation import picture_generators, picture_noise
from reneg.models.sd import StableDiffusion
from reneg.randomness import make_generator

SPACE = SearchSpace([["", "a", "b"], ["", "c", "d", "e"]])
PROMPTS = ["k", "m o"]
GUIDANCE, STEPS = 3.0, 4


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    model = tiny_model(torch.float64)
    with torch.no_grad():  # stronger words than an untrained encoder's
        model.text_encoder.get_input_embeddings().weight.mul_(50)
    return model


def relaxed(model: StableDiffusion, space: SearchSpace = SPACE) -> RelaxedWords:
    target = RelaxedWords(model, space, WordDistribution(space, torch.float64))
    target.redraw(make_generator(0, "gumbel", 0))
    return target


def test_one_word_alone_is_encoded_as_its_text(model: StableDiffusion):
    target = relaxed(model)
    with torch.no_grad():
        for log_weight, noise, place in zip(target.parameters(), target.gumbel, (2, 3), strict=True):
            noise.zero_()
            log_weight.fill_(-1e4)
            log_weight[place] = 0
    negative = target.negative()
    assert SPACE.text((2, 3)) == "b, e"
    expected = model.encode_negative_prompt(["b, e"]).prompt_embeds
    torch.testing.assert_close(negative.prompt_embeds, expected, rtol=0, atol=1e-12)


def config(**changes: Any) -> DpoDiffConfig:
    options: dict[str, Any] = {"num_inference_steps": STEPS, "shortcut_step_range": (1, 3), "num_noises": 2}
    return DpoDiffConfig(**({"model": "tiny", "search": "gradient", "guidance_scale": GUIDANCE} | options | changes))


@pytest.mark.parametrize("step_index", [0, 2])
def test_the_gradient_is_the_one_step_predictions_by_finite_differences(model: StableDiffusion, step_index: int):
    target = relaxed(model)
    generators = picture_generators(0, 0, 2)
    shortcut_loss(model, Tone(), PROMPTS, target.negative(), generators, step_index, config()).backward()
    analytic = torch.cat([parameter.grad for parameter in target.parameters() if parameter.grad is not None])
    with torch.no_grad():
        # The trajectory down to x_t, with the weights as they are: the shortcut leaves it out of the gradient.
        latents = picture_noise(model, picture_generators(0, 0, 2))
        positive, timesteps = model.encode_prompt(PROMPTS), model.set_timesteps(STEPS)
        fixed = target.negative().expand(2)
        latents = denoise(model, latents, timesteps[:step_index], positive, fixed, GUIDANCE, [])

        def loss() -> torch.Tensor:
            now = target.negative().expand(2)
            x0, _ = one_step_x0(model, latents, timesteps[step_index], positive, now, GUIDANCE, POLICY)
            return -Tone()(model.decode(x0), PROMPTS).mean()

        numeric = []
        for parameter in target.parameters():
            for place in range(len(parameter)):
                parameter[place] += 1e-5
                above = loss()
                parameter[place] -= 2e-5
                numeric.append((above - loss()) / 2e-5)
                parameter[place] += 1e-5
    assert len(analytic) == 7 and float(analytic.abs().max()) > 1e-7
    torch.testing.assert_close(analytic, torch.stack(numeric), rtol=1e-4, atol=1e-10)


def learn(model: StableDiffusion, **changes: Any) -> tuple[WordDistribution, int]:
    return learn_distribution(model, Brightness(), "k", SPACE, config(**changes), 7)


def expected_brightness(model: StableDiffusion, words: WordDistribution) -> float:
    """Of fully sampled pictures with words drawn one by one, on noises that played no part in learning."""
    shares = [log_weight.detach().double().softmax(0) for log_weight in words.log_weights]
    total = 0.0
    for first in range(3):
        for second in range(4):
            negative = model.encode_negative_prompt([SPACE.text((first, second))]).expand(2)
            noise = picture_noise(model, picture_generators(99, 0, 2))
            positive = model.encode_prompt(["k"] * 2)
            latents = denoise(model, noise, model.set_timesteps(STEPS), positive, negative, GUIDANCE, [])
            total += float(shares[0][first] * shares[1][second]) * float(model.decode(latents).detach().mean())
    return total


@pytest.mark.slow
def test_learning_prefers_the_words_of_the_brighter_pictures(model: StableDiffusion):
    distribution, evaluations = learn(model, shortcut_learning_rate=0.5, gradient_iterations=12)
    assert expected_brightness(model, distribution) > expected_brightness(model, WordDistribution(SPACE))
    steps = [1 + 2 * iteration // 11 for iteration in range(12)]
    assert evaluations == sum(2 * (step + 1) * 2 for step in steps)
    assert all(bool(((weight >= 0) & (weight <= 3)).all()) for weight in distribution.log_weights)


def test_the_batch_size_changes_nothing(model: StableDiffusion):
    one, _ = learn(model, batch_size=1, gradient_iterations=3)
    all_at_once, _ = learn(model, batch_size=8, gradient_iterations=3)
    for left, right in zip(one.log_weights, all_at_once.log_weights, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-8)


def test_draws_follow_the_weights():
    distribution = WordDistribution(SPACE)
    with torch.no_grad():
        distribution.log_weights[0].copy_(torch.tensor([0.0, 2.0, 0.0]))
    generator = make_generator(0, "draws", 0)
    first = torch.tensor([distribution.draw(generator)[0] for _ in range(2000)])
    shares = torch.stack([(first == place).double().mean() for place in range(3)])
    expected = torch.tensor([0.0, 2.0, 0.0]).double().softmax(0)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.03)


def test_other_families_and_words_of_several_tokens_are_refused(model: StableDiffusion):
    with pytest.raises(ValueError, match="'cat' has 3 tokens"):
        relaxed(model, SearchSpace([["", "cat"]]))
    other = tiny_model()
    other.family = "sdxl"
    with pytest.raises(ValueError, match=r"--search gradient works with Stable Diffusion 1.x and 2.x .*evolution"):
        relaxed(other)
