"""One prompt on its way through Algorithm 1: its embedding, its optimiser, and the best that was found so far."""

from dataclasses import dataclass

import torch

from reneg.interfaces import Conditioning
from reneg.metrics import Row
from reneg.randomness import Streams
from reneg.refinement.config import RefineConfig
from reneg.training_state import plain_adamw


@dataclass
class Cost:
    """What a prompt has taken."""

    denoiser_evaluations: int = 0
    """Forward passes of one sample in one branch of Eq. 5."""
    backward_passes: int = 0
    """Of one sample in one branch."""
    decodes: int = 0
    """Latents that became pictures."""

    def add(self, other: "Cost", times: int = 1) -> None:
        self.denoiser_evaluations += times * other.denoiser_evaluations
        self.backward_passes += times * other.backward_passes
        self.decodes += times * other.decodes


class PromptState:
    """The state of one prompt; it changes in place, and knows nothing of others."""

    def __init__(self, prompt: str, positive: Conditioning, start: Conditioning, learning_rate: float):
        """
        Args:
            positive: the prompt's encoding.
            start: the global embedding, as a conditioning of one prompt in the precision to learn in.
        """
        self.prompt, self.positive, self._mask = prompt, positive, start.prompt_attention_mask
        tensors = [start.prompt_embeds, start.pooled_prompt_embeds]
        self.parameters = [torch.nn.Parameter(t.detach().clone()) for t in tensors if t is not None]
        self.optimizer = plain_adamw(self.parameters, learning_rate)
        self.step = 0
        """Updates done."""
        self.failures = 0
        """Rewards in a row that were not above the best: the p_ctr of Algorithm 1."""
        self.judged = False
        """Whether the present state's pictures were judged."""
        self.done = False
        self.history: list[dict[str, float]] = []
        """Scores of each state in turn, from the global embedding's on."""
        self.keep()
        self.cost = Cost()

    def negative(self) -> Conditioning:
        """The present embedding, with a graph to the parameters."""
        pooled = self.parameters[1] if len(self.parameters) > 1 else None
        return Conditioning(self.parameters[0], pooled, self._mask)

    def result(self) -> Conditioning:
        """The embedding to return, as a conditioning of one prompt."""
        return self._best

    def keep(self) -> None:
        """Make the present state the result: a copy, since updates happen in place."""
        copies = [parameter.detach().clone() for parameter in self.parameters]
        self._best = Conditioning(copies[0], copies[1] if len(copies) > 1 else None, self._mask)
        self.best_step = self.step

    def update(self) -> None:
        """One step of AdamW along the gradient that is there; the next state has not been judged."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step, self.judged = self.step + 1, False

    def facts(self, mode: str) -> Row:
        """The prompt's row of index.jsonl, without its file."""
        first = self.history[0]
        if mode == "paper":  # J_best, which belongs to another state than the returned one
            best = {"reward": max(scores["reward"] for scores in self.history)}
        else:
            best = self.history[self.best_step]
        scores = {f"{name}_global": value for name, value in first.items()} | best
        taken = {"step": self.best_step, "steps": self.step}
        return {"prompt": self.prompt, **scores, **taken, **vars(self.cost)}


def decide_as_printed(state: PromptState, reward: float, config: RefineConfig) -> None:
    """Algorithm 1 as printed, from J_n(c) to the update: J_best starts at 0, and the last n is returned.

    Args:
        reward: J_n(c) of the present n; its gradient is in the parameters.
    """
    best = max([0.0, *(scores["reward"] for scores in state.history)])
    state.history.append({"reward": reward})
    state.failures = 0 if reward > best else state.failures + 1
    if state.failures < config.patience:
        state.update()
    state.done = state.failures >= config.patience or state.step == config.max_refine_steps
    state.keep()


def decide_by_pictures(state: PromptState, scores: dict[str, float], config: RefineConfig) -> None:
    """Algorithm 1 with J_best of the global embedding at the start, and the best n returned.

    Args:
        scores: `reward` and, if there is one, `monitor` of the present n's pictures, which are of the same noises for
            every n.
    """
    state.history.append(scores)
    state.judged = True
    if state.step > 0 and is_better(scores, state.history[state.best_step], state.history[0]):
        state.failures = 0
        state.keep()
    elif state.step > 0:
        state.failures += 1
    state.done = state.failures >= config.patience or state.step == config.max_refine_steps


def is_better(scores: dict[str, float], best: dict[str, float], first: dict[str, float]) -> bool:
    """Whether a candidate takes the best's place: a higher reward, and no lower monitor than the global embedding's.

    The reward is what is raised; the monitor keeps out what only pleases the reward.
    """
    return scores["reward"] > best["reward"] and scores.get("monitor", 0.0) >= first.get("monitor", 0.0)


def gradient_step_indices(config: RefineConfig, step: int) -> tuple[int, ...]:
    """The steps of the trajectory that an update takes its gradient from: of the seed and the update's number alone.

    Prompts whose steps are the same can share a batch.
    """
    streams = Streams(config.seed, step, [])
    if config.gradient_estimator == "draft":
        return tuple(range(config.num_inference_steps - config.gradient_steps, config.num_inference_steps))
    choose = streams.step_indices if config.gradient_estimator == "late_steps" else streams.cycle
    return tuple(choose(config.grad_step_range, config.gradient_steps))


def gradient_cost(config: RefineConfig, step_indices: tuple[int, ...]) -> Cost:
    """What one sample's gradient takes; activations that gradient checkpointing computes again are not counted."""
    count, last = len(step_indices), config.num_inference_steps - 1
    first = last if config.gradient_estimator == "draft_lv" else step_indices[0]
    way = first if config.trajectory_steps is None else min(config.trajectory_steps, first)
    if config.gradient_estimator == "draft":  # both branches have a graph but the first step's positive one
        return Cost(2 * (way + count), 2 * count - 1, 1)
    if config.gradient_estimator == "draft_lv":  # the last step of the trajectory, and then the copies
        return Cost(2 * (way + 1 + count), count, count)
    return Cost(2 * (way + step_indices[-1] - first + 1), count, count)


def start_of(conditioning: Conditioning, device: torch.device, dtype: torch.dtype) -> Conditioning:
    """A global embedding on the model's device, in the precision to learn in."""
    pooled, mask = conditioning.pooled_prompt_embeds, conditioning.prompt_attention_mask
    return Conditioning(
        conditioning.prompt_embeds.detach().to(device, dtype),
        None if pooled is None else pooled.detach().to(device, dtype),
        None if mask is None else mask.to(device),
    )
