"""What a run goes on from: the parameters, the optimiser, the steps done, and the best state so far."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from reneg.checkpoint import Best, Checkpoint, Cohort, Environment, Setting
from reneg.config import RunConfig
from reneg.interfaces import Place, Target
from reneg.negative import FINGERPRINT_TOLERANCE
from reneg.targets.weights import copy_values, holding


def plain_adamw(
    parameters: Sequence[torch.nn.Parameter],
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.AdamW:
    """AdamW without foreach or fused kernels: one plain kernel after the other gives the same sums everywhere."""
    return torch.optim.AdamW(
        parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay, foreach=False, fused=False
    )


class TrainingState:
    """The state of a target's parameters in a run; it changes in place."""

    def __init__(self, target: Target, config: RunConfig):
        self.parameters = target.parameters()
        self.initial = [parameter.detach().clone() for parameter in self.parameters]
        self._fingerprint = target.fingerprint()
        betas = (config.adam_beta1, config.adam_beta2)
        self._optimizer = plain_adamw(self.parameters, config.learning_rate, betas, config.adam_weight_decay)
        self.step = 0
        """Steps of the run done: updates, or rounds of several."""
        self.best: Best | None = None
        self.reward_history: dict[str, list[float]] = {}
        """Prompt -> its last rewards, for methods that compare a reward with them."""
        self.in_flight: list[Cohort] = []
        """This process's samples that the next update goes on with, those that began first in front."""

    @property
    def result(self) -> tuple[int, list[Tensor]]:
        """Step and parameters of the best state, or of the present one as long as nothing tells the best."""
        present = [parameter.detach() for parameter in self.parameters]
        return (self.step, present) if self.best is None else (self.best.step, self.best.parameters)

    def gradients(self) -> list[Tensor]:
        """Of the parameters that have one; weights that the model does not use have none."""
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def update(self, learning_rate: float) -> None:
        """One step of the optimiser along the gradients that are there, which are then cleared; `step` stays."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()

    def keep_if_best(self, value: float) -> None:
        """Keep the present state if a monitor's value is above that of all states before."""
        if self.best is None or value > self.best.value:
            # On the CPU: all weights of a denoiser would take as much of the GPU again.
            parameters = [parameter.detach().to("cpu", copy=True) for parameter in self.parameters]
            self.best = Best(self.step, value, parameters)

    @contextmanager
    def holding(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """The target has another state's parameters within the block."""
        with holding(self.parameters, parameters):
            yield

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """The state is that before the first step within the block."""
        step, self.step = self.step, 0
        try:
            with self.holding(self.initial):
                yield
        finally:
            self.step = step

    def checkpoint(
        self,
        *,
        metrics_rows: int,
        settings: dict[str, Setting],
        environment: Environment,
        reward_scales: dict[str, float],
        in_flight: Sequence[Cohort],
    ) -> Checkpoint:
        """All that a run needs to go on from here, with what the rest of the run adds to it: samples in flight are
        those of all processes."""
        states = {number: self._optimizer.state.get(parameter) for number, parameter in enumerate(self.parameters)}
        return Checkpoint(
            step=self.step,
            parameters=[parameter.detach() for parameter in self.parameters],
            fingerprint=self._fingerprint,
            optimizer={number: state for number, state in states.items() if state},
            best=self.best,
            metrics_rows=metrics_rows,
            settings=settings,
            environment=environment,
            reward_scales=reward_scales,
            reward_history=self.reward_history,
            in_flight=divide(in_flight, 1),
        )

    def restore(self, checkpoint: Checkpoint) -> bool:
        """Take up a checkpoint's state; False, and nothing is changed, if it belongs to another model.

        Samples in flight are those of all processes at first.
        """
        for saved, now in zip(checkpoint.fingerprint, self._fingerprint, strict=True):
            if saved.shape != now.shape or (saved.to(now) - now).norm() > FINGERPRINT_TOLERANCE * now.norm():
                return False
        copy_values(checkpoint.parameters, self.parameters)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": checkpoint.optimizer, "param_groups": groups})
        self.step, self.best = checkpoint.step, checkpoint.best
        self.reward_history, self.in_flight = checkpoint.reward_history, checkpoint.in_flight
        return True


def moved(in_flight: Sequence[Cohort], device: torch.device) -> list[Cohort]:
    """The same samples on a device."""
    return [
        replace(cohort, place=replace(cohort.place, latents=cohort.place.latents.to(device))) for cohort in in_flight
    ]


def divide(in_flight: Sequence[Cohort], parts: int) -> list[Cohort]:
    """The same samples in so many equal cohorts a step, in the order of their numbers, as an update divides them.

    The step that is further on, whose samples began before, comes first.
    """
    of_steps: dict[int, list[Cohort]] = {}
    for cohort in sorted(in_flight, key=lambda cohort: cohort.numbers):
        of_steps.setdefault(cohort.place.step_index, []).append(cohort)
    divided = []
    for step_index, cohorts in of_steps.items():
        numbers = [number for cohort in cohorts for number in cohort.numbers]
        latents, size = torch.cat([cohort.place.latents for cohort in cohorts]), len(numbers) // parts
        for first in range(0, len(numbers), size):
            chosen = slice(first, first + size)
            divided.append(Cohort(numbers[chosen], Place(step_index, latents[chosen])))
    return divided
