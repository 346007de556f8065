"""Spoilt files: each is refused in one line or is a valid embedding; nothing executes and nothing crashes."""

import json
from pathlib import Path
from random import Random

import pytest
import torch
from mutations import KINDS, TRACE, UNMUTATED, Bomb, bomb, torch_file

from reneg.negative import NegativeEmbedding, describe

SUFFIXES = (".safetensors", ".bin")
FEW, MANY = 15, 500


def outcome(path: Path) -> str:
    """Load a file as the commands do, and check whatever comes of it."""
    try:
        negative = NegativeEmbedding.load(path)
    except (ValueError, OSError) as error:
        assert "\n" not in str(error) and str(path) in str(error) and len(str(error)) < 1000
        return "refused"
    embeds, null = negative.negative_prompt_embeds, negative.null_prompt_embeds
    assert embeds.dtype == torch.float32 and embeds.ndim == 3 and len(embeds) == 1 and embeds.numel() > 0
    assert all(tensor.isfinite().all() for tensor in negative.tensors().values())
    assert null is None or null.shape == embeds.shape
    assert all(text.isprintable() for pair in describe(negative).items() for text in pair)
    return "loaded"


def spoil(kind: str, count: int) -> dict[str, int]:
    """Outcome -> number of files, of `count` files of one kind; the same files at every call."""
    make, expected = KINDS[kind] if kind in KINDS else (UNMUTATED[kind], "loaded")
    counts = {"loaded": 0, "refused": 0}
    for number in range(count):
        rng = Random(f"{kind} {number}")
        path = Path(f"file{rng.choice(SUFFIXES)}")
        path.write_bytes(make(rng))
        got = outcome(path)
        assert expected in (got, "either"), f"{kind}, number {number}: {got}"
        assert not TRACE.exists(), f"{kind}, number {number}: was executed"
        counts[got] += 1
    return counts


@pytest.mark.parametrize("kind", [*KINDS, *UNMUTATED])
def test_some_spoilt_files(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert sum(spoil(kind, FEW).values()) == FEW


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_thousand_spoilt_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config):
    results = pytestconfig.getoption("--mutation-results")
    results = results and results.resolve()
    monkeypatch.chdir(tmp_path)
    mutated = {kind: spoil(kind, MANY) for kind in KINDS}
    unmutated = {kind: spoil(kind, MANY) for kind in UNMUTATED}
    total = sum(sum(counts.values()) for counts in mutated.values())
    if results is not None:
        summary = {"mutated_files": total, "executed": 0, "crashed": 0, "mutated": mutated, "unmutated": unmutated}
        results.write_text(json.dumps(summary, indent=1) + "\n")
    assert total >= 10_000


@pytest.mark.parametrize("number", range(8))
def test_the_bombs_are_live(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Loaded without the package's care, each would have left its trace."""
    monkeypatch.chdir(tmp_path)
    planted: Bomb = bomb(Random(number))
    Path("x.bin").write_bytes(torch_file(planted))
    torch.load("x.bin", weights_only=False)
    assert TRACE.exists()
