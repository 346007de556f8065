"""The words that DPO-Diff searches: some slots, each of which holds one of its words or stays empty.

The negative prompt is what the slots hold, separated by commas.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reneg.interfaces import DiffusionModel
from reneg.negatives import HANDCRAFTED_NEGATIVE_PROMPT
from reneg.world import DENOISERS, load_captions

EMPTY = ""
SEPARATOR = ", "
Choice = tuple[int, ...]
"""The place of a word in each slot; 0 is the empty one."""


@dataclass(frozen=True)
class SearchSpace:
    """The candidates for one prompt."""

    slots: list[list[str]]
    """The first word of each is empty."""

    @property
    def null(self) -> Choice:
        """All slots empty: the null text."""
        return (0,) * len(self.slots)

    def text(self, choice: Choice) -> str:
        """The negative prompt of a choice."""
        words = (slot[place] for slot, place in zip(self.slots, choice, strict=True))
        return SEPARATOR.join(word for word in words if word != EMPTY)


def opposites_in_world(prompt: str, vocabulary: dict[str, list[str]]) -> list[list[str]]:
    """For each word of a prompt the words that exclude it in the world's captions: its antonym space.

    Longer names are found first: "red apple on a blue background" is blue, and not red.
    """
    left, found = prompt, {}
    kinds = [(word, kind) for kind, words in vocabulary.items() if kind != "fault" for word in words]
    for word, kind in sorted(kinds, key=lambda pair: -len(pair[0])):
        pattern = rf"(?<![\w-]){re.escape(word)}(?![\w-])"
        if kind not in found and re.search(pattern, left):
            found[kind] = [other for other in vocabulary[kind] if other != word]
            left = re.sub(pattern, " ", left, count=1)
    return [found[kind] for kind in vocabulary if kind in found]


def read_antonyms(path: Path) -> dict[str, list[list[str]]]:
    """Prompt -> the opposites of each of its words, from the authors' layout.

    Raises:
        ValueError: the file is not there or has another layout.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        spaces = {prompt: list(entry["antonym"].values()) for prompt, entry in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'--antonyms {path} cannot be read ({error}); give JSON, {{prompt: {{"antonym": {{word: [opposites]}}}}}}'
        ) from error
    texts = [word for space in spaces.values() for words in space for word in words]
    if not all(isinstance(word, str) for word in texts):
        raise ValueError(f"--antonyms {path}: the opposites of a word must be a list of texts")
    return spaces


def split_evenly(words: Sequence[str], count: int) -> list[list[str]]:
    """Words in so many consecutive slots of about one size."""
    return [list(words[len(words) * number // count : len(words) * (number + 1) // count]) for number in range(count)]


def search_spaces(
    model: DiffusionModel, antonyms: Path | None, library_slots: int, *, single_tokens: bool
) -> Callable[[str], SearchSpace]:
    """What gives the space of each prompt, or raises ValueError where there is none.

    Args:
        single_tokens: leave out words of several tokens, as the authors do, for the gradient.
    """
    in_world = model.name in DENOISERS
    published = None if antonyms is None else read_antonyms(antonyms)
    library = load_captions().vocabulary["fault"] if in_world else HANDCRAFTED_NEGATIVE_PROMPT.split(SEPARATOR)

    def space(prompt: str) -> SearchSpace:
        slots = split_evenly(library, library_slots)
        if published is not None:
            if prompt not in published:
                raise ValueError(f"--antonyms {antonyms} has no entry for the prompt {prompt!r}")
            slots = published[prompt] + slots
        elif in_world:
            slots = opposites_in_world(prompt, load_captions().vocabulary) + slots
        if single_tokens:
            slots = [[word for word in slot if model.count_tokens(word) == 3] for slot in slots]  # start, word, end
        return _checked([slot for slot in slots if slot], prompt, model)

    return space


def _checked(slots: list[list[str]], prompt: str, model: DiffusionModel) -> SearchSpace:
    if not slots:
        raise ValueError(f"there is no word to search for {prompt!r}; give --antonyms, or --library_slots above 0")
    longest = SEPARATOR.join(max(slot, key=model.count_tokens) for slot in slots)
    if model.count_tokens(longest) > model.max_tokens:
        raise ValueError(
            f"{len(slots)} words can be beyond the limit of {model.max_tokens} tokens of {model.name}; "
            "give fewer --library_slots, or --antonyms of fewer words"
        )
    return SearchSpace([[EMPTY, *slot] for slot in slots])
