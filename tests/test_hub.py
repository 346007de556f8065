"""The hub: a file and its card are written to a local stand-in of its endpoints, read back, and read offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_pixart
import tiny_sana
import torch
import yaml
from hub_server import COMMIT, running_hub

from reneg.cli import main
from reneg.hub import HUB_FILE, model_card, read_evaluation
from reneg.interfaces import Conditioning
from reneg.negative import NegativeEmbedding, tensor_hash

METADATA = {
    "base_model": "owner/base",
    "reward": "hpsv2.1",
    "reward_before": "0.25",
    "reward_after": "0.31",
    "step": "40",
    "config": json.dumps({"seed": 3}),
}


def embedding() -> NegativeEmbedding:
    draws = torch.randn(2, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    return NegativeEmbedding(draws[0], draws[1], METADATA)


def run(code: str, home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, because huggingface_hub reads its settings once."""
    prelude = "from pathlib import Path\nfrom reneg.negative import NegativeEmbedding\n"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | settings
    command = [sys.executable, "-c", prelude + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


def write_evaluation(folder: Path, negative: NegativeEmbedding) -> None:
    """What `reneg evaluate` leaves, as far as a card reads it."""
    estimate = {"mean": 0.5, "low": 0.25, "high": 0.75}
    rewards = {"hps": {"mean": estimate, "difference": {"null": estimate}, "win_rate": {"null": estimate}}}
    digest = tensor_hash(*negative.conditioning().tensors())
    results = {
        "settings": {"num_seeds": 2, "guidance_scale": 7.5, "num_inference_steps": 30},
        "negatives": [{"name": "null", "sha256": "0"}, {"name": "mine", "sha256": digest}],
        "bases": ["null", "mine"],
        "judges": ["hps"],
        "overall": {"num_prompts": 7, "negatives": {"mine": {"rewards": rewards}}},
    }
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "before_after.png").write_bytes(b"picture")


