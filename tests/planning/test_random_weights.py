"""Published architectures with random weights, on tensors that have shapes and no numbers."""

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from reneg.planning.random_weights import random_model


@pytest.mark.parametrize("name, encoders, parameters", [("sd1.5", 1, 859_520_964), ("sdxl", 0, 2_567_463_684)])
def test_a_model_of_the_published_size_and_of_the_wanted_pictures(name: str, encoders: int, parameters: int) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = random_model(name, resolution=256)
    assert model.latent_shape == (4, 32, 32)
    assert len(model.encoders) == encoders
    assert sum(weight.numel() for weight in model.denoiser.parameters()) == parameters
    assert not any(weight.requires_grad for weight in model.denoiser.parameters())
