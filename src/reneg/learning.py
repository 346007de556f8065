"""A learning run from its settings: what it loads, and in which order, before the trainer takes over."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from reneg.config import LearnConfig, RunConfig
from reneg.interfaces import Reward
from reneg.models import load_configured
from reneg.models.base import LatentModel
from reneg.negative import NegativeEmbedding
from reneg.negatives import check_prompt_lengths
from reneg.rewards import load_mixture, load_reward
from reneg.rewards.own import as_reward
from reneg.run_folder import check_run_folder, learning_prompts
from reneg.targets.weights import Weights
from reneg.trainer import Learner, make_accelerator


def learn(
    config: LearnConfig, reward: Callable[[Tensor, Sequence[str]], Any] | None = None
) -> NegativeEmbedding | Weights:
    """Learn a negative embedding, or what `config.target` names; all that the run makes is in `config.output_dir`.

    Args:
        reward: of images `[b, 3, h, w]` in [0, 1] and prompts -> `[b]`, differentiable, instead of `config.reward`.

    Returns:
        What the run's file holds, a NegativeEmbedding, or Weights for the targets that train the model's own: the
        state that the monitor liked best, or the last without one.

    Raises:
        ValueError: a setting is not usable, a prompt too long, or the folder holds another run; in one line.
        FloatingPointError: a reward or the gradient became NaN or infinite; the state before is kept.
    """
    if reward is not None:
        reward = as_reward(reward)
        config = replace(config, reward=reward.name)
    check_run_folder(config)
    prompts = learning_prompts(config)
    accelerator = make_accelerator(config)
    device = str(accelerator.device)
    model, monitor = load_model_and_monitor(config, prompts, device=device)
    reward = load_mixture(config.reward, device=device) if reward is None else reward
    artifact = Learner(config, model, reward, monitor, prompts, accelerator).run()
    return cast(NegativeEmbedding | Weights, artifact)


def load_model_and_monitor(
    config: RunConfig, prompts: Sequence[str], *, device: str
) -> tuple[LatentModel, Reward | None]:
    """What every run loads beside its reward.

    Args:
        prompts: to learn from, which must fit the model's text encoder.

    Raises:
        ValueError: a setting is not usable, or a prompt too long; in one line.
    """
    model = load_configured(config, device=device)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    check_prompt_lengths(prompts, model, source=config.prompts)
    return model, None if config.monitor is None else load_reward(config.monitor, device=device)
