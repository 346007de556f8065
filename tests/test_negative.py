"""The file of a negative embedding: what comes back, what is refused, and which encoder it fits."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reneg.interfaces import Conditioning
from reneg.negative import (
    EMBEDS,
    MASK,
    NULL_EMBEDS,
    POOLED,
    NegativeEmbedding,
    describe,
    is_file_reference,
    tensor_hash,
)


def draw(seed: int) -> Tensor:
    return torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def negative() -> NegativeEmbedding:
    return NegativeEmbedding(draw(0), draw(1), {"base_model": "tiny", "config": json.dumps({"seed": 3, "model": "m"})})


@pytest.fixture
def path(negative: NegativeEmbedding, tmp_path: Path) -> Path:
    negative.save(tmp_path / "own.safetensors")
    return tmp_path / "own.safetensors"


def test_what_is_saved_comes_back(negative: NegativeEmbedding, path: Path):
    loaded = NegativeEmbedding.load(path)
    assert loaded.null_prompt_embeds is not None and negative.null_prompt_embeds is not None
    assert torch.equal(loaded.negative_prompt_embeds, negative.negative_prompt_embeds)
    assert torch.equal(loaded.null_prompt_embeds, negative.null_prompt_embeds)
    assert negative.metadata.items() <= loaded.metadata.items()
    assert loaded.metadata["format"] == "reneg/1"
    loaded.save(path)  # what was loaded can be saved again
    assert NegativeEmbedding.load(path).metadata == loaded.metadata


def test_a_parameter_in_another_precision_and_layout_is_saved_as_float32(tmp_path: Path):
    parameter = torch.nn.Parameter(draw(0).double().transpose(1, 2).contiguous().transpose(1, 2))
    NegativeEmbedding(parameter, draw(1).bfloat16()).save(tmp_path / "x.safetensors")
    tensors = load_file(tmp_path / "x.safetensors")
    assert tensors.keys() == {EMBEDS, NULL_EMBEDS}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert torch.equal(tensors[EMBEDS], draw(0))


def test_expand_repeats_for_a_pipeline(negative: NegativeEmbedding):
    expanded = negative.expand(3)
    assert expanded.shape == (3, 5, 6)
    for row in expanded:
        assert torch.equal(row, negative.negative_prompt_embeds[0])
    assert torch.equal(negative.conditioning().prompt_embeds, negative.negative_prompt_embeds)
    assert isinstance(negative.conditioning(), Conditioning)


class Bomb:
    """Its pickle creates a file when it is executed."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def truncate_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def write_text(path: Path) -> None:
    path.write_text("a negative prompt")


def flip_bit_of_the_null_text(path: Path) -> None:
    """Metadata first, then the tensors by name: negative_prompt_embeds, null_prompt_embeds."""
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)


def flip_bit_of_the_embedding(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5 * 6 * 4 - 8] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, **tensors: Tensor | None) -> None:
    """Replace tensors, None deletes one; the checksum stays as it was, as in a file that somebody made."""
    changed = {name: tensor for name, tensor in (load_file(path) | tensors).items() if tensor is not None}
    save_file(changed, path, metadata={"format": "reneg/1", "sha256": "0" * 64})


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD = {
    "truncated": (truncate, "not a readable safetensors file"),
    "truncated header": (truncate_header, "not a readable safetensors file"),
    "empty": (empty, "not a readable safetensors file"),
    "text": (write_text, "not a readable safetensors file"),
    "flipped bit, null text": (flip_bit_of_the_null_text, "is damaged"),
    "flipped bit, embedding": (flip_bit_of_the_embedding, "is damaged"),
    "folder": (make_folder, "is a folder"),
    "no null text": (lambda path: rewrite(path, **{NULL_EMBEDS: None}), "a negative embedding holds"),
    "other keys": (lambda path: rewrite(path, **{EMBEDS: None, "lora": draw(0)}), "a negative embedding holds"),
    "no batch dimension": (lambda path: rewrite(path, **{EMBEDS: draw(0)[0]}), r"\(5, 6\)"),
    "two embeddings": (lambda path: rewrite(path, **{EMBEDS: draw(0).repeat(2, 1, 1)}), r"\(2, 5, 6\)"),
    "other shapes": (lambda path: rewrite(path, **{EMBEDS: draw(0)[:, :4].contiguous()}), r"\(1, 4, 6\)"),
    "no tokens": (lambda path: rewrite(path, **{n: torch.zeros(1, 0, 6) for n in (EMBEDS, NULL_EMBEDS)}), "tokens"),
    "integers": (lambda path: rewrite(path, **{EMBEDS: torch.zeros(1, 5, 6, dtype=torch.int32)}), "floating point"),
    "integer null text": (
        lambda path: rewrite(path, **{NULL_EMBEDS: torch.zeros(1, 5, 6, dtype=torch.int64)}),
        "floating point",
    ),
    "NaN": (lambda path: rewrite(path, **{EMBEDS: draw(0).fill_(float("nan"))}), "NaN or infinity"),
    "infinity": (lambda path: rewrite(path, **{NULL_EMBEDS: draw(0).fill_(float("inf"))}), "NaN or infinity"),
    "no checksum of its own": (lambda path: rewrite(path, **{EMBEDS: draw(7)}), "is damaged"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_give_one_clear_line(path: Path, kind: str):
    spoil, message = BAD[kind]
    spoil(path)
    with pytest.raises(ValueError, match=message) as error:
        NegativeEmbedding.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no negative embedding at .*gone\.safetensors"):
        NegativeEmbedding.load(tmp_path / "gone.safetensors")


def test_a_renamed_pickle_is_refused_and_never_executed(tmp_path: Path):
    path, trace = tmp_path / "evil.safetensors", tmp_path / "executed"
    bomb = pickle.dumps(Bomb(trace))
    path.write_bytes(bomb)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        NegativeEmbedding.load(path)
    assert not trace.exists()
    pickle.loads(bomb)  # the bomb is live: loading it as a pickle would have left the trace
    assert trace.exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_same_encoder_in_half_precision_is_accepted(negative: NegativeEmbedding, dtype: torch.dtype):
    assert negative.null_prompt_embeds is not None
    negative.check_encoder(negative.null_prompt_embeds.to(dtype), "the same")


@pytest.mark.parametrize(
    "other",
    [draw(2), draw(1)[:, :4], draw(1)[..., :3], draw(1) * 1.05, draw(1).roll(1, 1), draw(1) * float("nan")],
    ids=["weights", "tokens", "width", "scale", "order", "nan"],
)
def test_another_encoder_is_refused_with_both_named(negative: NegativeEmbedding, other: Tensor):
    with pytest.raises(
        ValueError, match=r"5x6, learned on tiny\) belongs to another text encoder .* elsewhere"
    ) as error:
        negative.check_encoder(other, "elsewhere")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "is_file"),
    [
        ("runs/learn/negative_embedding.safetensors", True),
        ("x.safetensors", True),
        ("X.SafeTensors", True),
        ("old.bin", True),
        ("old.pt", True),
        ("runs/learn", True),
        ("./blurry", True),
        ("null", False),
        ("blurry, low quality", False),
        ("made in safetensors", False),
        ("a. b. c", False),
    ],
)
def test_what_counts_as_a_file(text: str, is_file: bool):
    assert is_file_reference(text) == is_file


