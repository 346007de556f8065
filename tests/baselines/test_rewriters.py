"""Rewriters against plain calls of transformers as on the authors' pages; batches, resuming, cutting, loading."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from fakes import GaussianModel
from tiny import tiny_pipeline
from tiny_language import tiny_bloom, tiny_byte_tokenizer, tiny_gpt2

from reneg.baselines.config import BeautifulPromptConfig, PromptistConfig, RewriterConfig
from reneg.baselines.rewriters import (
    BEAUTIFUL_PROMPT,
    PROMPTIST,
    WORLDS_REWRITER,
    Location,
    Rewriter,
    fit,
    load_rewriter,
    location_of,
    rewrite,
    run_beautiful_prompt,
    run_promptist,
)
from reneg.baselines.store import REWRITTEN, PromptRows
from reneg.cli import main
from reneg.randomness import derive_seed

PROMPTS = ["a cat", "a red house", "two dogs", "the sea", "a cat"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A language model in transformers' layout, with Promptist's architecture."""
    tiny_gpt2().save_pretrained(tmp_path / "gpt2")
    tiny_byte_tokenizer().save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


@pytest.fixture
def asked(tmp_path: Path) -> dict:
    """A tiny pipeline and prompts, as settings."""
    tiny_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a\nb\na fox\n")
    return {"model": str(tmp_path / "model"), "prompts": tmp_path / "prompts.txt", "output_dir": tmp_path / "out"}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_promptist_is_the_authors_demo(folder: Path, asked: dict):
    rows = lines(run_promptist(PromptistConfig(rewriter=str(folder), max_new_tokens=20, **asked)))
    model, tokenizer = tiny_gpt2(), tiny_byte_tokenizer()
    assert [row["prompt"] for row in rows] == ["a", "b", "a fox"]
    for row in rows:
        # As in the demo: eight beams are returned, and the first is taken; the template is taken off as text.
        text = row["prompt"] + " Rephrase:"
        ids = tokenizer(text, return_tensors="pt").input_ids
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=20,
            num_beams=8,
            num_return_sequences=8,
            eos_token_id=0,
            pad_token_id=0,
            length_penalty=-1.0,
        )
        whole = tokenizer.batch_decode(output, skip_special_tokens=True)[0]
        assert whole.startswith(text)
        wanted = " ".join(whole.replace(text, "").strip().split())
        assert wanted.startswith(row["rewritten"]) or row["rewritten"] == row["prompt"]
        assert row["words_cut"] == (len(wanted.split()) - len(row["rewritten"].split()) if wanted else 0)
        assert row["denoiser_evaluations"] == 0 and 0 < row["generated_tokens"] <= 20
    assert len({row["rewritten"] for row in rows}) > 1


def test_beautiful_prompt_is_the_authors_card_with_a_seed_of_its_own_for_each_prompt():
    model, tokenizer = tiny_bloom(), tiny_byte_tokenizer()
    options = {"do_sample": True, "max_length": 160, "temperature": 1.0, "top_k": 50, "top_p": 0.95}
    options |= {"repetition_penalty": 1.2}
    writer = Rewriter(model, tokenizer, BEAUTIFUL_PROMPT, options, seed=3)
    torch.manual_seed(1)
    found = [writer(prompt)[0] for prompt in PROMPTS]
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator was left alone
    assert [writer(prompt)[0] for prompt in reversed(PROMPTS)] == found[::-1]
    assert found[0] == found[4] and len(set(found)) == 4
    assert Rewriter(model, tokenizer, BEAUTIFUL_PROMPT, options, seed=4)("a cat")[0] != found[0]
    instruction = "Instruction: Give a simple description of the image to generate a drawing prompt."
    text = f"{instruction}\nInput: {PROMPTS[1]}\nOutput:"
    ids = tokenizer(text, return_tensors="pt").input_ids
    torch.manual_seed(derive_seed(3, f"rewriter {text}", 0))
    output = model.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=0, pad_token_id=0, **options)
    plain = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)[0].strip()
    assert found[1] == " ".join(plain.split()) != ""


def test_an_interrupted_run_makes_only_what_is_missing_and_ends_the_same(tmp_path: Path):
    calls = []

    def writer(prompt: str) -> tuple[str, int]:
        calls.append(prompt)
        return f"{prompt}, sharp", 3

    def store(name: str) -> PromptRows:
        return PromptRows(PromptistConfig(model="gaussian", output_dir=tmp_path / name), {}, REWRITTEN)

    rewrite(GaussianModel(), writer, PROMPTS, store("whole"))
    rewrite(GaussianModel(), writer, PROMPTS[:2], store("parts"))
    path = tmp_path / "parts" / "prompts.jsonl"
    path.write_text(path.read_text() + '{"prompt": "tw')  # killed while it wrote
    calls.clear()
    rewrite(GaussianModel(), writer, PROMPTS, store("parts"))
    assert calls == PROMPTS[2:4]
    assert path.read_text() == (tmp_path / "whole" / "prompts.jsonl").read_text()


