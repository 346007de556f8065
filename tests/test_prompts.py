"""Prompts from files."""

import json
from pathlib import Path

import pytest

from reneg.prompts import read_prompts


def test_text_has_one_prompt_a_line(tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("a cat\n\n  a dog \r\nein Käfig\n", encoding="utf-8")
    assert read_prompts(path) == {"mine": ["a cat", "a dog", "ein Käfig"]}


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("a cat", encoding="utf-8-sig")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert read_prompts(path) == {"mine": ["a cat"]}


def test_json_has_a_list_or_groups_in_their_order(tmp_path: Path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(["a cat", " a dog"]))
    assert read_prompts(path) == {"mine": ["a cat", "a dog"]}
    groups = {"z": ["a cat"], "a": ["a dog", ""], "empty": []}
    path.write_text(json.dumps(groups))
    assert list(read_prompts(path).items()) == [("z", ["a cat"]), ("a", ["a dog"])]


BAD = {
    "empty.txt": (b"\n  \n", "holds no prompt"),
    "none.txt": (b"", "holds no prompt"),
    "none.json": (b"[]", "holds no prompt"),
    "groups.json": (b'{"a": [], "b": [" "]}', "holds no prompt"),
    "broken.json": (b'["a cat"', "cannot be read"),
    "utf.txt": (b"\xff\xfe\xfa", "cannot be read"),
    "list.yaml": (b"- a cat", "the suffix is none of .txt, .json"),
    "number.json": (b"3", "is not a list of texts"),
    "numbers.json": (b'{"a": [1, 2]}', "group 'a' is not a list of texts"),
    "nested.json": (b'{"a": {"b": ["a cat"]}}', "group 'a' is not a list of texts"),
    "text.json": (b'"a cat"', "is not a list of texts"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_give_one_line_that_names_flag_and_file(tmp_path: Path, name: str):
    content, message = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_prompts(path, flag="--mine")
    assert f"--mine {path}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gone.txt", "."])
def test_what_is_no_file_is_named(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="--prompts .* there is no such file"):
        read_prompts(tmp_path / name)
