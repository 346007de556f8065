"""Algorithm 1 of ReNeg (arXiv 2412.19637, §4.3) for many prompts at once, each as if it were alone.

A batch holds samples of several prompts, each with its own embedding, optimiser, patience and noises. All that is
drawn depends on the seed, the prompt's text and its step; a sample's reward depends on nothing else in its batch, and
the sum of the losses gives each embedding its own gradient. So the batch changes nothing but the last bits of sums.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from reneg.algorithm import StepSettings
from reneg.estimators import ESTIMATORS
from reneg.generation import picture_noise, sample
from reneg.interfaces import Conditioning, DiffusionModel, GradientPolicy, Reward
from reneg.metrics import Row
from reneg.negatives import batches
from reneg.randomness import Streams, make_generator
from reneg.refinement.config import RefineConfig
from reneg.refinement.state import (
    Cost,
    PromptState,
    decide_as_printed,
    decide_by_pictures,
    gradient_cost,
    gradient_step_indices,
    start_of,
)

logger = logging.getLogger(__name__)

Work = tuple[int, ...]
"""What a prompt needs next: a gradient of these steps of the trajectory, or JUDGING."""
JUDGING: Work = (-1,)


@dataclass(frozen=True)
class Refinement:
    """One prompt's result."""

    negative: Conditioning
    """Of one prompt, detached."""
    facts: Row
    """The prompt's row of index.jsonl, without its file."""


