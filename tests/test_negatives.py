"""What a `--negative` value stands for, and the folder that `reneg generate` leaves."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import MAX_TOKENS, tiny_model, tiny_pipeline

from reneg.config import GenerateConfig
from reneg.generation import picture_generators, picture_noise
from reneg.models.sd import StableDiffusion
from reneg.negative import NegativeEmbedding
from reneg.negatives import (
    HANDCRAFTED_NEGATIVE_PROMPT,
    check_prompt_lengths,
    generate_pictures,
    handcrafted_negative_prompt,
    resolve_negative,
    write_pictures,
)
from reneg.targets.text_encoder import TextEncoderTarget


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def embedding(model, tmp_path):
    null = model.encode_prompt([""]).prompt_embeds
    path = tmp_path / "own.safetensors"
    NegativeEmbedding(null + 0.5, null, {"base_model": "tiny"}).save(path)
    return path


def test_values_stand_for_texts_or_files(model, embedding):
    null = model.encode_prompt([""]).prompt_embeds
    assert torch.equal(resolve_negative("null", model).prompt_embeds, null)
    assert torch.equal(resolve_negative("bad", model).prompt_embeds, model.encode_prompt(["bad"]).prompt_embeds)
    assert torch.equal(resolve_negative(str(embedding), model).prompt_embeds, null + 0.5)


def test_handcrafted_is_the_official_one(model, monkeypatch):
    assert handcrafted_negative_prompt(model) == HANDCRAFTED_NEGATIVE_PROMPT
    monkeypatch.setattr("reneg.negatives.HANDCRAFTED_NEGATIVE_PROMPT", "ugly")
    assert torch.equal(
        resolve_negative("handcrafted", model).prompt_embeds, model.encode_prompt(["ugly"]).prompt_embeds
    )


@pytest.mark.parametrize("value", ["missing.safetensors", "some/where", "lost.bin"])
def test_a_file_is_never_text(model, value):
    with pytest.raises(FileNotFoundError, match=value):
        resolve_negative(value, model)


@pytest.mark.parametrize(("value", "message"), [("", "empty"), ("  ", "empty"), ("w " * 20, "limit of 16 tokens")])
def test_texts_that_cannot_be_encoded_are_refused(model, value, message):
    with pytest.raises(ValueError, match=f"--negative: .*{message}"):
        resolve_negative(value, model)


def test_damaged_and_foreign_files_are_refused(model, embedding, tmp_path):
    null = model.encode_prompt([""]).prompt_embeds
    foreign = tmp_path / "foreign.safetensors"
    NegativeEmbedding(null, null * 2, {"base_model": "another"}).save(foreign)
    with pytest.raises(ValueError, match="another text encoder"):
        resolve_negative(str(foreign), model)
    embedding.write_bytes(embedding.read_bytes()[:50])
    with pytest.raises(ValueError, match="not a readable"):
        resolve_negative(str(embedding), model)


def test_prompts_at_the_limit_pass_and_beyond_are_counted(model):
    check_prompt_lengths(["w " * (MAX_TOKENS - 2)], model)
    with pytest.raises(
        ValueError, match="--prompt: 2 of 3 prompts are beyond the limit of 16 tokens of tiny"
    ) as error:
        check_prompt_lengths(["w", "w " * (MAX_TOKENS - 1), "w " * 99], model, flag="--prompt")
    assert "the first has 17" in str(error.value) and "\n" not in str(error.value)


def config(folder, **changes):
    settings = {"prompt": ["a cat", "red hat"], "num_images_per_prompt": 2, "num_inference_steps": 3, "batch_size": 3}
    return GenerateConfig(**{"model": "tiny", "output_dir": folder, **settings, **changes})


def test_the_folder_tells_what_each_picture_is(model, tmp_path):
    paths = write_pictures(model, ["a cat", "red hat"], config(tmp_path, seed=4))
    assert [path.name for path in paths] == ["00000.png", "00001.png", "00002.png", "00003.png"]
    index = json.loads((tmp_path / "index.json").read_text())
    assert (index["negative"], index["guidance_scale"]) == ("null", 7.5)
    assert index["pictures"][2] == {"file": "00002.png", "prompt": "red hat", "seed": 4, "number": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(path.name for path in paths), "index.json"]


def test_pictures_are_those_of_diffusers_pipeline(embedding, tmp_path):
    pipe = tiny_pipeline()
    model = StableDiffusion(pipe, name="tiny")
    paths = write_pictures(model, ["a cat"], config(tmp_path / "out", prompt=["a cat"], negative=str(embedding)))
    output: Any = pipe(
        ["a cat", "a cat"],
        negative_prompt_embeds=NegativeEmbedding.load(embedding).expand(2),
        latents=picture_noise(model, picture_generators(0, 0, 2)),
        guidance_scale=7.5,
        num_inference_steps=3,
    )
    for path, picture in zip(paths, output.images, strict=True):
        difference = np.asarray(Image.open(path), dtype=int) - np.asarray(picture, dtype=int)
        assert np.abs(difference).max() <= 1  # where rounding falls on the edge


def test_the_batch_size_changes_no_picture(model, tmp_path):
    folders = [tmp_path / str(size) for size in (1, 3)]
    for size, folder in zip((1, 3), folders, strict=True):
        write_pictures(model, ["a cat", "red hat"], config(folder, batch_size=size))
    for name in (path.name for path in folders[0].glob("*.png")):
        one, other = (np.asarray(Image.open(folder / name), dtype=int) for folder in folders)
        assert np.abs(one - other).max() <= 1


def test_the_command_reads_files_and_folders(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a cat\n\nred hat\n")
    settings = config(tmp_path / "out", prompt=[], prompts=tmp_path / "prompts.txt", model=str(tmp_path / "model"))
    assert len(generate_pictures(settings)) == 4
    with pytest.raises(ValueError, match="--prompts .*no such file"):
        generate_pictures(replace(settings, prompts=tmp_path / "none.txt"))
    with pytest.raises(ValueError, match="--model 'nothing' is unknown"):
        generate_pictures(replace(settings, model="nothing"))
    with pytest.raises(OSError, match="--output_dir .* cannot be written"):
        generate_pictures(replace(settings, output_dir=tmp_path / "prompts.txt" / "x"))


def test_strength_interpolates_the_negative_of_the_pictures(model, embedding, tmp_path):
    def pictures(negative: str, strength: float, folder: str) -> list[bytes]:
        config = GenerateConfig(
            prompt=["a cat"], negative=negative, strength=strength, num_inference_steps=2, output_dir=tmp_path / folder
        )
        return [path.read_bytes() for path in write_pictures(model, ["a cat"], config)]

    null = model.encode_prompt([""]).prompt_embeds
    NegativeEmbedding(null + 0.5 * 0.6, null).save(tmp_path / "weak.safetensors")
    for folder in "abcd":
        (tmp_path / folder).mkdir()
    weak = pictures(str(embedding), 0.6, "a")
    assert weak == pictures(str(tmp_path / "weak.safetensors"), 1.0, "b")
    assert pictures(str(embedding), 0.0, "c") == pictures("null", 1.0, "d") != weak
    assert json.loads((tmp_path / "a" / "index.json").read_text())["strength"] == 0.6


def test_weights_are_drawn_with_and_leave_no_trace(tmp_path):
    model = tiny_model()
    target = TextEncoderTarget(model)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(1.2)
    target.artifact({"target": "text_encoder"}).save(tmp_path / "text.safetensors")
    shared = {"prompt": ["a cat"], "num_inference_steps": 2, "negative": "bad", "strength": 0.5}
    wanted = write_pictures(model, ["a cat"], GenerateConfig(output_dir=tmp_path / "trained", **shared))
    model, found = tiny_model(), []
    for name, weights in (("before", None), ("with", str(tmp_path / "text.safetensors")), ("after", None)):
        config = GenerateConfig(output_dir=tmp_path / name, weights=weights, **shared)
        found.append(write_pictures(model, ["a cat"], config)[0].read_bytes())
    assert found[1] == wanted[0].read_bytes()
    assert found[0] == found[2] != found[1]
    assert json.loads((tmp_path / "with" / "index.json").read_text())["weights"] == str(tmp_path / "text.safetensors")


def test_weights_that_are_none(model, embedding, tmp_path):
    for path, message in ((embedding, "holds no weights of tiny"), (tmp_path / "gone.safetensors", "no such file")):
        config = GenerateConfig(prompt=["a cat"], weights=str(path), output_dir=tmp_path / "out")
        with pytest.raises((ValueError, FileNotFoundError), match=f"--weights {path}:? {message}"):
            write_pictures(model, ["a cat"], config)
