"""DPO-Diff's evolution of choices: the best are crossed and mutated, and no candidate is judged twice."""

from collections.abc import Callable, Sequence, Set

import torch

from reneg.baselines.search_space import Choice

TRIES = 10
"""Draws for each candidate that is wanted, before a generation does without it: small spaces run out."""
Draw = Callable[[], Choice]


def evolve(
    score: Callable[[list[Choice]], list[float]],
    first: Choice,
    draw: Draw,
    sizes: Sequence[int],
    generator: torch.Generator,
    *,
    num_candidates: int,
    population: int,
    parents: int,
    mutation_rate: float,
) -> dict[Choice, float]:
    """Judge so many different choices; all of them with their scores.

    Args:
        score: gives the scores of some choices, higher is better; called once a generation.
        first: always judged, so that nothing worse is ever the best.
        draw: a new choice, for the first generation and wherever breeding finds nothing new.
        sizes: how many places each slot has, which mutations draw from evenly.
        num_candidates: the budget; fewer are judged where the space has fewer.
    """
    scores: dict[Choice, float] = {}
    best: list[Choice] = []

    def breed() -> Choice:
        mother, father = (best[number] for number in torch.randint(len(best), (2,), generator=generator).tolist())
        if torch.rand((), generator=generator) < 0.5:
            return _mutate(mother, sizes, mutation_rate, generator)
        return _cross(mother, father, generator)

    generation = [first, *_different([draw], min(population, num_candidates) - 1, {first})]
    while generation:
        scores |= zip(generation, score(generation), strict=True)
        best = sorted(scores, key=lambda choice: (-scores[choice], choice))[:parents]
        generation = _different([breed, draw], min(population, num_candidates - len(scores)), scores.keys())
    return scores


def _different(draws: Sequence[Draw], count: int, known: Set[Choice]) -> list[Choice]:
    """At most so many choices that are not known, from the first way to draw, then from the next."""
    found: dict[Choice, None] = {}
    for draw in draws:
        tries = TRIES * (count - len(found))
        while tries > 0 and len(found) < count:
            choice, tries = draw(), tries - 1
            if choice not in known:
                found[choice] = None
    return list(found)


def _mutate(choice: Choice, sizes: Sequence[int], rate: float, generator: torch.Generator) -> Choice:
    changed = (torch.rand(len(choice), generator=generator) < rate).tolist()
    return tuple(
        int(torch.randint(size, (), generator=generator)) if change else place
        for place, size, change in zip(choice, sizes, changed, strict=True)
    )


def _cross(mother: Choice, father: Choice, generator: torch.Generator) -> Choice:
    mothers = (torch.rand(len(mother), generator=generator) < 0.5).tolist()
    return tuple(m if of_mother else f for m, f, of_mother in zip(mother, father, mothers, strict=True))
