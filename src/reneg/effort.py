"""What a learning run spends: a function of its settings and steps, so that a restart changes nothing of it."""

from reneg.config import LearnConfig
from reneg.interfaces import GradientPolicy
from reneg.randomness import Streams

LEARNING_COUNTS = ("denoiser_evaluations", "denoiser_backward_evaluations", "decoded_pictures", "scored_pictures")
"""Keys of a file's metadata: samples through the denoiser, each branch of Eq. 5 for itself; samples back through it;
pictures decoded; pictures scored, by the monitor too."""


def learning_effort(
    config: LearnConfig, policy: GradientPolicy, *, updates: int, num_processes: int, pictures_of_a_look: int
) -> dict[str, int]:
    """The counts of LEARNING_COUNTS after some updates, the monitor's looks included.

    What is drawn for sample grids and reports alone does not count, nor what gradient checkpointing computes again,
    nor updates that were lost to a kill and made again.

    Args:
        policy: of the target: which branches have a backward pass.
        pictures_of_a_look: that the monitor samples each time.
    """
    batch = config.train_batch_size // config.cohorts() * config.gradient_accumulation_steps * num_processes
    of_updates = [_of_a_sample(config, policy, update) for update in range(updates)]
    guided, backward, decoded = (batch * sum(counts[i] for counts in of_updates) for i in range(3))
    # Before the first update, each so many, and after the last.
    looks = 1 + updates // config.validation_steps
    looks += updates == config.max_train_steps and updates % config.validation_steps > 0
    looked_at, scorers = looks * pictures_of_a_look, 1 if config.monitor is None else 2
    counts = (
        2 * (guided + looked_at * config.num_inference_steps),
        backward,
        decoded + looked_at,
        decoded + scorers * looked_at,
    )
    return dict(zip(LEARNING_COUNTS, counts, strict=True))


def _of_a_sample(config: LearnConfig, policy: GradientPolicy, update: int) -> tuple[int, int, int]:
    """(guided evaluations, evaluations with a backward pass, pictures decoded) of an update, for each sample that
    begins at it, by its estimator."""
    steps, gradients = config.num_inference_steps, config.gradient_steps
    branches = policy.positive + policy.negative
    if config.gradient_estimator == "late_steps":
        # Each timestep from the first gradient step on is evaluated once, with or without a graph.
        carry = Streams(config.seed, update, []).step_indices(config.grad_step_range, gradients)
        return _reached(config, carry[0]) + carry[-1] - carry[0] + 1, gradients * branches, gradients
    if config.gradient_estimator == "pool":
        # Those that began at the updates before go on, each by one evaluation that carries a gradient.
        first, last = config.grad_step_range
        in_flight = min(update, last - first) + 1
        return _reached(config, first) + in_flight, in_flight * branches, in_flight
    if config.gradient_estimator == "draft":
        # From the second step on the latents have a graph, and with them both branches.
        return _reached(config, steps - gradients) + gradients, branches + 2 * (gradients - 1), 1
    return _reached(config, steps - 1) + 1 + gradients, gradients * branches, gradients


def _reached(config: LearnConfig, step_index: int) -> int:
    """Guided evaluations down to a step's latents."""
    return step_index if config.trajectory_steps is None else min(config.trajectory_steps, step_index)
