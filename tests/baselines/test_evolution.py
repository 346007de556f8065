"""The evolution on rewards in closed form: it finds what random draws do not, and repeats itself exactly."""

import itertools
from typing import Any

import pytest
import torch

from reneg.baselines.evolution import evolve
from reneg.baselines.search_space import Choice

SIZES = (7,) * 8
BEST: Choice = (3, 1, 6, 0, 5, 2, 4, 1)
NULL: Choice = (0,) * 8
SETTINGS: dict[str, Any] = {"num_candidates": 300, "population": 20, "parents": 10, "mutation_rate": 0.2}


def hits(choice: Choice) -> float:
    """How many places are the best's: a reward whose parts add up."""
    return float(sum(own == best for own, best in zip(choice, BEST, strict=False)))


def run(seed: int = 0, sizes=SIZES, **changes: Any):
    """(scores, the generations that were judged)."""
    generator, judged = torch.Generator().manual_seed(seed), []

    def draw() -> Choice:
        return tuple(int(torch.randint(size, (), generator=generator)) for size in sizes)

    def score(choices: list[Choice]) -> list[float]:
        judged.append(choices)
        return [hits(choice) for choice in choices]

    null = (0,) * len(sizes)
    return evolve(score, null, draw, sizes, generator, **(SETTINGS | changes)), judged


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_more_than_as_many_random_draws(seed: int):
    evolved, _ = run(seed)
    drawn, _ = run(seed, population=300)  # one generation: all drawn
    assert len(evolved) == len(drawn) == 300
    assert max(drawn.values()) <= 5  # of 7^8 choices
    assert max(evolved.values()) >= max(drawn.values()) + 2


def test_the_budget_is_kept_nothing_is_judged_twice_and_the_first_is_among_them():
    scores, judged = run(num_candidates=50)
    candidates = [choice for generation in judged for choice in generation]
    assert len(candidates) == len(set(candidates)) == len(scores) == 50
    assert [len(generation) for generation in judged] == [20, 20, 10]
    assert judged[0][0] == NULL
    assert scores == {choice: hits(choice) for choice in candidates}


def test_a_small_space_is_judged_wholly():
    scores, _ = run(sizes=(2, 3), mutation_rate=0.5)
    assert set(scores) == set(itertools.product(range(2), range(3)))


def test_a_budget_of_one_judges_the_first_alone():
    scores, _ = run(num_candidates=1)
    assert list(scores) == [NULL]


def test_the_same_generator_gives_the_same_search():
    assert run(5)[1] == run(5)[1] != run(6)[1]
