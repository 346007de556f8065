"""DDPO, denoising diffusion policy optimisation (Black et al. 2023, arXiv 2305.13301), of any target."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Real
from torch import Tensor

from reneg.algorithm import predict_guided_with_graph
from reneg.baselines.policy import Scales, clipped_losses, ddim_transition, log_probability, prompt_advantages
from reneg.baselines.policy_config import DdpoConfig
from reneg.interfaces import DiffusionModel, GradientPolicy, Reward, Target
from reneg.learning import load_model_and_monitor
from reneg.metrics import Row
from reneg.monitor import reward_statistics
from reneg.negatives import batches
from reneg.processes import make_accelerator
from reneg.randomness import Streams, draw_noise
from reneg.rewards import load_reward
from reneg.run_folder import check_run_folder, learning_prompts, result_names, sample_prompts
from reneg.trainer import Trainer

NO_GRAPH = GradientPolicy(positive=False, negative=False)


@dataclass(frozen=True)
class Rollout:
    """Some sampled trajectories, of one micro-batch."""

    prompts: list[str]
    latents: Float[Tensor, "n b c h w"]
    """x_T … x_0: one more than there are steps."""
    log_probs: Float[Tensor, "m b"]
    """Of each step, by the parameters that sampled it."""
    rewards: Float[Tensor, " b"]


def noise_scales(model: DiffusionModel, timesteps: Real[Tensor, " n"]) -> list[Scales]:
    """(alpha, sigma) of each step, and at the end those of timestep 0, where the last step leads (the authors' code).

    DDIM itself ends there too for Stable Diffusion's own setting, set_alpha_to_one=False.
    """
    ends = [*timesteps, torch.zeros_like(timesteps[0])]
    return [model.alpha_sigma(timestep) for timestep in ends]


def step_distribution(
    model: DiffusionModel,
    target: Target,
    prompts: Sequence[str],
    latents: Float[Tensor, "b c h w"],
    timestep: Real[Tensor, ""],
    now: Scales,
    then: Scales,
    policy: GradientPolicy,
    config: DdpoConfig,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, ""]]:
    """Mean and standard deviation of x_{t-1}, by the target as it is, with a graph in the branches that are named."""
    positive, negative = target.condition(model, prompts)
    scale, given = target.guidance_scale(config.guidance_scale), latents.to(model.dtype)
    prediction = predict_guided_with_graph(model, given, timestep, positive, negative, scale, policy)
    return ddim_transition(latents, prediction.to(latents.dtype), now, then, model.prediction_type, config.eta)


@torch.no_grad()
def sample_rollout(
    model: DiffusionModel,
    target: Target,
    reward: Reward,
    prompts: list[str],
    generators: list[torch.Generator],
    config: DdpoConfig,
) -> Rollout:
    """Sample pictures with DDIM's noisy steps, and score them clamped to [0, 1].

    Args:
        generators: of each sample, for its initial noise and its steps'.
    """
    timesteps = model.set_timesteps(config.num_inference_steps)
    scales, dtype = noise_scales(model, timesteps), torch.promote_types(torch.float32, model.dtype)
    path = [model.initial_latents(draw_noise(generators, model.latent_shape, dtype, model.device))]
    log_probs = []
    for timestep, now, then in zip(timesteps, scales, scales[1:], strict=False):
        mean, std = step_distribution(model, target, prompts, path[-1], timestep, now, then, NO_GRAPH, config)
        path.append(mean + std * draw_noise(generators, model.latent_shape, dtype, model.device))
        log_probs.append(log_probability(path[-1], mean, std))
    rewards = reward(model.decode(path[-1].to(model.dtype)).clamp(0, 1), prompts)
    return Rollout(prompts, torch.stack(path), torch.stack(log_probs), rewards)


class DdpoTrainer(Trainer):
    """A run whose steps are rounds: sample, score, then a few updates from the samples."""

    config: DdpoConfig

    _within_round = False

    def _step(self, learning_rate: float) -> Row:
        """One round (Algorithm of §4.3, DDPO_IS)."""
        config = self.config
        shares = [self._sample_share(share) for share in range(config.updates_per_round)]
        rewards = [self._gathered([rollout.rewards for rollout in rollouts]) for rollouts in shares]
        facts: Row = {**reward_statistics(torch.cat(rewards))}
        self._check_update(facts, torch.zeros(()))
        history = dict(self.state.reward_history)
        advantages = self._advantages(history, rewards)
        told, norms = [], []
        for _ in range(config.num_inner_epochs):
            for rollouts, own in zip(shares, advantages, strict=True):
                told.append(self._surrogate_gradient(rollouts, own))
                norms.append(self._descend(facts, learning_rate))
                self._within_round = True
        self._within_round, self.state.reward_history = False, history
        clip_fraction, divergence = torch.stack(told).mean(0).tolist()
        steps, policy = len(self._trained_steps()), self.target.policy
        trained = config.num_samples * config.num_inner_epochs * steps
        return facts | {
            "clip_fraction": clip_fraction,
            "approx_kl": divergence,
            "grad_norm": sum(norms) / len(norms),
            "forward_evaluations": 2 * (config.num_samples * config.num_inference_steps + trained),
            "backward_evaluations": (policy.positive + policy.negative) * trained,
        }

    def _share_numbers(self, share: int) -> list[int]:
        """The samples of one update, over all processes: those of one prompt go to different updates."""
        first, last = self.state.step * self.config.num_samples, (self.state.step + 1) * self.config.num_samples
        return list(range(first + share, last, self.config.updates_per_round))

    def _sample_share(self, share: int) -> list[Rollout]:
        """This process's trajectories for one update, in micro-batches."""
        config, process = self.config, self.accelerator.process_index
        numbers = self._share_numbers(share)
        count = len(numbers) // self.accelerator.num_processes
        rollouts = []
        for part in batches(range(process * count, (process + 1) * count), config.train_batch_size):
            own = numbers[part.start : part.stop]
            prompts = sample_prompts(config.seed, self.prompts, own, config.noises_per_prompt)
            generators = Streams(config.seed, self.state.step, own).generators
            rollouts.append(sample_rollout(self.model, self.target, self.reward, prompts, generators, config))
        return rollouts

    def _advantages(self, history: dict[str, list[float]], rewards: list[Tensor]) -> list[Float[Tensor, " b"]]:
        """The clipped advantages of this process's samples, for each update.

        Args:
            history: of each prompt; these rewards are added.
            rewards: of each update, over all processes.
        """
        config, process = self.config, self.accelerator.process_index
        numbers = [number for share in range(config.updates_per_round) for number in self._share_numbers(share)]
        prompts = sample_prompts(config.seed, self.prompts, numbers, config.noises_per_prompt)
        size, least = config.history_size, config.history_min_count
        all_of_them = prompt_advantages(history, prompts, torch.cat(rewards), history_size=size, min_count=least)
        clipped = all_of_them.clamp(-config.advantage_clip, config.advantage_clip)
        own = clipped.view(config.updates_per_round, self.accelerator.num_processes, -1)[:, process]
        return list(own)

    def _trained_steps(self) -> list[int]:
        """The steps of the trajectory that are trained on in this round."""
        last = self.config.num_inference_steps - 1
        count = max(1, round(self.config.timestep_fraction * self.config.num_inference_steps))
        return Streams(self.config.seed, self.state.step, []).step_indices((0, last), count)

    def _surrogate_gradient(self, rollouts: list[Rollout], advantages: Float[Tensor, " b"]) -> Float[Tensor, " f"]:
        """Leave the gradient of one update in the parameters: of the mean over its samples and steps.

        Returns:
            The share of importance ratios beyond the clip range, and the approximate divergence from the parameters
            that sampled (the mean of half the squared difference of log-probabilities).
        """
        config, steps, told, done = self.config, self._trained_steps(), [], 0
        timesteps = self.model.set_timesteps(config.num_inference_steps)
        scales = noise_scales(self.model, timesteps)
        for rollout in rollouts:
            own = advantages[done : done + len(rollout.prompts)]
            done += len(own)
            for n in steps:
                latents, sampled = rollout.latents[n], rollout.latents[n + 1]
                place = (latents, timesteps[n], scales[n], scales[n + 1])
                mean, std = step_distribution(
                    self.model, self.target, rollout.prompts, *place, self.target.policy, config
                )
                log_probs = log_probability(sampled, mean, std)
                losses = clipped_losses(log_probs, rollout.log_probs[n], own, config.clip_range)
                (losses.sum() / (len(advantages) * len(steps))).backward()
                change = (log_probs - rollout.log_probs[n]).detach()
                beyond = ((change.exp() - 1).abs() > config.clip_range).to(change.dtype)
                told.append(torch.stack([beyond, 0.5 * change.square()]))
        self._reduce_gradients()
        return self._gathered([facts.T for facts in told]).mean(0)

    def _gathered(self, parts: list[Tensor]) -> Tensor:
        """Of all processes, one after the other."""
        return self._gather(torch.cat(parts))

    def _keep_last(self) -> str:
        """Between the updates of a round there is no state to go on from: the best one and the checkpoints stay."""
        return self._keep_best() if self._within_round else super()._keep_last()


def check_ddpo(config: DdpoConfig, model: DiffusionModel, num_processes: int) -> None:
    """Raises ValueError: the model's sampler has no noisy steps, or the samples cannot be shared out."""
    if model.prediction_type == "flow_prediction":
        raise ValueError(f"--model {model.name} predicts a flow, whose steps draw no noise; DDPO needs epsilon or v")
    share = config.num_samples // config.updates_per_round
    if share % num_processes:
        raise ValueError(
            f"--num_samples {config.num_samples}: {num_processes} processes cannot share the {share} of an update"
        )


def run_ddpo(config: DdpoConfig) -> Path:
    """`reneg baseline ddpo`; gives the file of what was trained.

    Raises:
        ValueError, OSError: with one line that names the flag.
        FloatingPointError: a reward or the gradient became NaN or infinite.
    """
    check_run_folder(config)
    prompts = learning_prompts(config)
    accelerator = make_accelerator(config)
    device = str(accelerator.device)
    model, monitor = load_model_and_monitor(config, prompts, device=device)
    check_ddpo(config, model, accelerator.num_processes)
    DdpoTrainer(config, model, load_reward(config.reward, device=device), monitor, prompts, accelerator).run()
    return config.output_dir / result_names(config.target)[0]
