"""What happens at which step: functions of the step alone, so that a restart has no state to restore."""

from math import cos, pi


def learning_rate_factor(lr_scheduler: str, step: int, max_train_steps: int, lr_warmup_steps: int) -> float:
    """What the learning rate is multiplied by at the update after `step` updates, as in diffusers' schedules.

    Args:
        lr_scheduler: `cosine` or `linear`, both to zero after the last update, or `constant`.
        lr_warmup_steps: updates over which the rate first rises linearly from zero.
    """
    if step < lr_warmup_steps:
        return step / lr_warmup_steps
    progress = (step - lr_warmup_steps) / max(1, max_train_steps - lr_warmup_steps)
    return {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + cos(pi * progress))}[lr_scheduler]


def sample_numbers(
    step: int,
    process: int,
    micro_batch: int,
    *,
    train_batch_size: int,
    gradient_accumulation_steps: int,
    num_processes: int,
) -> list[int]:
    """The samples of one micro-batch: a contiguous slice of its process's slice of the step's global batch."""
    share = train_batch_size * gradient_accumulation_steps
    first = (step * num_processes + process) * share + micro_batch * train_batch_size
    return list(range(first, first + train_batch_size))
