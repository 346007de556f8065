"""What every stage of the recipe shares: threads, logs, atomic resumable state, and the folder of the models."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.distributed as dist

from .data import WORK

BFLOAT16 = any(torch.cpu.get_capabilities()[name] for name in ("avx512_bf16", "amx_bf16"))
"""Whether the CPU computes in bfloat16; on one that only imitates it, training in float32 is twice as fast."""
PACKAGE = Path(__file__).resolve().parent.parent / "src" / "reneg" / "world" / "weights"
"""Where the finished world is shipped."""


def to_tensor(pictures: list) -> torch.Tensor:
    """PIL pictures -> [b, 3, h, w] in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float() / 255


def learning_rate_at(progress: float, warm_up: float = 0.02, decay_from: float = 0.6) -> float:
    """Factor of the learning rate: linear warm-up, constant, linear decay to 2 % over the last part."""
    if progress < warm_up:
        return progress / warm_up
    return 1.0 if progress < decay_from else 1.0 - 0.98 * (progress - decay_from) / (1 - decay_from)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def average_between_processes(parameters: list[torch.nn.Parameter], seconds: float) -> float:
    """Average the gradients, and the seconds that steer the schedule, over the processes of `torchrun`.

    Two processes of one thread each keep two cores busier than one process of two threads.
    """
    if not dist.is_initialized():
        return seconds
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor([seconds])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat[:-1].split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
    return float(flat[-1])


class Run:
    """One resumable training: state saved atomically every few minutes, losses and time logged as JSON lines.

    Progress is measured in seconds of training when `minutes` is given, so that a stage fits a time budget whatever
    the machine; the log records the steps that this came to. It is measured in steps when `steps` is given, for a
    machine whose share is not known beforehand.
    """

    def __init__(
        self,
        name: str,
        modules: dict[str, torch.nn.Module],
        optimizer: torch.optim.Optimizer,
        *,
        minutes: float | None = None,
        steps: int | None = None,
    ):
        if (minutes is None) == (steps is None):
            raise ValueError("give either minutes or steps")
        self.name, self.modules, self.optimizer, self.minutes, self.steps = name, modules, optimizer, minutes, steps
        self.folder = WORK / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.step, self.seconds, self.cpu_seconds, self.last_saved = 0, 0.0, 0.0, 0.0
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        state_file = self.folder / "state.pt"
        if state_file.exists():
            state = torch.load(state_file, weights_only=True)
            for key, module in modules.items():
                module.load_state_dict(state["modules"][key])
            optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.cpu_seconds = state["step"], state["seconds"], state.get("cpu_seconds", 0.0)
            self.last_saved = self.seconds

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        return self.step / self.steps if self.steps is not None else self.seconds / (60 * cast(float, self.minutes))

    def save(self) -> None:
        self.last_saved = self.seconds
        if rank():
            return
        state = {
            "modules": {key: module.state_dict() for key, module in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }
        temporary = self.folder / "state.tmp"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / "state.pt")

    def train(
        self, loss_of: Callable[[int], tuple[torch.Tensor, dict[str, float]]], after: Callable[[], None] | None = None
    ):
        """Optimise `loss_of(step)` until the budget is spent."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        sums: dict[str, float] = {}
        first, summed = self.step, 0
        while self.progress < 1:
            start, cpu_start = time.monotonic(), time.process_time()
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * learning_rate_at(self.progress)
            loss, figures = loss_of(self.step)
            loss.backward()
            self.seconds = average_between_processes(parameters, self.seconds)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if after:
                after()
            self.step += 1
            self.seconds += time.monotonic() - start
            self.cpu_seconds += time.process_time() - cpu_start
            summed += 1
            for key, value in {"loss": float(loss.detach()), **figures}.items():
                sums[key] = sums.get(key, 0.0) + value
            if self.step % 50 == 0 and not rank():
                row = {
                    "step": self.step,
                    "seconds": round(self.seconds),
                    "cpu_seconds": round(self.cpu_seconds),
                    **({} if self.steps is None else {"of_steps": self.steps}),
                    **{k: round(v / summed, 5) for k, v in sums.items()},
                }
                with (self.folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(row) + "\n")
                sums, summed = {}, 0
            if self.seconds - self.last_saved > 120:
                self.save()
        if self.step > first:  # a finished stage is only read, by several processes at once
            self.save()
