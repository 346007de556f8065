"""Attention goes through torch's fused kernels, where its memory grows with the tokens and not with their square."""

from typing import Any

import pytest
import torch
from fakes import PROMPTS
from tiny import tiny_clip_reward
from tiny_families import FAMILIES, build
from torch.overrides import TorchFunctionMode


class Calls(TorchFunctionMode):
    """Names of the functions called."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_attention_is_written_out(family: str):
    model, reward = build(family, torch.float32), tiny_clip_reward()
    noise = model.initial_latents(torch.zeros(1, *model.latent_shape))
    with torch.no_grad():
        text = model.encode_prompt(PROMPTS[:1])
        with Calls() as denoiser:
            model.predict(noise, model.set_timesteps(4)[2], text)
        with Calls() as rest:
            reward(model.decode(noise), PROMPTS[:1])
    for calls in (denoiser, rest):
        assert "scaled_dot_product_attention" in calls.names
        assert "softmax" not in calls.names
