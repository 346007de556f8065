"""Names, values, prompts and real pictures of a comparison."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_model

from reneg.config import EvaluateConfig
from reneg.evaluation.comparison import load_groups, load_real_pictures, thin
from reneg.evaluation.contenders import Contender, load_contenders, split_name
from reneg.interfaces import DiffusionModel
from reneg.negative import NegativeEmbedding
from reneg.targets.denoiser import all_weights
from reneg.targets.lora import lora
from reneg.targets.text_encoder import TextEncoderTarget

PROMPTS = ["a cat", "a big dog", "a hen"]


def load(negatives: list[str], model: DiffusionModel, **changes: Any) -> list[Contender]:
    return load_contenders(EvaluateConfig(negatives=negatives, **changes), model, PROMPTS)


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(**fields: Any) -> list[dict[str, Any]]:
    """A row for each prompt, with the same fields."""
    return [{"prompt": prompt, **fields} for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("null", "null", "null"),
        ("handcrafted", "handcrafted", "handcrafted"),
        ("ours=runs/a/x.safetensors", "ours", "runs/a/x.safetensors"),
        ("runs/seed0/negative_embedding.safetensors", "seed0", "runs/seed0/negative_embedding.safetensors"),
        ("runs/seed0/best.safetensors", "best", "runs/seed0/best.safetensors"),
        ("runs/lr=0.1/best.safetensors", "best", "runs/lr=0.1/best.safetensors"),
        ("runs/lora8/pytorch_lora_weights.safetensors", "lora8", "runs/lora8/pytorch_lora_weights.safetensors"),
        ("runs/dnp/negatives.jsonl", "dnp", "runs/dnp/negatives.jsonl"),
        ("both=a/x.jsonl + b/y.safetensors", "both", "a/x.jsonl + b/y.safetensors"),
        ("a/x.jsonl + b/y.safetensors", "x + y", "a/x.jsonl + b/y.safetensors"),
        ("blurry, a = b", "blurry, a = b", "blurry, a = b"),
        ("blurry, dull, grainy, distorted", "blurry, dull, grainy, di…", "blurry, dull, grainy, distorted"),
    ],
)
def test_names_and_values(text, name, value):
    assert split_name(text) == (name, value)


def test_an_existing_file_with_an_equals_sign_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1.safetensors").write_text("")
    assert split_name("lr=1.safetensors") == ("lr=1", "lr=1.safetensors")
    (tmp_path / "negative_embedding.safetensors").write_text("")
    assert split_name("negative_embedding.safetensors")[0] == tmp_path.name


def test_two_of_one_name_are_refused(counting_model):
    with pytest.raises(ValueError, match="--negatives: more than one is called 'a'"):
        load(["a=x", "null", "a=y"], counting_model)


def test_files_bring_their_metadata(counting_model, tmp_path):
    null = counting_model.encode_prompt([""]).prompt_embeds
    NegativeEmbedding(null + 1, null, {"seed": "7"}).save(tmp_path / "own.safetensors")
    own = load([str(tmp_path / "own.safetensors"), "null"], counting_model)[0]
    assert (own.name, own.kind, own.parts[0].metadata["seed"]) == ("own", "negative embedding", "7")
    assert own.parts[0].num_bytes == (tmp_path / "own.safetensors").stat().st_size
    assert torch.equal(own.negative.of(counting_model, ["a cat"]).prompt_embeds, null + 1)


def test_max_prompts_thins_every_group_evenly(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"a": [f"a{i}" for i in range(10)], "b": ["b0", "b1"]}))
    assert load_groups(EvaluateConfig(prompts=path, max_prompts=3)) == {"a": ["a0", "a3", "a6"], "b": ["b0", "b1"]}
    assert thin(["x", "y"], None) == ["x", "y"]


def test_real_pictures_round_trip_and_damage(tmp_path):
    path = tmp_path / "real.safetensors"
    assert load_real_pictures(path) is None
    pictures = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    save_file({"pictures": pictures}, path, metadata={"prompts": json.dumps(["a", "b"])})
    real = load_real_pictures(path)
    assert real is not None and real.prompts == ["a", "b"] and torch.equal(real.pictures, pictures)
    save_file({"pictures": pictures}, path, metadata={"prompts": json.dumps(["a"])})
    with pytest.raises(ValueError, match="one 8-bit picture a prompt"):
        load_real_pictures(path)
    path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot be read"):
        load_real_pictures(path)


# What each prompt has of its own


def test_rewritten_prompts_are_drawn_and_their_negative_is_the_null_text(counting_model, tmp_path):
    rows = [{"prompt": prompt, "rewritten": f"{prompt}, 8k", "seconds": n} for n, prompt in enumerate(PROMPTS)]
    path = write_rows(tmp_path / "prompts.jsonl", [*rows, {"prompt": "another", "negative": 3.0}][:3])
    contender = load([f"own={path}", "null"], counting_model)[0]
    assert contender.kind == "rewritten prompts" and contender.parts[0].counts == {"seconds": 1.0}
    assert contender.drawn(["a hen", "a cat"]) == ["a hen, 8k", "a cat, 8k"]
    null = counting_model.null_conditioning().prompt_embeds
    assert torch.equal(contender.negative.of(counting_model, PROMPTS).prompt_embeds, null)


def test_negative_prompts_of_each_prompt_and_an_empty_one_is_the_null_text(counting_model, tmp_path):
    rows = [{"prompt": p, "negative": p.removeprefix("a cat"), "denoiser_evaluations": 60} for p in PROMPTS]
    # As `reneg baseline` goes on with a file: other prompts' rows, and the same row again.
    path = write_rows(tmp_path / "n.jsonl", [{"prompt": "another"}, *rows, rows[0]])
    contender = load([str(path), "null"], counting_model)[0]
    assert contender.kind == "a negative prompt for each prompt"
    assert contender.parts[0].counts == {"denoiser_evaluations": 60}
    got = contender.negative.of(counting_model, ["a hen", "a cat"]).prompt_embeds
    assert torch.equal(got, counting_model.encode_negative_prompt(["a hen", ""]).prompt_embeds)


def save_embedding(path: Path, model: DiffusionModel, shift: float, **metadata: str) -> Path:
    null = model.encode_negative_prompt([""]).prompt_embeds
    NegativeEmbedding(null + shift, null, metadata).save(path)
    return path


def test_embeddings_of_each_prompt_lie_beside_their_file(counting_model, tmp_path):
    for number in range(3):
        save_embedding(tmp_path / f"{number}.safetensors", counting_model, number)
    rows = [{"prompt": p, "embedding": f"{n}.safetensors"} for n, p in enumerate(PROMPTS)]
    path = write_rows(tmp_path / "index.jsonl", rows)
    contender = load([str(path), "null"], counting_model)[0]
    assert contender.kind == "an embedding for each prompt"
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert contender.parts[0].num_bytes == size
    shifts = (
        contender.negative.of(counting_model, ["a hen", "a cat"]).prompt_embeds
        - counting_model.null_conditioning().prompt_embeds
    )
    assert shifts[:, 0, 0].tolist() == pytest.approx([2, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of(negative="x")[:1], "2 of 3 prompts have no row, the first is 'a big dog'"),
        ([], "3 of 3 prompts have no row"),
        (rows_of(), "rows change nothing; they need one of 'rewritten', 'negative', 'embedding'"),
        (rows_of(negative="x", embedding="y"), "rows have both 'negative' and 'embedding'"),
        ([*rows_of(negative="x")[:2], {"prompt": "a hen"}], "the row of 'a hen' has no 'negative'"),
        ([*rows_of(negative="x"), *rows_of(negative="y")], "line 4 is another row of 'a cat'"),
        (rows_of(rewritten=" "), "line 1: 'rewritten' must be a text, and is ' '"),
        (rows_of(negative=None), "line 1: 'negative' must be a text, and is None"),
        (["a cat"], "line 1 is no object with a text as 'prompt'"),
        ([{"negative": "x"}], "line 1 is no object with a text as 'prompt'"),
        (rows_of(embedding="gone.safetensors"), "the embedding of 'a cat': no negative embedding at .*gone"),
    ],
)
def test_rows_that_cannot_be_used(rows, message, counting_model, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=f"--negatives {path}: {message}") as error:
        load([f"own={path}", "null"], counting_model)
    assert "\n" not in str(error.value)


def test_a_row_that_a_kill_cut_short_is_named(counting_model, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", rows_of(negative="x"))
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ValueError, match=r"rows.jsonl: line 3 is no JSON"):
        load([str(path), "null"], counting_model)
    with pytest.raises(FileNotFoundError, match="gone.jsonl"):
        load(["gone.jsonl", "null"], counting_model)


def test_rows_are_known_by_their_content(counting_model, tmp_path):
    path = write_rows(tmp_path / "rows.safetensors", rows_of(negative="x"))
    assert load([str(path), "null"], counting_model)[0].kind == "a negative prompt for each prompt"


def test_texts_that_are_cut_off_are_reported(counting_model, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    path = write_rows(tmp_path / "rows.jsonl", rows_of(rewritten="w " * 8))
    load([str(path), "null"], counting_model)
    assert "3 of 3 texts (rewritten prompts) are beyond 9 tokens of counting and are cut off" in caplog.text


# Guidance scales


def test_scales_are_the_flags_or_the_learned_ones_or_the_settings(counting_model, tmp_path):
    told = {"target": "embedding_and_scale", "guidance_scale": "4.25"}
    fixed = told | {"target": "negative_embedding"}
    own = save_embedding(tmp_path / "own.safetensors", counting_model, 1, **told)
    plain = save_embedding(tmp_path / "plain.safetensors", counting_model, 1, **fixed)
    rows = write_rows(tmp_path / "rows.jsonl", rows_of(embedding="own.safetensors"))
    files = ["null", f"own={own}", f"plain={plain}", f"rows={rows}", f"again={own}"]
    found = load(files, counting_model, guidance_scale=6.0, scales=["again=9", "null=2.5"])
    assert {c.name: c.guidance_scale for c in found} == {
        "null": 2.5,
        "own": 4.25,
        "plain": 6,
        "rows": 4.25,
        "again": 9,
    }
    save_embedding(tmp_path / "other.safetensors", counting_model, 1, **{**told, "guidance_scale": "5"})
    mixed = [*rows_of(embedding="own.safetensors")[:2], {"prompt": "a hen", "embedding": "other.safetensors"}]
    write_rows(rows, mixed)
    with pytest.raises(ValueError, match="--negatives rows: learned with 2 guidance scales; choose one with --scales"):
        load(["null", f"rows={rows}"], counting_model)
    assert load(["null", f"rows={rows}"], counting_model, scales=["rows=5"])[1].guidance_scale == 5
    save_embedding(own, counting_model, 1, **{**told, "guidance_scale": "much"})
    with pytest.raises(ValueError, match="guidance_scale, which was learned, is 'much'"):
        load(["null", str(own)], counting_model)


@pytest.mark.parametrize("scales", [["null"], ["null=x"], ["=5"], ["null=1"], ["null=nan"], ["null=5", "null=6"]])
def test_scales_that_are_none(scales):
    with pytest.raises(ValueError, match="--scales"):
        EvaluateConfig(scales=scales)


def test_scales_of_nobody_are_refused(counting_model):
    with pytest.raises(ValueError, match="--scales: none of --negatives is called 'gone'; choose from null, x"):
        load(["null", "x"], counting_model, scales=["gone=5"])


# Several parts


def test_parts_join(counting_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", rows_of(rewritten="better"))
    own = save_embedding(tmp_path / "own.safetensors", counting_model, 1)
    for value in (f"{rows} + {own}", f"{own} + {rows}"):
        both = load([f"both={value}", "null"], counting_model)[0]
        assert set(both.kind.split(" + ")) == {"rewritten prompts", "negative embedding"}
        assert both.drawn(["a cat"]) == ["better"]
        got = both.negative.of(counting_model, ["a cat"]).prompt_embeds
        assert torch.equal(got, NegativeEmbedding.load(own).negative_prompt_embeds)
    text = load([f"{rows} + blurry", "null"], counting_model)[0]
    assert text.name == "rows + blurry"
    blurry = counting_model.encode_negative_prompt(["blurry"]).prompt_embeds
    assert torch.equal(text.negative.of(counting_model, ["a cat"]).prompt_embeds, blurry)
    # Without a file it is one negative prompt, as ever.
    assert load(["dull + grey", "null"], counting_model)[0].kind == "negative prompt"


def test_two_parts_that_change_the_same_are_refused(counting_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", rows_of(rewritten="better", negative="worse"))
    own = save_embedding(tmp_path / "own.safetensors", counting_model, 1)
    for value, what in (
        (f"{rows} + {own}", "negative"),
        (f"{own} + null", "negative"),
        (f"{rows} + {rows}", "negative"),
    ):
        with pytest.raises(
            ValueError, match=f"--negatives both: 2 parts of {re.escape(repr(value))} change the {what}"
        ):
            load([f"both={value}", "null"], counting_model)


# Weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    """Files of each kind, as targets write them."""
    folder, found = tmp_path_factory.mktemp("weights"), {}
    model = tiny_model()
    target = lora(model, rank=2, seed=0)
    for parameter in target.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(1))
    found["lora"] = folder / "lora.safetensors"
    target.artifact({"target": "lora", "denoiser_evaluations": "7"}).save(found["lora"])
    model = tiny_model()
    for kind, make in (("denoiser", all_weights), ("text_encoder", TextEncoderTarget)):
        target = make(model)
        with torch.no_grad():
            for parameter in target.parameters():
                parameter.mul_(1.2)
        found[kind] = folder / f"{kind}.safetensors"
        target.artifact({"target": kind}).save(found[kind])
    return found


@pytest.mark.parametrize("kind", ["lora", "denoiser", "text_encoder"])
def test_weights_are_in_force_for_a_while(kind, weights):
    model = tiny_model()
    null, cat = model.null_conditioning().prompt_embeds, model.encode_prompt(["a cat"]).prompt_embeds
    contender, bad = load([f"own={weights[kind]}", f"bad={weights[kind]} + bad"], model)
    assert (contender.kind, bad.kind) == (kind, f"{kind} + negative prompt")
    assert torch.equal(model.encode_prompt(["a cat"]).prompt_embeds, cat)
    with contender.in_force(model):
        now = model.encode_prompt(["a cat"]).prompt_embeds
        # The negative was encoded by the weights in force, the null text as any other.
        assert torch.equal(contender.negative.of(model, ["x"]).prompt_embeds, model.null_conditioning().prompt_embeds)
        assert torch.equal(
            bad.negative.of(model, ["x"]).prompt_embeds, model.encode_negative_prompt(["bad"]).prompt_embeds
        )
    changes = kind == "text_encoder"
    assert torch.equal(now, cat) != changes
    assert torch.equal(contender.negative.of(model, ["x"]).prompt_embeds, null) != changes
    assert torch.equal(model.encode_prompt(["a cat"]).prompt_embeds, cat)


def test_an_embedding_beside_another_text_encoder_is_checked_against_the_models_own(weights, tmp_path):
    model = tiny_model()
    own = save_embedding(tmp_path / "own.safetensors", model, 1)
    both = load([f"both={weights['text_encoder']} + {own}", "null"], model)[0]
    assert torch.equal(
        both.negative.of(model, ["x"]).prompt_embeds, NegativeEmbedding.load(own).negative_prompt_embeds
    )


def test_two_weights_are_refused(weights):
    with pytest.raises(ValueError, match="2 parts .* change the weights; keep one"):
        load([f"both={weights['lora']} + {weights['denoiser']}", "null"], tiny_model())
