"""Names, values, prompts and real pictures of a comparison."""

import json

import pytest
import torch
from safetensors.torch import save_file

from reneg.config import EvaluateConfig
from reneg.evaluation.contenders import load_contenders, load_groups, load_real_pictures, split_name, thin
from reneg.negative import NegativeEmbedding


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("null", "null", "null"),
        ("handcrafted", "handcrafted", "handcrafted"),
        ("ours=runs/a/x.safetensors", "ours", "runs/a/x.safetensors"),
        ("runs/seed0/negative_embedding.safetensors", "seed0", "runs/seed0/negative_embedding.safetensors"),
        ("runs/seed0/best.safetensors", "best", "runs/seed0/best.safetensors"),
        ("runs/lr=0.1/best.safetensors", "best", "runs/lr=0.1/best.safetensors"),
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
        load_contenders(["a=x", "null", "a=y"], counting_model)


def test_files_bring_their_metadata(counting_model, tmp_path):
    null = counting_model.encode_prompt([""]).prompt_embeds
    NegativeEmbedding(null + 1, null, {"seed": "7"}).save(tmp_path / "own.safetensors")
    own = load_contenders([str(tmp_path / "own.safetensors"), "null"], counting_model)[0]
    assert (own.name, own.metadata["seed"]) == ("own", "7")
    assert torch.equal(own.conditioning.prompt_embeds, null + 1)


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
