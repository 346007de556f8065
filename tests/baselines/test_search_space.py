"""The words that are searched: opposites and libraries, as texts."""

import json
from pathlib import Path

import pytest
from fakes import GaussianModel

from reneg.baselines.search_space import SearchSpace, opposites_in_world, read_antonyms, search_spaces, split_evenly
from reneg.world import load_captions, load_prompts

VOCABULARY = load_captions().vocabulary


class Named(GaussianModel):
    """The fake under another name: what a model is called decides which words it gets."""

    def __init__(self, name: str, max_tokens: int = 77):
        super().__init__()
        self.name, self.max_tokens = name, max_tokens


def test_a_choice_is_its_words_between_commas():
    space = SearchSpace([["", "red", "blue"], ["", "blurry"], ["", "low quality"]])
    assert space.null == (0, 0, 0)
    assert space.text(space.null) == ""
    assert space.text((2, 0, 1)) == "blue, low quality"
    assert space.text((1, 1, 1)) == "red, blurry, low quality"


def test_opposites_are_the_other_words_of_the_same_kind():
    found = opposites_in_world("noto drawing of a large fox at the left on a blue background", VOCABULARY)
    style, size, subject, place, colour = found
    assert (style, size, place) == (["twemoji", "fluent"], ["small"], ["right", "top", "bottom"])
    assert colour == ["white", "grey", "black", "red", "yellow", "green", "purple"]
    assert subject == [name for name in VOCABULARY["subject"] if name != "fox"]


def test_longer_names_are_read_first():
    _, subject, colour = opposites_in_world("fluent drawing of a red apple on a blue background", VOCABULARY)
    assert "red apple" not in subject and len(subject) == len(VOCABULARY["subject"]) - 1
    assert "blue" not in colour and "red" in colour
    found = opposites_in_world("noto drawing of a top hat at the top on a black background", VOCABULARY)
    assert "top hat" not in found[1] and found[2] == ["left", "right", "bottom"]


def test_every_evaluation_prompt_of_the_world_has_opposites_of_style_subject_and_colour():
    for group in load_prompts().evaluate.values():
        for prompt in group:
            sizes = [len(slot) for slot in opposites_in_world(prompt, VOCABULARY)]
            assert sizes[0] == 2 and len(VOCABULARY["subject"]) - 1 in sizes and sizes[-1] == 7, prompt


def test_words_are_split_evenly_and_in_order():
    words = [str(number) for number in range(10)]
    parts = split_evenly(words, 4)
    assert [len(part) for part in parts] == [2, 3, 2, 3]
    assert [word for part in parts for word in part] == words
    assert split_evenly(words, 0) == []


def test_the_world_has_opposites_and_faults_and_other_models_the_words_of_the_handwritten_prompt():
    world = search_spaces(Named("world"), None, 4, single_tokens=False)("noto drawing of a fox on a blue background")
    assert len(world.slots) == 3 + 4 and all(slot[0] == "" for slot in world.slots)
    assert [word for slot in world.slots[3:] for word in slot[1:]] == VOCABULARY["fault"]
    other = search_spaces(Named("sd"), None, 4, single_tokens=False)("a cat")
    assert [word for slot in other.slots for word in slot[1:]][:3] == ["distorted", "ugly", "blurry"]


def test_words_of_several_tokens_are_left_out_for_the_gradient():
    space = search_spaces(Named("world"), None, 4, single_tokens=True)("noto drawing of a fox on a blue background")
    words = [word for slot in space.slots for word in slot[1:]]
    assert "blurry" in words and "low quality" not in words and "red apple" not in words


def test_published_antonyms_are_read_by_prompt(tmp_path: Path):
    file = tmp_path / "antonyms.json"
    entry = {"antonym": {"plane": ["train", "boat"], "flies": ["sinks"]}, "prompt_id": 3, "prompt": "a plane flies"}
    file.write_text(json.dumps({"a plane flies": entry}))
    assert read_antonyms(file) == {"a plane flies": [["train", "boat"], ["sinks"]]}
    space_of = search_spaces(Named("sd"), file, 0, single_tokens=False)
    assert space_of("a plane flies").slots == [["", "train", "boat"], ["", "sinks"]]
    with pytest.raises(ValueError, match="--antonyms .* has no entry for the prompt 'a cat'"):
        space_of("a cat")


@pytest.mark.parametrize("content", ["[", "[1]", '{"a": {"synonym": {}}}', '{"a": {"antonym": {"b": [1]}}}'])
def test_another_layout_is_refused(content: str, tmp_path: Path):
    (tmp_path / "antonyms.json").write_text(content)
    with pytest.raises(ValueError, match="--antonyms"):
        read_antonyms(tmp_path / "antonyms.json")


def test_nothing_to_search_and_too_much_of_it_are_refused():
    with pytest.raises(ValueError, match="no word to search .* --library_slots above 0"):
        search_spaces(Named("sd"), None, 0, single_tokens=False)("a cat")
    with pytest.raises(ValueError, match="limit of 5 tokens"):
        search_spaces(Named("sd", 5), None, 4, single_tokens=False)("a cat")
