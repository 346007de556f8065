"""Randomness belongs to the sample: independent of batching, processes and restarts, and never changed silently."""

import subprocess
import sys
from collections import Counter

import pytest
import torch

from reneg.randomness import Streams, derive_seed, draw_noise, make_generator, prompt_index

SHAPE = (4, 8, 8)
CPU = torch.device("cpu")


def noise(generators: list[torch.Generator], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return draw_noise(generators, SHAPE, dtype, CPU)


def test_values_are_pinned():
    """Changing any of these changes every result there is: raise the formats, and say so in the changelog."""
    assert derive_seed(0, "sample", 0) == 178316582436694654
    assert [prompt_index(3, number, 5) for number in range(10)] == [1, 0, 4, 2, 3, 1, 4, 2, 3, 0]
    assert [i for step in range(12) for i in Streams(3, step, [0]).step_indices((20, 29))] == [
        25,
        20,
        23,
        29,
        22,
        22,
        27,
        23,
        25,
        22,
        27,
        21,
    ]
    assert noise(Streams(3, 0, [7]).generators)[0, 0, 0, :4].tolist() == pytest.approx(
        [0.3129995, -0.2916193, -1.6052697, -0.8623180], abs=1e-6
    )


def test_another_process_draws_the_same():
    """Nothing comes from Python's salted hash or from a global generator."""
    code = (
        "from reneg.randomness import Streams, derive_seed, prompt_index; "
        "print(derive_seed(9, 'x', 4), prompt_index(9, 4, 50), *Streams(9, 4, []).step_indices((0, 99)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = (derive_seed(9, "x", 4), prompt_index(9, 4, 50), *Streams(9, 4, []).step_indices((0, 99)))
    assert done.stdout.split() == [str(value) for value in own]


def test_noise_does_not_depend_on_the_batch_it_is_drawn_in():
    whole = noise(Streams(0, 5, [4, 5, 6, 7]).generators)
    apart = [noise(Streams(0, 5, numbers).generators) for numbers in ([4], [5, 6], [7])]
    assert torch.equal(whole, torch.cat(apart))
    assert len({float(sample[0, 0, 0]) for sample in whole}) == 4  # each sample has its own


def test_later_draws_of_a_sample_do_not_depend_on_its_batch_mates():
    """DDPM draws again at every step."""
    together, alone = Streams(0, 5, [4, 5]).generators, Streams(0, 5, [5]).generators
    first = noise(together), noise(alone)
    second = noise(together), noise(alone)
    assert torch.equal(second[0][1:], second[1])
    assert not torch.equal(first[0], second[0])


def test_noise_is_the_same_in_every_precision():
    full = noise(Streams(0, 0, [1]).generators)
    double = noise(Streams(0, 0, [1]).generators, torch.float64)
    assert double.dtype == torch.float64 and torch.equal(double.float(), full)
    assert torch.equal(noise(Streams(0, 0, [1]).generators, torch.bfloat16), full.bfloat16())


def test_noise_is_standard_normal_over_samples():
    drawn = noise(Streams(0, 0, list(range(500))).generators)
    assert abs(float(drawn.mean())) < 0.01 and abs(float(drawn.std()) - 1) < 0.01


def test_the_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    values = noise(Streams(2, 3, [1]).generators), Streams(2, 3, [1]).step_indices((0, 99)), prompt_index(2, 3, 40)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = noise(Streams(2, 3, [1]).generators), Streams(2, 3, [1]).step_indices((0, 99)), prompt_index(2, 3, 40)
    assert torch.equal(values[0], again[0]) and values[1:] == again[1:]


def test_step_index_stays_in_range_reaches_all_of_it_and_is_shared():
    drawn = [i for step in range(300) for i in Streams(0, step, [step]).step_indices((20, 29))]
    assert set(drawn) == set(range(20, 30))
    assert drawn == [i for step in range(300) for i in Streams(0, step, [8, 9, 10]).step_indices((20, 29))]
    streams = Streams(0, 0, [0])
    assert streams.step_indices((20, 29)) == streams.step_indices((20, 29))  # asking draws nothing from the samples
    assert drawn != [i for step in range(300) for i in Streams(1, step, [step]).step_indices((20, 29))]
    assert Streams(0, 0, [0]).step_indices((7, 7)) == [7]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10])
def test_several_step_indices_are_evenly_apart_and_reach_all_of_the_range(count: int):
    drawn = [Streams(0, step, [step]).step_indices((20, 29), count) for step in range(300)]
    assert {len(indices) for indices in drawn} == {count}
    assert all(indices == list(range(indices[0], indices[-1] + 1, 10 // count)) for indices in drawn)
    assert {i for indices in drawn for i in indices} == set(range(20, 30))


@pytest.mark.parametrize("num_prompts", [1, 7])
def test_each_epoch_visits_every_prompt_once_in_an_order_of_its_own(num_prompts: int):
    epochs = [[prompt_index(4, e * num_prompts + i, num_prompts) for i in range(num_prompts)] for e in range(5)]
    for order in epochs:
        assert sorted(order) == list(range(num_prompts))
    if num_prompts > 1:
        assert len({tuple(order) for order in epochs}) > 1
        assert epochs[0] != [prompt_index(5, i, num_prompts) for i in range(num_prompts)]


def test_purposes_seeds_and_numbers_do_not_collide():
    keys = [(seed, purpose, number) for seed in range(12) for purpose in ("sample", "picture") for number in range(12)]
    seeds = Counter(derive_seed(*key) for key in keys)
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert make_generator(1, "sample", 11).initial_seed() != make_generator(11, "sample", 1).initial_seed()


def test_the_order_of_an_epoch_is_drawn_once(monkeypatch: pytest.MonkeyPatch):
    draw, drawn = torch.randperm, []
    monkeypatch.setattr(torch, "randperm", lambda *given, **options: drawn.append(given) or draw(*given, **options))
    numbers = [prompt_index(8128, number, 7) for number in range(14)]
    assert drawn == [(7,), (7,)] and sorted(numbers[:7]) == sorted(numbers[7:]) == list(range(7))
