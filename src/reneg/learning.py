"""Learning from the reward's own gradient (§4.2): what a run loads, and what each of its steps does."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from reneg.algorithm import StepSettings
from reneg.checkpoint import Cohort
from reneg.config import LearnConfig, RunConfig
from reneg.effort import learning_effort
from reneg.estimators import ESTIMATORS
from reneg.interfaces import DiffusionModel, ModuleReward, PipelineModel, Place, Reward
from reneg.metrics import Row
from reneg.models import DTYPES, load_configured
from reneg.models.base import LatentModel
from reneg.monitor import reward_statistics
from reneg.negative import NegativeEmbedding
from reneg.negatives import check_prompt_lengths
from reneg.offload import EVERYTHING_STAYS, Offload
from reneg.processes import make_accelerator
from reneg.randomness import Streams
from reneg.rewards import load_mixture, load_reward
from reneg.rewards.mixture import Mixture
from reneg.rewards.own import as_reward
from reneg.run_folder import check_run_folder, learning_prompts, sample_prompts
from reneg.schedule import sample_numbers
from reneg.targets.weights import Weights
from reneg.trainer import Trainer
from reneg.training_state import divide, moved

logger = logging.getLogger(__name__)

FP16_LOSS_SCALE = 1024.0
"""With fp16 the loss is multiplied by this, and its gradient divided again: a mean reward's gradient in the latents is
often below 6e-8, float16's smallest number. A power of two, so that it rounds nothing."""


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
        LostProcessError: another process of the run is gone; the last checkpoint is kept.
    """
    if reward is not None:
        reward = as_reward(reward)
        config = replace(config, reward=reward.name)
    check_run_folder(config)
    prompts = learning_prompts(config)
    accelerator = make_accelerator(config)
    device = str(accelerator.device)
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    model, monitor = load_model_and_monitor(config, prompts, device=device, offload=config.offload)
    if reward is None:
        home = "cpu" if config.offload else device
        reward = load_mixture(config.reward, device=home, dtype=DTYPES[config.reward_dtype])
    offload = parts_to_offload(model, reward, monitor) if config.offload else EVERYTHING_STAYS
    artifact = Learner(config, model, reward, monitor, prompts, accelerator, offload).run()
    return cast(NegativeEmbedding | Weights, artifact)


def load_model_and_monitor(
    config: RunConfig, prompts: Sequence[str], *, device: str, offload: bool = False
) -> tuple[LatentModel, Reward | None]:
    """What every run loads beside its reward.

    Args:
        prompts: to learn from, which must fit the model's text encoder.
        offload: everything waits on the CPU at first.

    Raises:
        ValueError: a setting is not usable, or a prompt too long; in one line.
    """
    model = load_configured(config, device=device, offload=offload)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    check_prompt_lengths(prompts, model, source=config.prompts)
    home = "cpu" if offload else device
    return model, None if config.monitor is None else load_reward(config.monitor, device=home)


def parts_to_offload(model: DiffusionModel, reward: Reward, monitor: Reward | None) -> Offload:
    """The parts of a run that can wait; a model or reward without modules has none."""
    pipeline = model if isinstance(model, PipelineModel) else None

    def modules(scorer: Reward | None) -> list[Any]:
        return scorer.modules() if isinstance(scorer, ModuleReward) else []

    parts = {
        "text encoders": lambda: [] if pipeline is None else pipeline.encoders,
        "model": lambda: [] if pipeline is None else [pipeline.denoiser, pipeline.vae],
        "rewards": lambda: modules(reward),
        "monitor": lambda: modules(monitor),
    }
    return Offload(parts, model.device)


class Learner(Trainer):
    """A run whose gradient is the reward's own (§4.2)."""

    same_samples_for_any_batching = True
    config: LearnConfig

    def _restore(self, path: Path) -> int:
        rows, count = super()._restore(path), self.config.gradient_accumulation_steps
        accelerator, device = self.accelerator, self.model.device
        divided = divide(self.state.in_flight, accelerator.num_processes * count)
        mine = [n for n in range(len(divided)) if n // count % accelerator.num_processes == accelerator.process_index]
        self.state.in_flight = moved([divided[n] for n in mine], device)
        return rows

    def _step(self, learning_rate: float) -> Row:
        facts, in_flight = self._gradient()
        facts |= {"grad_norm": self._descend(facts, learning_rate)}
        self.state.in_flight = in_flight  # not before: a failed update keeps the whole state of the one before
        return facts

    def _gradient(self) -> tuple[Row, list[Cohort]]:
        """Leave the gradient of the global batch in the parameters; what metrics.jsonl tells of it, and the samples
        that the next update goes on with."""
        config = self.config
        self.offload.only("model", "rewards")
        rewards, step_index, in_flight = [], 0, []
        scale = FP16_LOSS_SCALE if self.model.dtype == torch.float16 else 1.0
        batches = self._batches()
        for numbers, place in batches:
            outputs = ESTIMATORS[config.gradient_estimator](
                self.model,
                self.target,
                self.reward,
                self._prompts_of(numbers),
                Streams(config.seed, self.state.step, numbers, antithetic=config.antithetic),
                StepSettings.of(config),
                place,
            )
            for output in outputs:
                (scale * output.loss / len(batches)).backward()
                rewards.append(output.rewards)
                step_index = output.step_index
                if output.onward is not None:
                    in_flight.append(Cohort(numbers, output.onward))
        self._reduce_gradients(scale)
        statistics = reward_statistics(self._gather(torch.cat(rewards)))
        return {**statistics, **self._part_means(), "step_index": step_index}, in_flight

    def _batches(self) -> list[tuple[list[int], Place | None]]:
        """Of this update and process: the samples in flight with where they stand, and those that begin."""
        going_on = [(cohort.numbers, cohort.place) for cohort in self.state.in_flight]
        count = self.config.gradient_accumulation_steps
        return [*going_on, *((self._numbers(self.state.step, micro_batch), None) for micro_batch in range(count))]

    def _prepare(self, last: int) -> None:
        """Encode what the steps up to one will need and, once that is all, let go of the text encoders.

        Unless they are trained. On the CPU the first step's news do not wait for the others' prompts; a GPU's memory
        is free of the encoders before.
        """
        model, config = self.model, self.config
        if self.target.policy.text or not isinstance(model, PipelineModel) or not model.encoders:
            return
        last = last if model.device.type == "cpu" else config.max_train_steps
        needed = self._prompts_until(last)
        self.offload.only("text encoders")
        model.encode_ahead(needed, config.prompt_cache)
        if last == config.max_train_steps:
            model.let_go_of_encoders()
            logger.info("%d prompts encoded; the text encoders are let go", len(needed))

    def _prompts_until(self, last: int) -> list[str]:
        """The monitor's, and those that this process needs from the present step to another."""
        needed, every = dict.fromkeys(self.monitor.prompts), set(self.prompts)
        for cohort in self.state.in_flight:
            needed |= dict.fromkeys(self._prompts_of(cohort.numbers))
        for step in range(self.state.step, last):
            for micro_batch in range(self.config.gradient_accumulation_steps):
                needed |= dict.fromkeys(self._prompts_of(self._numbers(step, micro_batch)))
            if len(needed) == len(every):
                break
        return list(needed)

    def _numbers(self, step: int, micro_batch: int) -> list[int]:
        """The samples that begin with one micro-batch of this process."""
        return sample_numbers(
            step,
            self.accelerator.process_index,
            micro_batch,
            train_batch_size=self.config.train_batch_size // self.config.cohorts(),
            gradient_accumulation_steps=self.config.gradient_accumulation_steps,
            num_processes=self.accelerator.num_processes,
        )

    def _prompts_of(self, numbers: list[int]) -> list[str]:
        return sample_prompts(self.config.seed, self.prompts, numbers, self.config.noises_per_prompt)

    def _effort(self) -> dict[str, int]:
        return learning_effort(
            self.config,
            self.target.policy,
            updates=self.state.step,
            num_processes=self.accelerator.num_processes,
            pictures_of_a_look=sum(map(len, self.monitor.batches)),
        )

    def _part_means(self) -> dict[str, float]:
        """Means over the global batch of the parts of a mixture, in their own units; nothing for a single reward."""
        parts = self.reward.take() if isinstance(self.reward, Mixture) else {}
        return {key: float(self._gather(scores).mean()) for key, scores in parts.items()}
