"""Table 1: the estimate against the explicit Jacobian, for every row; its interval, its batches, its resumed run."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import PROMPTS, GaussianModel
from tiny import tiny_model

from reneg.algorithm import predict_guided
from reneg.analysis.config import Table1Config
from reneg.analysis.efficiency import (
    _orders,
    efficiency,
    measure,
    parameter_groups,
    probe,
    squared_norms,
    table_1,
    vector_jacobian,
)
from reneg.generation import picture_generators, picture_noise
from reneg.interfaces import Conditioning
from reneg.randomness import make_generator

SCALE, STEPS = 7.5, 2


def config(folder: Path = Path("unset"), **changes) -> Table1Config:
    plain = Table1Config(output_dir=folder, num_prompts=3, num_probes=4, num_inference_steps=STEPS, lora_ranks=(2, 3))
    return replace(plain, **changes)


def small_model(dtype=torch.float32):
    """The tiny model with latents so small that J is soon written out."""
    model = tiny_model(dtype)
    model.denoiser.register_to_config(sample_size=2)
    return model


@pytest.fixture(scope="module")
def tiny():
    """The model in float64 with all rows of the table in it."""
    model = small_model(torch.float64)
    groups, negative = parameter_groups(model, (2, 3), seed=0)
    return model, groups, negative


def sampled_with_graph(model, prompts, negative, noise):
    """The sampled latents, with a plain graph through the whole trajectory."""
    latents = model.initial_latents(noise)
    positive = model.encode_prompt(prompts)
    for timestep in model.set_timesteps(STEPS):
        both = positive, negative.expand(len(prompts))
        latents = model.step(predict_guided(model, latents, timestep, *both, SCALE), timestep, latents, [])
    return latents


def products_of(model, groups, negative, prompts, noise, vectors):
    parameters = [parameter for group in groups.values() for parameter in group]
    positive, sampling = model.encode_prompt(prompts), {"guidance_scale": SCALE, "num_inference_steps": STEPS}
    return vector_jacobian(model, parameters, positive, negative, noise, vectors, **sampling)


@pytest.fixture(scope="module")
def explicit(tiny):
    """Of one prompt: noise, a direction v, J^T v and ||J||_F^2 of each row from J itself, one entry of X at a time."""
    model, groups, negative = tiny
    parameters = [parameter for group in groups.values() for parameter in group]
    noise = picture_noise(model, picture_generators(0, 0, 1))
    v = torch.randn(noise.shape, generator=make_generator(0, "v", 0), dtype=noise.dtype)
    latents = sampled_with_graph(model, PROMPTS[:1], negative, noise)
    product, squares = [torch.zeros_like(parameter) for parameter in parameters], np.zeros(len(groups))
    for entry, weight in zip(latents.flatten(), v.flatten(), strict=True):
        row = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        squares += squared_norms(groups, row)
        for total, part in zip(product, row, strict=True):
            total += weight * part
    return noise, v, product, squares


def test_the_product_is_that_of_the_explicit_jacobian(tiny, explicit):
    model, groups, negative = tiny
    noise, v, product, _ = explicit
    found = products_of(model, groups, negative, PROMPTS[:1], noise, v)
    assert len(found) == len(product)
    for left, right in zip(found, product, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10 * float(product[0].norm()))


def test_the_estimate_is_unbiased_for_every_row(tiny, explicit):
    model, groups, negative = tiny
    _, _, _, squares = explicit
    settings = config(seed=0)
    found = np.array([probe(model, groups, negative, PROMPTS[:1], n, settings) for n in range(16)])
    nonzero = squares > 0
    error = (found.mean(0) - squares)[nonzero] / (found.std(0, ddof=1)[nonzero] / math.sqrt(len(found)))
    assert np.abs(error).max() < 4
    assert (found.std(0)[nonzero] < 0.7 * squares[nonzero]).all()  # so that the test above can fail


def test_lora_begins_where_only_b_has_a_gradient(tiny, explicit):
    _, groups, _ = tiny
    squares = dict(zip(groups, explicit[3], strict=True))
    for rank in (2, 3):
        for kind in ("", " (peft)"):
            assert squares[f"LoRA r={rank}{kind}, A"] == 0 < squares[f"LoRA r={rank}{kind}, B"]
    assert 0 < squares["n"] and 0 < squares["all weights"]


def test_batches_add_up(tiny):
    """The prompts' latents share nothing but theta: J^T v of a batch is the sum of its prompts'."""
    model, groups, negative = tiny
    noise = picture_noise(model, picture_generators(0, 0, 2))
    vectors = torch.randn(noise.shape, generator=make_generator(0, "v", 1), dtype=noise.dtype)
    together = products_of(model, groups, negative, PROMPTS[:2], noise, vectors)
    alone = [
        products_of(model, groups, negative, PROMPTS[n : n + 1], noise[n : n + 1], vectors[n : n + 1]) for n in (0, 1)
    ]
    for both, first, second in zip(together, *alone, strict=True):
        torch.testing.assert_close(both, first + second, rtol=1e-8, atol=1e-10)


def test_the_closed_form_of_a_linear_model():
    """Gaussian pictures are linear in n: J is known, the same for all prompts, and many probes cost nothing."""
    model = GaussianModel()
    n = torch.nn.Parameter(model.null_conditioning().prompt_embeds)
    noise = picture_noise(model, picture_generators(0, 0, 1))

    def sampled(embeds):
        return sampled_with_graph(model, PROMPTS[:1], Conditioning(embeds), noise).flatten()

    jacobian = torch.autograd.functional.jacobian(sampled, n.detach())
    assert isinstance(jacobian, torch.Tensor)
    exact = 2 * float(jacobian.square().sum())
    groups, negative = {"n": [n]}, Conditioning(n)
    alone, batched = (
        np.array([probe(model, groups, negative, PROMPTS[:2], k, config(batch_size=size))[0] for k in range(100)])
        for size in (1, 2)
    )
    for found in (alone, batched):
        assert abs(found.mean() - exact) < 4 * found.std() / math.sqrt(len(found))
    assert alone.std() < batched.std()  # prompts by themselves leave out the noise between them


def test_table(tiny):
    _, groups, _ = tiny
    squares = np.full((5, len(groups)), 9.0)
    squares[:, [name.endswith("A") for name in groups]] = 0
    rows = table_1(groups, squares, size=10)
    assert list(rows) == [
        "n",
        "all weights",
        *(f"LoRA r={rank}{kind}" for rank in (2, 3) for kind in ("", " (peft)")),
    ]
    assert rows["n"]["d"] == 16 * 16
    lora = rows["LoRA r=2"]
    assert lora["d"] == sum(p.numel() for part in "AB" for p in groups[f"LoRA r=2, {part}"])
    assert lora["share_of_A"] == 0
    assert lora["E"]["mean"] == pytest.approx(3 / (10 * lora["d"]))
    assert lora["rms"]["mean"] == pytest.approx(3 / math.sqrt(10 * lora["d"]))


def test_orders_are_told_by_both_measures():
    """More numbers, each of which does more: first by the root mean square, and last by E."""
    few, many = {"E": {"mean": 2.0}, "rms": {"mean": 1.0}}, {"E": {"mean": 1.0}, "rms": {"mean": 2.0}}
    told = _orders({"n": few, "all weights": many})
    assert told.startswith("By E: n > all weights (the paper: n > all weights).")
    assert told.endswith("By the root mean square: all weights > n.")


def test_the_interval_is_of_the_root():
    found = efficiency(np.array([4.0, 16.0, 9.0, 9.0]), d=5, size=2)["E"]
    assert found.low is not None and found.high is not None
    assert found.mean == pytest.approx(math.sqrt(9.5) / 10)
    assert 0.2 <= found.low < found.mean < found.high <= 0.4


def test_resumed_run_and_more_probes(tmp_path, monkeypatch):
    calls = []
    real = probe
    monkeypatch.setattr("reneg.analysis.efficiency.probe", lambda *a: (calls.append(a[4]), real(*a))[1])
    _, first = measure(small_model(), PROMPTS[:1], config(tmp_path, num_probes=2), "key")
    _, more = measure(small_model(), PROMPTS[:1], config(tmp_path, num_probes=3), "key")
    assert calls == [0, 1, 2]
    assert np.array_equal(more[:2], first) and not np.array_equal(more[2], first[0])
    model = small_model()
    groups, negative = parameter_groups(model, (2, 3), seed=0)
    assert np.array_equal(more[2], real(model, groups, negative, PROMPTS[:1], 2, config()))