class OwnNegatives:
    """Each sample's own embedding in the negative branch: a Conditioner for the estimators."""

    policy = GradientPolicy(positive=False, negative=True)

    def __init__(self, states: Sequence[PromptState]):
        self._states = states

    def guidance_scale(self, configured: float) -> float:
        return configured

    def condition(self, model: DiffusionModel, prompts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        positive = Conditioning.concatenate(*(state.positive for state in self._states))
        return positive, Conditioning.concatenate(*(state.negative() for state in self._states))


def refine_prompts(
    model: DiffusionModel,
    start: Conditioning,
    prompts: Sequence[str],
    reward: Reward,
    monitor: Reward | None,
    config: RefineConfig,
    show: Callable[[PromptState], None] | None = None,
) -> Iterator[Refinement]:
    """Algorithm 1 for each prompt; results come as they are found, and finished prompts make room for the next.

    A batch takes only prompts that need the same: a gradient of the same steps, or judging. So many are under way that
    one kind of work always has enough for a full batch, as long as prompts are waiting.

    Args:
        start: the global embedding, as a conditioning of one prompt.
        monitor: what no candidate of mode keep_best may lower; None lets the reward decide alone.
        show: called with a prompt's state after each step of work on it.

    Raises:
        FloatingPointError: a reward or gradient became NaN or infinite.
    """
    start = start_of(start, model.device, torch.promote_types(torch.float32, model.dtype))
    waiting, under_way, room = deque(prompts), list[PromptState](), _room(config)
    while waiting or under_way:
        while waiting and len(under_way) < room:
            prompt = waiting.popleft()
            positive = model.encode_prompt([prompt]).detach()  # alone: the last bits depend on no neighbour
            under_way.append(PromptState(prompt, positive, start, config.refine_learning_rate))
        batch = _next_batch(under_way, config)
        if _work(batch[0], config) == JUDGING:
            for state, scores in zip(batch, judge(model, batch, reward, monitor, config), strict=True):
                decide_by_pictures(state, scores, config)
        else:
            for state, mean in zip(batch, gradients(model, batch, reward, config).tolist(), strict=True):
                if config.mode == "paper":
                    decide_as_printed(state, mean, config)
                else:
                    state.update()
        for state in batch:
            if show is not None:
                show(state)
            if state.done:
                under_way.remove(state)
                yield Refinement(state.result(), state.facts(config.mode))


def gradients(
    model: DiffusionModel, states: Sequence[PromptState], reward: Reward, config: RefineConfig
) -> Float[Tensor, " p"]:
    """Leave each prompt's gradient of one step in its parameters (§4.3), and give its reward J.

    Args:
        states: of prompts whose gradients are of the same steps of the trajectory.

    Returns:
        The mean reward of each prompt's one-step predictions from fresh noises.
    """
    steps, noises = gradient_step_indices(config, states[0].step), config.noises_per_prompt
    samples = [(state, state.step * noises + noise) for state in states for noise in range(noises)]
    rewards = []
    for part in batches(range(len(samples)), config.batch_size):
        chosen = samples[part.start : part.stop]
        generators = [make_generator(config.seed, f"refine {state.prompt}", number) for state, number in chosen]
        outputs = ESTIMATORS[config.gradient_estimator](
            model,
            OwnNegatives([state for state, _ in chosen]),
            reward,
            [state.prompt for state, _ in chosen],
            Streams.own(config.seed, states[0].step, generators),
            StepSettings.of(config),
        )
        of_steps = []
        for output in outputs:
            # The loss is a mean over the batch. Its sum gives each embedding the gradient of its own samples alone.
            (output.loss * (len(chosen) / noises)).backward()
            of_steps.append(output.rewards)
        rewards.append(torch.stack(of_steps).mean(0))
    for state in states:
        state.cost.add(gradient_cost(config, steps), times=noises)
    means = torch.cat(rewards).unflatten(0, (-1, noises)).mean(1)
    _check_finite(states, means)
    return means


@torch.no_grad()
def judge(
    model: DiffusionModel, states: Sequence[PromptState], reward: Reward, monitor: Reward | None, config: RefineConfig
) -> list[dict[str, float]]:
    """Mean `reward` and, if there is one, `monitor` of each prompt's fully sampled pictures.

    Their noises are the same at each step of a prompt, and are used for nothing else.
    """
    scorers = {"reward": reward} | ({} if monitor is None else {"monitor": monitor})
    noises, found = config.judged_noises, {name: list[Tensor]() for name in scorers}
    samples = [(state, noise) for state in states for noise in range(noises)]
    for part in batches(range(len(samples)), config.batch_size):
        chosen = samples[part.start : part.stop]
        generators = [make_generator(config.seed, f"judge {state.prompt}", noise) for state, noise in chosen]
        positive, negative = OwnNegatives([state for state, _ in chosen]).condition(model, [])
        images = sample(
            model,
            positive,
            negative,
            picture_noise(model, generators),
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
            generators=generators,
        )
        for name, scorer in scorers.items():
            found[name].append(scorer(images, [state.prompt for state, _ in chosen]).cpu())
    for state in states:
        state.cost.add(Cost(2 * config.num_inference_steps, 0, 1), times=noises)
    means = {name: torch.cat(parts).unflatten(0, (-1, noises)).mean(1).tolist() for name, parts in found.items()}
    return [{name: means[name][number] for name in means} for number in range(len(states))]


def _work(state: PromptState, config: RefineConfig) -> Work:
    if config.mode == "keep_best" and not state.judged:
        return JUDGING
    return gradient_step_indices(config, state.step)


def _prompts_at_once(work: Work, config: RefineConfig) -> int:
    """Prompts whose samples fill a batch."""
    noises = config.judged_noises if work == JUDGING else config.noises_per_prompt
    return max(1, config.batch_size // noises)


def _room(config: RefineConfig) -> int:
    """Prompts under way at once: with one fewer of each kind of work than a batch takes, no batch would be full."""
    kinds = {gradient_step_indices(config, step) for step in range(config.max_refine_steps)}
    kinds |= {JUDGING} if config.mode == "keep_best" else set()
    return sum(_prompts_at_once(kind, config) - 1 for kind in kinds) + 1


def _next_batch(under_way: list[PromptState], config: RefineConfig) -> list[PromptState]:
    """The longest under way whose work fills a batch, with others that need the same; else the most that there are."""
    groups: dict[Work, list[PromptState]] = {}
    for state in under_way:
        groups.setdefault(_work(state, config), []).append(state)
    for work, states in groups.items():
        if len(states) >= _prompts_at_once(work, config):
            return states[: _prompts_at_once(work, config)]
    return max(groups.values(), key=len)


def _check_finite(states: Sequence[PromptState], rewards: Float[Tensor, " p"]) -> None:
    for state, value in zip(states, rewards.tolist(), strict=True):
        broken = not torch.tensor(value).isfinite() or not all(
            parameter.grad is not None and parameter.grad.isfinite().all() for parameter in state.parameters
        )
        if broken:
            raise FloatingPointError(
                f"step {state.step + 1} of {state.prompt!r}: the reward ({value:.4g}) or its gradient became NaN or "
                "infinite; lower --refine_learning_rate; what is finished is kept"
            )