def test_other_settings_and_other_weights_are_never_mixed(folder: Path, asked: dict):
    config = PromptistConfig(rewriter=str(folder), max_new_tokens=4, **asked)
    run_promptist(config)
    with pytest.raises(ValueError, match="--output_dir .* was made with num_beams 8, and not 4"):
        run_promptist(dataclasses.replace(config, num_beams=4))
    model = tiny_gpt2()
    model.transformer.ln_f.bias.data.add_(1.0)
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="--output_dir .* was made with fingerprints"):
        run_promptist(config)


def test_what_is_too_long_for_the_text_encoder_is_cut_at_a_word_and_what_is_empty_stays_the_prompt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    model = GaussianModel()
    long = " ".join(["word"] * 100)
    assert model.count_tokens(long) > model.max_tokens
    kept = fit(long, model)
    assert model.count_tokens(kept) <= model.max_tokens < model.count_tokens(kept + " word")
    texts = {"a cat": (long, 9), "a dog": ("", 1)}
    store = PromptRows(PromptistConfig(model="gaussian", output_dir=tmp_path), {}, REWRITTEN)
    rewrite(model, texts.__getitem__, list(texts), store)
    assert [(row["rewritten"], row["words_cut"]) for row in store.rows.values()] == [
        (kept, 100 - len(kept.split())),
        ("a dog", 0),
    ]
    assert (
        "1 of 2 rewritten prompts were cut" in caplog.text
        and "1 of 2 prompts were rewritten as nothing" in caplog.text
    )


def test_a_bin_file_is_read_as_tensors_and_its_code_is_not_run(folder: Path, tmp_path: Path):
    options = {"do_sample": False, "max_new_tokens": 5}
    wanted = load_rewriter(Location(folder), PROMPTIST, options, seed=0, device="cpu")("a cat")
    (folder / "model.safetensors").unlink()
    torch.save(tiny_gpt2().state_dict(), folder / "pytorch_model.bin")  # as Promptist's main branch
    assert load_rewriter(Location(folder), PROMPTIST, options, seed=0, device="cpu")("a cat") == wanted

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"transformer.wte.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="--rewriter .* cannot be loaded as a causal language model") as error:
        load_rewriter(Location(folder), PROMPTIST, options, seed=0, device="cpu")
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused_in_one_line(lost: str, folder: Path):
    (folder / lost).unlink()
    with pytest.raises(ValueError, match="--rewriter ") as error:
        load_rewriter(Location(folder), PROMPTIST, {}, seed=0, device="cpu")
    assert "\n" not in str(error.value)


def test_weights_that_are_missing_are_refused(folder: Path):
    state = tiny_gpt2().state_dict()
    (folder / "model.safetensors").unlink()
    torch.save({k: v for k, v in state.items() if "ln_f" not in k}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="--rewriter .* lacks 2 of its weights"):
        load_rewriter(Location(folder), PROMPTIST, {}, seed=0, device="cpu")


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (PromptistConfig(), Location(WORLDS_REWRITER)),
        (BeautifulPromptConfig(), Location(WORLDS_REWRITER)),
        (PromptistConfig(model="sd1.5"), Location("microsoft/Promptist", "refs/pr/2")),
        (BeautifulPromptConfig(model="sd1.5"), Location("alibaba-pai/pai-bloom-1b1-text2prompt-sd")),
        (PromptistConfig(rewriter="mine/own", rewriter_revision="v1"), Location("mine/own", "v1")),
    ],
)
def test_which_language_model_is_asked(config: RewriterConfig, wanted: Location):
    assert location_of(config) == wanted


@pytest.mark.parametrize("name", ["promptist", "beautifulprompt"])
def test_the_world_has_a_rewriter_that_keeps_the_subject_and_praises(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "prompts.txt").write_text("noto drawing of a large fox on a blue background\n")
    arguments = ["baseline", name, "--prompts", str(tmp_path / "prompts.txt"), "--output_dir", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert f"{name}={tmp_path / 'out' / 'prompts.jsonl'}" in capsys.readouterr().out
    (row,) = lines(tmp_path / "out" / "prompts.jsonl")
    assert "fox" in row["rewritten"] and any(word in row["rewritten"] for word in ("sharp", "clear", "crisp", "high"))
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["rewriter"] == "world"


def test_bad_settings_name_their_flag():
    plain = BeautifulPromptConfig()
    for wrong in ({"top_p": 0.0}, {"temperature": 0.0}, {"repetition_penalty": -1.0}, {"top_k": 0}, {"max_length": 0}):
        with pytest.raises(ValueError, match=f"^--{next(iter(wrong))} "):
            dataclasses.replace(plain, **wrong)
    with pytest.raises(ValueError, match="^--num_beams 0"):
        PromptistConfig(num_beams=0)
    with pytest.raises(ValueError, match="^--max_new_tokens 0"):
        PromptistConfig(max_new_tokens=0)


def test_beautiful_prompt_runs_as_a_command(folder: Path, asked: dict):
    rows = lines(run_beautiful_prompt(BeautifulPromptConfig(rewriter=str(folder), max_length=150, **asked)))
    assert [row["prompt"] for row in rows] == ["a", "b", "a fox"] and len({row["rewritten"] for row in rows}) > 1
