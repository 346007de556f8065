"""Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908): weights trained on pairs, without a reward in the loop."""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor

from reneg.baselines.pairs import PairStore, own_pairs, picture_pairs, read_pairs
from reneg.baselines.policy_config import DiffusionDpoConfig
from reneg.interfaces import Conditioning, DiffusionModel
from reneg.learning import load_model_and_monitor
from reneg.metrics import Row
from reneg.prediction import prediction_target
from reneg.processes import make_accelerator
from reneg.randomness import Streams, make_generator, prompt_index
from reneg.rewards import load_reward
from reneg.run_folder import check_run_folder, learning_prompts, result_names
from reneg.schedule import sample_numbers
from reneg.trainer import Trainer


def dpo_margins(
    errors: Float[Tensor, "2 b"], reference_errors: Float[Tensor, "2 b"], beta: float
) -> Float[Tensor, " b"]:
    """What the sigmoid of Eq. 14 is of: above 0, the model tells the chosen picture from the rejected one better than
    the reference does.

    Args:
        errors: mean squared errors of the denoiser for the chosen and the rejected picture of each pair, from the same
            noise at the same timestep.
        reference_errors: those of the reference.
        beta: for such means, halved, as in the authors' code; T and omega of the equation are within it.
    """
    chosen, rejected = errors - reference_errors
    return -0.5 * beta * (chosen - rejected)


def dpo_loss(margins: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Eq. 14: minus the mean log-sigmoid of the margins."""
    return -F.logsigmoid(margins).mean()


def denoising_errors(
    model: DiffusionModel,
    positive: Conditioning,
    pairs: Float[Tensor, "b 2 c h w"],
    noise: Float[Tensor, "b c h w"],
    timestep: Real[Tensor, ""],
) -> Float[Tensor, "2 b"]:
    """Mean squared error of the denoiser's prediction for both pictures of each pair, from the same noise."""
    x0, noise = pairs.transpose(0, 1).flatten(0, 1), torch.cat([noise, noise])
    alpha, sigma = model.alpha_sigma(timestep)
    wanted = prediction_target(x0, noise, alpha, sigma, model.prediction_type)
    latents = (alpha * x0 + sigma * noise).to(model.dtype)
    prediction = model.predict(latents, timestep, Conditioning.concatenate(positive, positive))
    return (prediction.to(wanted.dtype) - wanted).square().mean((1, 2, 3)).unflatten(0, (2, -1))


class DiffusionDpoTrainer(Trainer):
    """A run whose gradient comes from pairs; the reference is the model as it was before the first step."""

    config: DiffusionDpoConfig
    pairs: PairStore
    pair_evaluations = 0
    """Denoiser evaluations that making the pairs took."""
    num_timesteps: int
    """Of the model's training."""

    def learn_from(self, pairs: PairStore, evaluations: int, num_timesteps: int) -> None:
        """Give what the run learns from, before it starts."""
        self.pairs, self.pair_evaluations, self.num_timesteps = pairs, evaluations, num_timesteps

    def _begin(self) -> None:
        super()._begin()
        if self.pair_evaluations:
            chosen, rejected = self.pairs.mean_rewards()
            facts = {"chosen_reward": chosen, "rejected_reward": rejected}
            self._record({"kind": "pairs", "step": 0, **facts, "forward_evaluations": self.pair_evaluations})

    def _step(self, learning_rate: float) -> Row:
        config, accelerator = self.config, self.accelerator
        count, told = config.gradient_accumulation_steps, []
        for micro_batch in range(count):
            numbers = sample_numbers(
                self.state.step,
                accelerator.process_index,
                micro_batch,
                train_batch_size=config.train_batch_size,
                gradient_accumulation_steps=count,
                num_processes=accelerator.num_processes,
            )
            told.append(self._gradient(numbers))
        self._reduce_gradients()
        margins, errors = self._gather(torch.cat(told, 1).T).T
        facts: Row = {
            "loss": float(dpo_loss(margins)),
            "accuracy": float((margins > 0).double().mean()),
            "margin": float(margins.mean()),
            "error": float(errors.mean()),
        }
        facts |= {"grad_norm": self._descend(facts, learning_rate)}
        return facts | {"forward_evaluations": 4 * len(margins), "backward_evaluations": 2 * len(margins)}

    def _gradient(self, numbers: list[int]) -> Float[Tensor, "2 b"]:
        """Add the gradient of some pairs to the parameters'.

        Args:
            numbers: of the samples of this micro-batch; they share a timestep.

        Returns:
            The margin of each pair, and the denoiser's error over its two pictures.
        """
        config, model = self.config, self.model
        places = [prompt_index(config.seed, number, len(self.pairs.prompts)) for number in numbers]
        pairs = self.pairs.read(places).to(model.device, torch.promote_types(torch.float32, model.dtype))
        streams = Streams(config.seed, self.state.step, numbers)
        noise = streams.noise(model).to(pairs.dtype)
        dropped = [float(torch.rand((), generator=g)) < config.proportion_empty_prompts for g in streams.generators]
        prompts = ["" if drop else self.pairs.prompts[place] for drop, place in zip(dropped, places, strict=True)]
        generator = make_generator(config.seed, "dpo timestep", numbers[0])
        timestep = torch.randint(self.num_timesteps, (), generator=generator)
        with torch.no_grad(), self.state.holding(self.state.initial):
            positive, _ = self.target.condition(model, prompts)
            reference = denoising_errors(model, positive, pairs, noise, timestep)
        positive, _ = self.target.condition(model, prompts)
        errors = denoising_errors(model, positive, pairs, noise, timestep)
        margins = dpo_margins(errors, reference, config.beta)
        (dpo_loss(margins) / config.gradient_accumulation_steps).backward()
        return torch.stack([margins, errors.mean(0)]).detach()


def run_diffusion_dpo(config: DiffusionDpoConfig) -> Path:
    """`reneg baseline diffusion-dpo`; gives the file of what was trained.

    Raises:
        ValueError, OSError: with one line that names the flag.
        FloatingPointError: the loss or the gradient became NaN or infinite.
    """
    check_run_folder(config)
    pictures = None if config.pairs is None else read_pairs(config.pairs)
    prompts = learning_prompts(config) if pictures is None else list(dict.fromkeys(pair.prompt for pair in pictures))
    accelerator = make_accelerator(config)
    device = str(accelerator.device)
    model, monitor = load_model_and_monitor(config, prompts, device=device)
    if model.prediction_type == "flow_prediction":
        raise ValueError(f"--model {model.name} predicts a flow; Diffusion-DPO is for epsilon and v")
    reward = load_reward(config.reward, device=device)
    with accelerator.main_process_first():  # one process makes the pairs, the others find them
        if pictures is None:
            pairs, evaluations = own_pairs(model, reward, prompts, config)
        else:
            pairs, evaluations = picture_pairs(model, pictures, config), 0
    trainer = DiffusionDpoTrainer(config, model, reward, monitor, prompts, accelerator)
    trainer.learn_from(pairs, evaluations, model.scheduler.config.num_train_timesteps)
    trainer.run()
    return config.output_dir / result_names(config.target)[0]
