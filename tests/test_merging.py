"""Merging and strength: known answers, equality with slerp's formula, and refusals."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reneg.cli import EXIT_BAD_INPUT, main
from reneg.interfaces import Conditioning
from reneg.merging import Method, between, merge, spherical_mean
from reneg.negative import UNPROVEN, NegativeEmbedding


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (1, 5, 6), generator=torch.Generator().manual_seed(seed))


NULL = draw(100)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def embedding(seed: int, null: Tensor | None = NULL, **metadata: str) -> NegativeEmbedding:
    return NegativeEmbedding(draw(seed), null, {"base_model": "tiny", "seed": str(seed)} | metadata)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Shoemake's formula for two unit vectors."""
    angle = torch.arccos((a * b).sum(-1, keepdim=True))
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_the_mean_of_two_is_slerp(t: float):
    a, b = draw(1).double(), draw(2).double()
    lengths = (1 - t) * a.norm(dim=-1, keepdim=True) + t * b.norm(dim=-1, keepdim=True)
    expected = slerp(a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True), t) * lengths
    torch.testing.assert_close(spherical_mean([a, b], [1 - t, t]), expected, rtol=0, atol=1e-12)


def test_the_mean_of_several_depends_on_no_order_and_balances():
    vectors, weights = [draw(seed, 7, 6).double() for seed in range(3)], [0.5, 0.2, 0.3]
    mean = spherical_mean(vectors, weights)
    order = [2, 0, 1]
    other = spherical_mean([vectors[i] for i in order], [weights[i] for i in order])
    torch.testing.assert_close(mean, other, rtol=0, atol=1e-10)
    direction, balance = mean / mean.norm(dim=-1, keepdim=True), torch.zeros(7, 6, dtype=torch.float64)
    for vector, weight in zip(vectors, weights, strict=True):  # the weighted arcs from the mean cancel
        unit = vector / vector.norm(dim=-1, keepdim=True)
        aside = unit - (unit * direction).sum(-1, keepdim=True) * direction
        angle = torch.arccos((unit * direction).sum(-1, keepdim=True))
        balance += weight * angle * aside / aside.norm(dim=-1, keepdim=True)
    assert balance.abs().max() < 1e-7


def test_a_right_angle_is_halved():
    mean = spherical_mean([torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])], [0.5, 0.5])
    torch.testing.assert_close(mean, torch.tensor([[3 / math.sqrt(2), 3 / math.sqrt(2)]]))


