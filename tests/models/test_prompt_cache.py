"""Encodings that are kept on the disk: the same to the last bit, and of the same encoders alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import PROMPTS
from tiny import encoded_texts, tiny_model
from tiny_families import FAMILIES, build


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_run_encodes_no_prompt_again(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = build(family, torch.bfloat16)
    wanted = model.encode_prompt([PROMPTS[1]])
    model.encode_ahead(PROMPTS[:3], tmp_path)
    again = build(family, torch.bfloat16)
    texts = encoded_texts(again, monkeypatch)
    again.encode_ahead(PROMPTS[:4], tmp_path)
    assert texts == ["", PROMPTS[3]]
    pairs: Any = zip(again.encode_prompt([PROMPTS[1]]).tensors(), wanted.tensors(), strict=True)
    assert all(torch.equal(*pair) and pair[0].dtype == pair[1].dtype for pair in pairs)


@pytest.mark.parametrize("change", ["precision", "weights"])
def test_what_others_encoded_is_not_taken(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny_model().encode_ahead(PROMPTS[:2], tmp_path)
    other = tiny_model(torch.float64 if change == "precision" else torch.float32)
    if change == "weights":
        next(other.text_encoder.parameters()).mul_(1.01)
    texts = encoded_texts(other, monkeypatch)
    other.encode_ahead(PROMPTS[:2], tmp_path)
    assert texts == ["", *PROMPTS[:2]]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_damaged_file_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny_model().encode_ahead(PROMPTS[:1], tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    model = tiny_model()
    texts = encoded_texts(model, monkeypatch)
    model.encode_ahead(PROMPTS[:1], tmp_path)
    assert texts == ["", PROMPTS[0]] and path.read_bytes() == whole