def test_describe_tells_shape_distance_and_history(negative: NegativeEmbedding):
    facts = describe(negative)
    assert facts["shape"] == "5 tokens x 6"
    distance = (draw(0) - draw(1)).norm() / draw(1).norm()
    assert facts["distance from the null text"] == f"{float(distance):.3f} of its norm"
    assert facts["base model"] == "tiny"
    assert facts["config: seed"] == "3"
    assert "config" not in facts


@pytest.mark.parametrize(("rank", "told"), [(0, "0"), (1, "1"), (3, "3")])
def test_describe_counts_the_directions_of_the_change(rank: int, told: str):
    basis = torch.eye(6)[:rank]
    delta = torch.eye(5)[:, :rank] @ basis
    facts = describe(NegativeEmbedding(draw(1) + delta, draw(1)))
    assert facts["directions with 90 % of that change"] == told


def test_a_pooled_vector_and_a_mask_survive_a_file(tmp_path: Path):
    pooled, mask = draw(2)[:, 0], torch.ones(1, 5)
    negative = NegativeEmbedding(draw(0), draw(1), {}, pooled, mask)
    negative.save(tmp_path / "x.safetensors")
    loaded = NegativeEmbedding.load(tmp_path / "x.safetensors").conditioning()
    assert loaded.pooled_prompt_embeds is not None and loaded.prompt_attention_mask is not None
    assert torch.equal(loaded.pooled_prompt_embeds, pooled)
    assert torch.equal(loaded.prompt_attention_mask, mask)


@pytest.mark.parametrize("wrong", [{POOLED: (2, 4)}, {POOLED: (4,)}, {MASK: (1, 4)}, {"another": (1, 5, 6)}])
def test_further_tensors_of_a_wrong_shape_or_name_are_refused(tmp_path: Path, wrong: dict[str, tuple[int, ...]]):
    path = tmp_path / "x.safetensors"
    tensors = {EMBEDS: draw(0), NULL_EMBEDS: draw(1)} | {name: torch.ones(shape) for name, shape in wrong.items()}
    save_file(tensors, path, metadata={"sha256": tensor_hash(*tensors.values())})
    with pytest.raises(ValueError, match="must be floating point"):
        NegativeEmbedding.load(path)


@pytest.mark.parametrize("config", ["[", "[" * 100_000, "[1]", "3", '{"a": {"b": [1]}}', "9" * 5000])
def test_describe_survives_whatever_the_metadata_holds(config: str):
    metadata = {"config": config, "base_model": "a\x1b[31m\nb", "shape": "a lie"}
    facts = describe(NegativeEmbedding(draw(0), draw(1), metadata))
    assert facts["shape"] == "5 tokens x 6"
    assert all(text.isprintable() for pair in facts.items() for text in pair)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 1), (1, 1, 6), (1, 100_000, 1)], ids=str)
@pytest.mark.parametrize("value", [0.0, 3e38, -3e38])
def test_describe_survives_any_finite_tensor(shape: tuple[int, ...], value: float):
    embeds = torch.full(shape, value)
    assert describe(NegativeEmbedding(embeds, -embeds))["shape"] == f"{shape[1]} tokens x {shape[2]}"


def test_the_refusal_tells_which_models_would_fit():
    negative = NegativeEmbedding(torch.ones(1, 77, 2048), torch.ones(1, 77, 2048), {"base_model": "mine"})
    with pytest.raises(ValueError, match=r"learned on mine\) .* that of sd1.5 \(77x768\).* read by SDXL"):
        negative.check_encoder(torch.ones(1, 77, 768), "sd1.5")