def test_zero_tokens_are_averaged_and_opposite_ones_refused():
    a, b = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 4.0], [1.0, 0.0]])
    assert torch.equal(spherical_mean([a, b], [0.5, 0.5]), torch.tensor([[1.0, 2.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="opposite directions; use --method lerp"):
        spherical_mean([a[1:], -a[1:]], [0.5, 0.5])


@pytest.mark.parametrize("method", ["lerp", "slerp"])
def test_the_whole_weight_of_one_is_that_one(method):
    merged = merge([embedding(1), embedding(2)], ["a", "b"], [0.0, 1.0], method)
    torch.testing.assert_close(merged.negative_prompt_embeds, draw(2), rtol=0, atol=1e-6)
    merged = merge([embedding(1), embedding(1)], ["a", "b"], [0.3, 0.7], method)
    torch.testing.assert_close(merged.negative_prompt_embeds, draw(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", [[0.6], [0.3, 0.9], [1.0, -0.5, 0.25], [0.5, 0.5]], ids=str)
def test_lerp_adds_the_changes_from_the_null_text(weights: list[float]):
    seeds = range(len(weights))
    merged = merge([embedding(seed) for seed in seeds], [str(seed) for seed in seeds], weights, "lerp")
    expected = NULL + torch.stack([w * (draw(s) - NULL) for s, w in zip(seeds, weights, strict=True)]).sum(0)
    torch.testing.assert_close(merged.negative_prompt_embeds, expected, rtol=0, atol=2e-6)
    assert merged.null_prompt_embeds is not None and torch.equal(merged.null_prompt_embeds, NULL)


def test_the_command_writes_a_file_with_its_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for seed in (1, 2):
        embedding(seed, reward=f"r{seed}", family="sd").save(f"{seed}.safetensors")
    checksums = [NegativeEmbedding.load(f"{seed}.safetensors").metadata["sha256"] for seed in (1, 2)]
    files = ["1.safetensors", "2.safetensors"]
    assert main(["merge", *files, "--weights", "0.75", "0.25", "--method", "slerp", "--output", "m.safetensors"]) == 0
    assert capsys.readouterr().out == "Embedding: m.safetensors\n"
    metadata = NegativeEmbedding.load("m.safetensors").metadata
    assert (metadata["base_model"], metadata["family"], metadata["merge_method"]) == ("tiny", "sd", "slerp")
    assert "reward" not in metadata  # they differ
    assert json.loads(metadata["merged_from"]) == [
        {"file": "1.safetensors", "weight": 0.75, "base_model": "tiny", "reward": "r1", "seed": "1"}
        | {"sha256": checksums[0]},
        {"file": "2.safetensors", "weight": 0.25, "base_model": "tiny", "reward": "r2", "seed": "2"}
        | {"sha256": checksums[1]},
    ]
    assert main(["merge", *files, "--output", "mean.safetensors"]) == 0
    mean = NegativeEmbedding.load("mean.safetensors").negative_prompt_embeds
    torch.testing.assert_close(mean, (draw(1) + draw(2)) / 2, rtol=0, atol=1e-6)
    assert main(["merge", files[0], "--weights", "0.6", "--output", "weak.safetensors"]) == 0
    weak = NegativeEmbedding.load("weak.safetensors").negative_prompt_embeds
    torch.testing.assert_close(weak, NULL + 0.6 * (draw(1) - NULL), rtol=0, atol=1e-6)


def test_pooled_vectors_are_merged_and_masks_kept():
    mask = torch.tensor([[1.0, 1, 0, 0, 0]])
    parts = [NegativeEmbedding(draw(s), NULL, {}, draw(s + 10, 1, 7), mask) for s in (1, 2)]
    merged = merge(parts, ["a", "b"], [0.25, 0.75], "lerp")
    assert merged.negative_pooled_prompt_embeds is not None and merged.negative_prompt_attention_mask is mask
    expected = 0.25 * draw(11, 1, 7) + 0.75 * draw(12, 1, 7)
    torch.testing.assert_close(merged.negative_pooled_prompt_embeds, expected, rtol=0, atol=1e-6)


def test_a_file_without_a_null_text_makes_the_result_unproven():
    merged = merge([embedding(1), embedding(2, None)], ["a", "b"], [0.5, 0.5], "lerp")
    assert merged.null_prompt_embeds is None and merged.metadata["fingerprint"] == UNPROVEN
    merged.save("x.safetensors")
    assert NegativeEmbedding.load("x.safetensors").null_prompt_embeds is None


MASKED = NegativeEmbedding(draw(1), NULL, {}, None, torch.ones(1, 5))
POOLED = NegativeEmbedding(draw(1), NULL, {}, draw(9, 1, 7))
WIDER = NegativeEmbedding(draw(1, 1, 5, 8), draw(2, 1, 5, 8))
REFUSED: dict[str, tuple[list[NegativeEmbedding], list[float], Method, str]] = {
    "other shape": ([embedding(1), WIDER], [0.5, 0.5], "lerp", r"a and b are for different .* \(5x6 and 5x8\)"),
    "other encoder": ([embedding(1), embedding(2, draw(7))], [0.5, 0.5], "lerp", "a and b are for different text enc"),
    "mask": ([embedding(1), MASKED], [0.5, 0.5], "lerp", "different masks"),
    "pooled": ([embedding(1), POOLED], [0.5, 0.5], "lerp", "different pooled vectors"),
    "number of weights": ([embedding(1), embedding(2)], [1.0], "lerp", "--weights: got 1 for 2 files"),
    "slerp's sum": ([embedding(1), embedding(2)], [0.5, 0.6], "slerp", "sum to 1.1: --method slerp"),
    "slerp's sign": ([embedding(1), embedding(2)], [1.5, -0.5], "slerp", "from 0 that sum to 1"),
    "no null text": ([embedding(1, None), embedding(2)], [0.5, 0.6], "lerp", "official file has no null text"),
    "pooled sum": ([POOLED, POOLED], [0.5, 0.6], "lerp", "pooled vector"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_merged_is_refused(kind: str):
    parts, weights, method, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message) as error:
        merge(parts, ["a", "b"], weights, method)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.safetensors", "--output", "x.safetensors"], "give two or more files to merge, or one and --weights 0.6"),
        (["a.safetensors", "b.safetensors", "--output", "x.bin"], "--output x.bin: must end in .safetensors"),
        (["a", "b", "--weights", "1", "--output", "x.safetensors"], "--weights: got 1 for 2 files"),
        (["a", "b", "--weights", "1", "1e9", "--output", "x.safetensors"], "must be numbers up to 100"),
        (["a", "b", "--output", "x.safetensors"], "no negative embedding at a"),
        (["a", "b", "--method", "add", "--output", "x.safetensors"], "method"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["merge", *arguments]) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_strength_goes_from_the_null_text_to_the_negative_and_beyond():
    null, negative = (Conditioning(draw(s), draw(s + 20, 1, 7), torch.ones(1, 5)) for s in (0, 1))
    assert between(null, negative, 0.0) is null and between(null, negative, 1.0) is negative
    for strength in (0.6, 1.5):
        got = between(null, negative, strength)
        torch.testing.assert_close(got.prompt_embeds, draw(0) + strength * (draw(1) - draw(0)))
        assert got.pooled_prompt_embeds is not None
        torch.testing.assert_close(got.pooled_prompt_embeds, torch.lerp(draw(20, 1, 7), draw(21, 1, 7), strength))
    other = Conditioning(draw(1), draw(21, 1, 7))
    with pytest.raises(ValueError, match="--strength 0.5: this negative reads other tokens"):
        between(null, other, 0.5)