LOAD = """
negative = NegativeEmbedding.open("hub:me/mine")
assert negative.metadata == NegativeEmbedding.open("hub:me/mine:negative_embedding.safetensors").metadata
print(negative.metadata["sha256"])
wrong = [("me/none", {}), ("me/mine", {"filename": "gone.bin"}), ("me/mine", {"revision": "old"}), ("a/b/c", {})]
for arguments in wrong:
    try:
        NegativeEmbedding.from_pretrained(arguments[0], **arguments[1])
    except (ValueError, OSError) as error:
        print(type(error).__name__, error)
    else:
        print("loaded", *arguments)
"""
PUSH = """
for repository in ("me/mine", "forbidden/mine"):
    try:
        negative = NegativeEmbedding.load("own.safetensors")
        print(negative.push_to_hub(repository, license="openrail", evaluation=Path("evaluation")))
    except OSError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_file_goes_to_the_hub_and_comes_back_also_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    embedding().save("own.safetensors")
    checksum = NegativeEmbedding.load("own.safetensors").metadata["sha256"]
    write_evaluation(Path("evaluation"), embedding())
    with running_hub() as (address, hub):
        done = run(PUSH + LOAD, tmp_path / "home", HF_ENDPOINT=address, HF_TOKEN="hf_stand_in")
    assert done.returncode == 0, done.stderr
    url, refused, loaded, *errors = done.stdout.splitlines()
    assert url == f"{address}/me/mine/commit/{COMMIT}"
    assert refused.startswith("forbidden/mine cannot be written") and "`hf auth login`" in refused
    files = hub.repositories["me/mine"]
    assert files.keys() >= {HUB_FILE, "README.md", "before_after.png"}
    assert files["before_after.png"] == b"picture" and b"+0.500 [+0.250, +0.750]" in files["README.md"]
    assert b'NegativeEmbedding.from_pretrained("me/mine")' in files["README.md"]
    assert any("/info/lfs/objects/batch" in call for call in hub.calls)  # as the hub takes *.safetensors
    assert loaded == checksum and len(errors) == 4
    assert errors[0].startswith("OSError me/none: negative_embedding.safetensors cannot be downloaded")
    assert errors[1].startswith("OSError me/mine: gone.bin cannot be downloaded")
    assert errors[2].startswith("OSError me/mine: negative_embedding.safetensors cannot be downloaded")
    assert errors[3].startswith("ValueError 'a/b/c' is no repository; give owner/name")

    offline = run(LOAD + PUSH, tmp_path / "home", HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    lines = offline.stdout.splitlines()
    assert lines[0] == checksum
    assert "me/none: negative_embedding.safetensors was not downloaded before" in lines[1]
    assert all("cannot be written" in line for line in lines[-2:])

    unreached = run(PUSH, tmp_path / "home", HF_ENDPOINT=address)  # nothing listens there any more
    assert unreached.returncode == 0, unreached.stderr
    assert unreached.stdout.count("cannot be written") == 2


def test_the_card_tells_how_it_was_made():
    card = model_card("me/mine", METADATA | {"reneg_version": "0|<b>\n1"}, (5, 6), license="openrail")
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "openrail",
        "library_name": "diffusers",
        "tags": ["reneg", "negative-embedding"],
        "base_model": "owner/base",
    }
    assert "5 tokens x 6 for owner/base" in text
    assert "| Reward | hpsv2.1 |" in text and "| Step | 40 |" in text
    assert "| Reward (hpsv2.1) | 0.25 | 0.31 |" in text and "Monitor" not in text
    assert '{"seed": 3}' in text
    assert "| reneg | 0\\|&lt;b> 1 |" in text


@pytest.mark.parametrize("base", ["world", "./folder/model", "/models/sd", "a/b/c"])
def test_a_base_model_that_is_no_hub_id_is_not_linked(base: str):
    front = model_card("me/mine", {"base_model": base}, (5, 6), license="mit").split("---\n", 2)[1]
    assert "base_model" not in yaml.safe_load(front)


def test_the_card_shows_what_was_measured_with_intervals(tmp_path: Path):
    write_evaluation(tmp_path / "evaluation", embedding())
    digest = tensor_hash(*embedding().conditioning().tensors())
    evaluated = read_evaluation(tmp_path / "evaluation", digest)
    card = model_card("me/mine", METADATA, (5, 6), license="openrail", evaluated=evaluated)
    assert "7 prompts, 2 noises each" in card and "|  | mean | difference from null | wins against null |" in card
    row = "| hps (judge) | 0.500 [0.250, 0.750] | +0.500 [+0.250, +0.750] | 50.0 % [25.0, 75.0] |"
    assert row in card and "![Pictures](before_after.png)" in card
    assert (
        card.index("```python")
        < card.index("## Measured\n")
        < card.index("## How it was made")
        < card.index("## Settings")
    )


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "results.json").unlink(), "holds no finished evaluation"),
        (lambda folder: (folder / "results.json").write_text("{"), "holds no finished evaluation"),
        (lambda folder: (folder / "results.json").write_text("[]"), "holds no finished evaluation"),
        (lambda folder: (folder / "before_after.png").unlink(), "no results and pictures of this negative"),
    ],
)
def test_an_evaluation_that_does_not_fit_is_refused_before_anything_is_sent(tmp_path, capsys, spoil, told):
    embedding().save(tmp_path / "own.safetensors")
    write_evaluation(tmp_path / "evaluation", embedding())
    spoil(tmp_path / "evaluation")
    arguments = ["push", str(tmp_path / "own.safetensors"), "me/mine", "--license", "mit"]
    assert main([*arguments, "--evaluation", str(tmp_path / "evaluation")]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_an_evaluation_of_other_negatives_is_refused(tmp_path: Path):
    write_evaluation(tmp_path / "evaluation", embedding())
    with pytest.raises(ValueError, match="no results and pictures of this negative"):
        read_evaluation(tmp_path / "evaluation", "another")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' solver, numpy 2
@pytest.mark.parametrize("family", ["pixart", "sana"])
def test_the_cards_lines_run_where_texts_are_refused(family: str, monkeypatch: pytest.MonkeyPatch):
    """With the null text as the embedding they draw what the pipeline draws without one."""
    tiny, prompts = {"pixart": tiny_pixart, "sana": tiny_sana}[family], ["a cat", "rain"]
    pipe = {"pixart": tiny_pixart.tiny_pixart, "sana": tiny_sana.tiny_sana}[family]()
    pipe.set_progress_bar_config(disable=True)
    embeds, mask, *_ = pipe.encode_prompt("", do_classifier_free_guidance=False)
    null = Conditioning(embeds, prompt_attention_mask=mask)
    negative = NegativeEmbedding.learned(null, null.filled().prompt_embeds, {})
    card = model_card("me/mine", {"family": family}, (5, 6), license="mit")
    code = card.split("```python\n")[1].split("```")[0]
    call = {**tiny.SQUARE, "num_inference_steps": 2, "output_type": "pt"}
    monkeypatch.setattr(NegativeEmbedding, "from_pretrained", lambda name: negative)
    names = {"pipe": pipe, "prompts": prompts, "call": call | {"generator": torch.Generator().manual_seed(0)}}
    exec(code.replace("pipe(prompt_embeds", "pipe(**call, prompt_embeds"), names)  # the sizes are the tiny model's
    wanted = pipe(prompts, generator=torch.Generator().manual_seed(0), clean_caption=False, **call).images
    torch.testing.assert_close(names["images"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["own.safetensors", "a/b/c", "--license", "mit"], "'a/b/c' is no repository; give owner/name"),
        (["gone.safetensors", "me/mine", "--license", "mit"], "no negative embedding at gone.safetensors"),
        (["own.safetensors", "me/mine"], "required: --license\n"),
        (["own.safetensors"], "required: repository, --license\n"),
        (["own.safetensors", "me/mine", "--license", "mit", "--evaluation", "gone"], "--evaluation gone holds no"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    embedding().save("own.safetensors")
    assert main(["push", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
