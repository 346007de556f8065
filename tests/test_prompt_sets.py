"""The public prompt sets: counts, groups, and how a name becomes a file."""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_model

from reneg import prompt_sets
from reneg.negatives import check_prompt_lengths
from reneg.prompt_sets import PROMPT_SETS
from reneg.prompts import is_public_set, read_prompts

FILES = {
    "refl": ("THUDM+ImageReward/refl_data.json", 1, 197),
    "hpsv2": ("AIDC-AI+Diffusion-SDPO/hpsv2.json", 4, 26),
    "parti": ("google-research+parti/PartiPrompts.tsv", 12, 0),
    "drawbench": ("openai+dalle3-eval-samples/drawbench.txt", 1, 0),
}
"""Set -> its file in the shared folder, groups, repeated prompts."""


@pytest.mark.parametrize("name", FILES)
def test_counts_groups_and_repetitions(shared_data: Path, caplog: pytest.LogCaptureFixture, name: str):
    file, num_groups, repeated = FILES[name]
    with caplog.at_level(logging.WARNING):
        groups = read_prompts(shared_data / file)
    assert sum(map(len, groups.values())) == PROMPT_SETS[name].num_prompts
    assert len(groups) == num_groups
    # ReFL: 9,803 texts differ as they are written, five fewer without the white space around them.
    expected = repeated + 5 if name == "refl" else repeated
    told = [record.getMessage() for record in caplog.records]
    assert told == (
        [f"--prompts {shared_data / file}: {expected} prompts repeat another of their group; all are kept"]
        if expected
        else []
    )


def test_hpsv2_has_its_four_styles(shared_data: Path):
    groups = read_prompts(shared_data / FILES["hpsv2"][0])
    for style, prompts in groups.items():
        own = json.loads((shared_data / "derived" / "hpsv2" / f"{style}.json").read_text(encoding="utf-8"))
        assert prompts == [prompt.strip() for prompt in own]


def test_parti_keeps_its_quotes(shared_data: Path):
    prompts = [prompt for group in read_prompts(shared_data / FILES["parti"][0]).values() for prompt in group]
    assert any(prompt.startswith('"G I G G L E" painted') for prompt in prompts)


def test_vbench_lists_a_prompt_in_each_of_its_dimensions(shared_data: Path):
    path = shared_data / "Vchitect+VBench" / "VBench_full_info.json"
    groups = read_prompts(path)
    assert len(json.loads(path.read_text(encoding="utf-8"))) == PROMPT_SETS["vbench"].num_prompts
    sizes = {name: len(prompts) for name, prompts in groups.items()}
    assert len(sizes) == 16
    assert (sizes["temporal_flickering"], sizes["motion_smoothness"]) == (75, 72)
    assert (sizes["aesthetic_quality"], sizes["background_consistency"]) == (93, 86)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in of parti behind a file address, and an empty cache."""
    content = b'Prompt\tCategory\na cat\tAnimals\n"a" dog\tAnimals\na car\tVehicles\n'
    path = tmp_path / "remote" / "google-research" / "parti" / "HEAD" / "PartiPrompts.tsv"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    known = replace(PROMPT_SETS["parti"], sha256=hashlib.sha256(content).hexdigest(), num_prompts=3)
    monkeypatch.setitem(PROMPT_SETS, "parti", known)
    monkeypatch.setattr(prompt_sets, "RAW", (tmp_path / "remote").as_uri())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    return path


def test_a_name_is_downloaded_once(small: Path, monkeypatch: pytest.MonkeyPatch):
    expected = {"Animals": ["a cat", '"a" dog'], "Vehicles": ["a car"]}
    assert read_prompts(Path("parti")) == expected
    small.unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert read_prompts(Path("parti")) == expected
    assert read_prompts(Path("parti:Vehicles")) == {"Vehicles": ["a car"]}


def test_what_cannot_be_had_is_refused_in_one_line(small: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="no group 'Arts'; choose from Animals, Vehicles"):
        read_prompts(Path("parti:Arts"))
    with pytest.raises(ValueError, match="no group is named"):
        read_prompts(Path("parti:"))
    (prompt_sets.cache_folder() / "parti.tsv").write_text("damaged")
    small.write_text("Prompt\nanother version\n")
    with pytest.raises(ValueError, match="not the version whose prompts were counted"):
        read_prompts(Path("parti"))
    small.unlink()
    with pytest.raises(ValueError, match="cannot be read .* give the path of a copy"):
        read_prompts(Path("parti"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        read_prompts(Path("parti"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", '{"prompt": "a cat", "style": "photo"}\n\n{"prompt": "a, dog", "style": "photo"}\n'),
        ("x.csv", 'Prompt,Style\na cat,photo\n"a, dog",photo\n'),
        ("x.tsv", "text\tGroup\na cat\tphoto\na, dog\tphoto\n"),
        ("x.json", '[{"text": "a cat", "group": "photo"}, {"text": "a, dog", "group": "photo"}]'),
    ],
)
def test_records_of_every_form(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content)
    assert read_prompts(tmp_path / name) == {"photo": ["a cat", "a, dog"]}


def test_lost_characters_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "x.txt").write_text("caf\ufffd\na cat\n", encoding="utf-8")
    read_prompts(tmp_path / "x.txt")
    assert "1 prompts hold U+FFFD" in caplog.text


def test_long_prompts_of_a_public_set_are_told_and_cut(caplog: pytest.LogCaptureFixture):
    assert is_public_set(Path("parti")) and not is_public_set(Path("mine.txt")) and not is_public_set(None)
    check_prompt_lengths(["w " * 99, "a"], tiny_model(), source=Path("parti"))
    assert "1 of 2 prompts are beyond the limit of 16 tokens of tiny and are cut off" in caplog.text
