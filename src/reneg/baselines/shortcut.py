"""DPO-Diff's shortcut text gradient: a distribution of words, learned through a one-step prediction.

A relaxed word is a mixture of the slot's token embeddings with weights from a Gumbel softmax (Jang et al. 2017). The
text encoder reads it in the word's place, and the gradient comes through one step of the trajectory (K = 1): the same
shortcut as ReNeg's.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reneg.algorithm import denoise, one_step_x0
from reneg.baselines.config import DpoDiffConfig
from reneg.baselines.search_space import SEPARATOR, Choice, SearchSpace
from reneg.generation import picture_generators, picture_noise
from reneg.interfaces import Conditioning, DiffusionModel, GradientPolicy, Reward
from reneg.models.base import LatentModel
from reneg.negatives import batches
from reneg.objective import reward_loss
from reneg.randomness import make_generator

INITIAL_LOG_WEIGHT = 1.0
"""Of the empty word at the start, where all others have 0 (the authors' code)."""
LARGEST_LOG_WEIGHT = 3.0
"""Logarithms of the weights are held in 0 … 3 (the authors' code)."""
LARGEST_GRADIENT = 0.025
"""Each component is clipped to it (the authors' code)."""
MOMENTUM = 0.5
"""Of RMSprop (the authors' code)."""


class WordDistribution:
    """For each slot the logarithms of its words' weights."""

    def __init__(self, space: SearchSpace, dtype: torch.dtype = torch.float32):
        self.log_weights = [torch.nn.Parameter(torch.zeros(len(slot), dtype=dtype)) for slot in space.slots]
        with torch.no_grad():
            for log_weight in self.log_weights:
                log_weight[0] = INITIAL_LOG_WEIGHT

    def draw(self, generator: torch.Generator) -> Choice:
        """A word for each slot."""
        return tuple(
            int(torch.multinomial(log_weight.detach().double().softmax(0), 1, generator=generator))
            for log_weight in self.log_weights
        )


POLICY = GradientPolicy(positive=False, negative=True)


class RelaxedWords:
    """What the gradient flows into: the weights of the words, behind the text encoder."""

    def __init__(self, model: DiffusionModel, space: SearchSpace, distribution: WordDistribution):
        """Raises ValueError: the family has more than one text encoder, or a slot a word of several tokens."""
        if not isinstance(model, LatentModel) or model.family != "sd":
            raise ValueError(
                f"--search gradient works with Stable Diffusion 1.x and 2.x alone, and {model.name} is of the family "
                f"{model.family}; use --search evolution"
            )
        self._distribution, self._encoder = distribution, model.text_encoder
        self._embedding = self._encoder.get_input_embeddings()
        tokenizer = model.tokenizer
        # An empty word counts as the end-of-text token, which no place can be without.
        words = [[tokenizer.eos_token_id, *(_token(tokenizer, word) for word in slot[1:])] for slot in space.slots]
        self._words = [self._embedding.weight[torch.tensor(ids, device=model.device)].detach() for ids in words]
        text = SEPARATOR.join(slot[1] for slot in space.slots)
        options = {"padding": "max_length", "max_length": model.max_tokens, "return_tensors": "pt"}
        self._ids: Int[Tensor, "1 l"] = tokenizer(text, **options).input_ids.to(model.device)
        self._places = torch.arange(1, 2 * len(space.slots), 2)  # after the start; commas between
        self.gumbel = [torch.zeros_like(log_weight) for log_weight in distribution.log_weights]
        """The noise of the relaxation."""

    def parameters(self) -> list[torch.nn.Parameter]:
        return self._distribution.log_weights

    def redraw(self, generator: torch.Generator) -> None:
        """Draw the relaxation's noise anew."""
        for noise in self.gumbel:
            uniform = torch.rand(noise.shape, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
            noise.copy_(-(-uniform.log()).log())

    def negative(self) -> Conditioning:
        """The relaxed negative prompt, with its graph."""
        relaxed = torch.stack(
            [
                (log_weight + noise).softmax(0).to(words.device) @ words.to(log_weight.dtype)
                for log_weight, noise, words in zip(self.parameters(), self.gumbel, self._words, strict=True)
            ]
        )
        return Conditioning(self._encode(relaxed))

    def _encode(self, relaxed: Float[Tensor, "n d"]) -> Float[Tensor, "1 l e"]:
        """The text encoder's output with some token embeddings replaced."""

        def replace(module: torch.nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            output = output.clone()
            output[0, self._places] = relaxed.to(output.dtype)
            return output

        handle = self._embedding.register_forward_hook(replace)
        try:
            return self._encoder(self._ids)[0]
        finally:
            handle.remove()


def _token(tokenizer, word: str) -> int:
    ids = tokenizer(word).input_ids
    if len(ids) != 3:
        raise ValueError(f"{word!r} has {len(ids) - 2} tokens; the gradient takes words of one")
    return ids[1]


def shortcut_loss(
    model: DiffusionModel,
    reward: Reward,
    prompts: Sequence[str],
    negative: Conditioning,
    generators: list[torch.Generator],
    step_index: int,
    config: DpoDiffConfig,
) -> Float[Tensor, ""]:
    """Minus the mean reward of the pictures predicted at one step; the trajectory down to it has no gradient."""
    positive, negative = model.encode_prompt(prompts), negative.expand(len(prompts))
    timesteps, scale = model.set_timesteps(config.num_inference_steps), config.guidance_scale
    latents = model.initial_latents(picture_noise(model, generators))
    latents = denoise(model, latents, timesteps[:step_index], positive, negative.detach(), scale, generators)
    x0, _ = one_step_x0(model, latents, timesteps[step_index], positive, negative, scale, POLICY)
    return reward_loss(reward(model.decode(x0), prompts))


def learn_distribution(
    model: DiffusionModel, reward: Reward, prompt: str, space: SearchSpace, config: DpoDiffConfig, seed: int
) -> tuple[WordDistribution, int]:
    """Raise the reward of a prompt's pictures by the shortcut text gradient.

    Returns:
        The distribution of words, and the denoiser evaluations that it took.
    """
    distribution = WordDistribution(space, torch.promote_types(torch.float32, model.dtype))
    target = RelaxedWords(model, space, distribution)
    parameters = target.parameters()
    optimizer = torch.optim.RMSprop(parameters, lr=config.shortcut_learning_rate, momentum=MOMENTUM, foreach=False)
    evaluations, (low, high) = 0, config.shortcut_step_range
    for iteration in range(config.gradient_iterations):
        target.redraw(make_generator(seed, "gumbel", iteration))
        step_index = low + (high - low) * iteration // max(1, config.gradient_iterations - 1)
        for numbers in batches(range(config.num_noises), config.batch_size):
            generators = picture_generators(seed, numbers.start, len(numbers))
            prompts = [prompt] * len(numbers)
            loss = shortcut_loss(model, reward, prompts, target.negative(), generators, step_index, config)
            (loss * (len(numbers) / config.num_noises)).backward()
        evaluations += 2 * (step_index + 1) * config.num_noises
        torch.nn.utils.clip_grad_value_(parameters, LARGEST_GRADIENT, foreach=False)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for parameter in parameters:
                parameter.clamp_(0, LARGEST_LOG_WEIGHT)
    return distribution, evaluations
