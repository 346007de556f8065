"""A model and rewards that take no time and count their work, and a comparison of them."""

import pytest
import torch

from reneg.config import EvaluateConfig
from reneg.evaluation.comparison import Comparison
from reneg.evaluation.contenders import load_contenders
from reneg.interfaces import Conditioning, PredictionType, Reward
from reneg.randomness import make_generator


class CountingModel:
    """Pulls every latent towards its conditioning; decodes by enlarging."""

    name, family, scheduler_name = "counting", "sd", "ddim"
    prediction_type: PredictionType = "epsilon"
    dtype, device = torch.float32, torch.device("cpu")
    latent_shape, max_tokens = (3, 4, 4), 9

    def __init__(self):
        self.predictions = 0
        """Latents predicted, both branches counted."""
        self.stop_after: int | None = None

    def count_tokens(self, prompt):
        return len(prompt.split()) + 2

    def encode_prompt(self, prompts):
        texts = [torch.randn(5, 6, generator=make_generator(0, prompt, 0)) for prompt in prompts]
        return Conditioning(torch.stack(texts))

    def encode_negative_prompt(self, prompts):
        return self.encode_prompt(prompts)

    def null_conditioning(self):
        return self.encode_prompt([""])

    def set_timesteps(self, num_inference_steps):
        return torch.arange(num_inference_steps).flip(0)

    def initial_latents(self, noise):
        return noise

    def predict(self, latents, timestep, conditioning):
        if self.stop_after is not None and self.predictions >= self.stop_after:
            raise KeyboardInterrupt
        self.predictions += len(latents)
        return latents - conditioning.prompt_embeds.mean((1, 2))[:, None, None, None]

    def step(self, model_output, timestep, latents, generators):
        return latents - 0.3 * model_output

    def alpha_sigma(self, timestep):
        return torch.tensor(0.8), torch.tensor(0.6)

    def decode(self, latents):
        return latents.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 4 + 0.5


class CountingReward:
    """Brightness or redness of a picture, with a little of the prompt in it."""

    def __init__(self, name, channels):
        self.name, self.channels, self.scored = name, channels, 0
        self.stop_after: int | None = None

    def __call__(self, images, prompts):
        if self.stop_after is not None and self.scored >= self.stop_after:
            raise KeyboardInterrupt
        self.scored += len(images)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        return images[:, self.channels].mean((1, 2, 3)) + lengths / 100


@pytest.fixture
def counting_model():
    return CountingModel()


@pytest.fixture
def make_comparison():
    """Build a comparison; the same settings always give the same one, with fresh counters."""

    def make(config: EvaluateConfig, real=None) -> Comparison:
        model = CountingModel()
        rewards: list[Reward] = [CountingReward("bright", slice(0, 3)), CountingReward("world/judge", slice(0, 1))]
        groups = {"animals": ["a cat", "a big dog", "a hen"], "things": ["a lamp", "a <b>bold</b> chair"]}
        fingerprints = {"counting": "weights 1", "bright": "weights 2", "world/judge": "weights 3"}
        prompts = [prompt for group in groups.values() for prompt in group]
        return Comparison(model, rewards, load_contenders(config, model, prompts), groups, fingerprints, real)

    return make


@pytest.fixture
def config(tmp_path) -> EvaluateConfig:
    return EvaluateConfig(
        model="counting",
        negatives=["null", "ugly=very ugly", "third=x"],
        num_seeds=2,
        num_inference_steps=3,
        batch_size=4,
        rewards=["bright", "world/judge"],
        output_dir=tmp_path / "evaluation",
    )
