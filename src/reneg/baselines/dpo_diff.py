"""DPO-Diff, discrete prompt optimisation (Wang et al. 2024, arXiv 2407.01606), of the negative prompt."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from reneg.baselines.config import DpoDiffConfig
from reneg.baselines.evolution import evolve
from reneg.baselines.inputs import model_fingerprint, prompts_of, reward_fingerprint
from reneg.baselines.search_space import Choice, SearchSpace, search_spaces
from reneg.baselines.shortcut import WordDistribution, learn_distribution
from reneg.baselines.store import PromptRows
from reneg.generation import generate, picture_generators, picture_noise
from reneg.interfaces import DiffusionModel, Reward
from reneg.metrics import Row
from reneg.models import load_configured
from reneg.negatives import batches, check_prompt_lengths
from reneg.randomness import derive_seed, make_generator
from reneg.rewards import load_reward

logger = logging.getLogger(__name__)


@torch.no_grad()
def mean_rewards(
    model: DiffusionModel, reward: Reward, prompt: str, negatives: Sequence[str], config: DpoDiffConfig, seed: int
) -> list[float]:
    """The reward of a prompt's fully sampled pictures with each negative prompt, over the same noises for all."""
    pairs = [(negative, noise) for negative in negatives for noise in range(config.num_noises)]
    rewards = []
    for numbers in batches(range(len(pairs)), config.batch_size):
        part = pairs[numbers.start : numbers.stop]
        generators = [generator for _, noise in part for generator in picture_generators(seed, noise, 1)]
        prompts = [prompt] * len(part)
        images = generate(
            model,
            prompts,
            model.encode_negative_prompt([negative for negative, _ in part]),
            picture_noise(model, generators),
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
            generators=generators,
        )
        rewards.append(reward(images, prompts).double().cpu())
    return torch.cat(rewards).view(-1, config.num_noises).mean(1).tolist()


def search_negative(
    model: DiffusionModel, reward: Reward, prompt: str, space: SearchSpace, config: DpoDiffConfig
) -> Row:
    """Search the negative prompt of one prompt; its line of negatives.jsonl.

    The null text is always among the candidates, so on these noises the result is never worse. Everything that is
    drawn depends on the seed and the prompt alone.
    """
    seed = derive_seed(config.seed, f"dpo-diff {prompt}", 0)
    distribution, evaluations = WordDistribution(space), 0
    if config.search != "evolution":
        distribution, evaluations = learn_distribution(model, reward, prompt, space, config, seed)
    generator = make_generator(seed, "search", 0)

    def score(choices: list[Choice]) -> list[float]:
        return mean_rewards(model, reward, prompt, [space.text(choice) for choice in choices], config, seed)

    scores = evolve(
        score,
        space.null,
        lambda: distribution.draw(generator),
        [len(slot) for slot in space.slots],
        generator,
        num_candidates=config.num_candidates,
        # With the gradient alone all candidates are drawn from what it learned: there is one generation.
        population=config.num_candidates if config.search == "gradient" else config.population,
        parents=config.parents,
        mutation_rate=config.mutation_rate,
    )
    best = max(scores, key=lambda choice: (scores[choice], -sum(map(bool, choice))))
    return {
        "prompt": prompt,
        "negative": space.text(best),
        "reward": scores[best],
        "null_reward": scores[space.null],
        "candidates": len(scores),
        "denoiser_evaluations": evaluations + 2 * config.num_inference_steps * config.num_noises * len(scores),
        "backward_passes": 0 if config.search == "evolution" else config.gradient_iterations * config.num_noises,
    }


def run_dpo_diff(config: DpoDiffConfig) -> Path:
    """`reneg baseline dpo-diff`; gives negatives.jsonl.

    Raises:
        ValueError, OSError: with one line that names the flag.
    """
    prompts = prompts_of(config)
    fingerprints = {"model": model_fingerprint(config.model), "reward": reward_fingerprint(config.reward)}
    store = PromptRows(config, fingerprints)
    model = load_configured(config, device=config.device)
    check_prompt_lengths(prompts, model, source=config.prompts)
    reward = load_reward(config.reward, device=config.device)
    space_of = search_spaces(model, config.antonyms, config.library_slots, single_tokens=config.search != "evolution")
    spaces = {prompt: space_of(prompt) for prompt in store.missing(prompts)}  # refused before any work
    for number, (prompt, space) in enumerate(spaces.items()):
        row = search_negative(model, reward, prompt, space, config)
        store.add([row])
        facts = (number + 1, len(spaces), prompt, row["null_reward"], row["reward"], row["negative"])
        logger.info("dpo-diff: %d of %d: %r: reward %.4g -> %.4g with %r", *facts)
    return store.file
