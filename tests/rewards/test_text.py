"""Text is cleaned, split and cut off as the originals do it."""

import csv
import gzip
import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import regex
import torch
from scorers import SCORERS, pictures
from transformers import CLIPTokenizer

from reneg.rewards.text import PromptTokenizer, clean_text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  a\t cat \n sat ", "a cat sat"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("caf\u00c3\u00a9 &quot;noir&quot;", 'caf\u00e9 "noir"'),
        ("\u201cquoted\u201d", '"quoted"'),
        ("", ""),
    ],
)
def test_cleaning(text: str, clean: str):
    assert clean_text(text) == clean


def test_scorers_of_openais_text_clean_it_and_pickscore_does_not():
    images = pictures(1)
    dirty, clean = ["a &#98;"], ["a b"]
    cosine = SCORERS["CLIPScore (cosine)"].build(False)
    assert torch.equal(cosine(images, dirty), cosine(images, clean))
    pickscore = SCORERS["PickScore (and any CLIPModel folder)"].build(False)
    assert not torch.equal(pickscore(images, dirty), pickscore(images, clean))


class OriginalTokenizer:
    """CLIP's byte-pair encoding as OpenAI and open_clip wrote it, on cleaned text; without special tokens in it."""

    def __init__(self, file: Path):
        lines = gzip.open(file).read().decode().split("\n")
        merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
        self.bytes = self._byte_letters()
        vocabulary = [*self.bytes.values(), *(letter + "</w>" for letter in self.bytes.values())]
        vocabulary += ["".join(merge) for merge in merges] + ["<start_of_text>", "<end_of_text>"]
        self.numbers = {token: number for number, token in enumerate(vocabulary)}
        self.ranks = {merge: rank for rank, merge in enumerate(merges)}
        self.words = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)

    @staticmethod
    def _byte_letters() -> dict[int, str]:
        plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
        others = [number for number in range(256) if number not in plain]
        return {n: chr(n) for n in plain} | {n: chr(256 + i) for i, n in enumerate(others)}

    @cache  # noqa: B019
    def split(self, word: str) -> tuple[int, ...]:
        parts = [self.bytes[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            rank, place = min(
                (self.ranks.get(pair, 10**9), i) for i, pair in enumerate(zip(parts, parts[1:], strict=False))
            )
            if rank == 10**9:
                break
            first, second = parts[place], parts[place + 1]
            merged, i = [], 0
            while i < len(parts):  # every occurrence, from left to right
                if parts[i : i + 2] == [first, second]:
                    merged.append(first + second)
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            parts = merged
        return tuple(self.numbers[part] for part in parts)

    def __call__(self, text: str, limit: int = 77) -> list[int]:
        words = self.words.findall(clean_text(text).lower())
        ids = [49406, *(number for word in words for number in self.split(word)), 49407]
        return ids if len(ids) <= limit else [*ids[: limit - 1], 49407]


def all_prompts(shared_data: Path) -> list[str]:
    hpsv2 = json.loads((shared_data / "AIDC-AI+Diffusion-SDPO" / "hpsv2.json").read_text())
    refl = json.loads((shared_data / "THUDM+ImageReward" / "refl_data.json").read_text())
    lines = (shared_data / "google-research+parti" / "PartiPrompts.tsv").read_text().splitlines()
    parti = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    drawbench = (shared_data / "openai+dalle3-eval-samples" / "drawbench.txt").read_text().splitlines()
    sets = [[row["prompt"] for row in hpsv2], [row["text"] for row in refl], [row[0] for row in parti], drawbench]
    assert [len(prompts) for prompts in sets] == [3200, 10000, 1632, 200]
    return [prompt for prompts in sets for prompt in prompts]


def real_tokenizer(shared_data: Path) -> CLIPTokenizer:
    folder = shared_data / "Comfy-Org+ComfyUI"
    vocab = json.loads((folder / "sd1_tokenizer__vocab.json").read_text())
    merges = [tuple(line.split()) for line in (folder / "sd1_tokenizer__merges.txt").read_text().splitlines()[1:]]
    options: Any = {"vocab": vocab, "merges": merges}  # annotated as a list of texts
    return CLIPTokenizer(**options, model_max_length=77)


def test_tokens_are_the_originals_on_every_prompt(shared_data: Path, prove):
    original = OriginalTokenizer(shared_data / "tgxs002+HPSv2" / "bpe_simple_vocab_16e6.txt.gz")
    prompts = all_prompts(shared_data)
    tokenize = PromptTokenizer(real_tokenizer(shared_data), 77, name="real", clean=True)
    with pytest.warns(UserWarning, match="reads the first 77 tokens of longer prompts"):
        tokens = tokenize(prompts, torch.device("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenize(prompts[-200:], torch.device("cpu"))  # it has been said
    own = [ids[mask.bool()].tolist() for ids, mask in zip(tokens["input_ids"], tokens["attention_mask"], strict=True)]
    expected = [original(prompt) for prompt in prompts]
    different = sum(one != other for one, other in zip(own, expected, strict=True))
    assert different == 0
    prove(
        "HPSv2, CLIPScore: text",
        f"tokens of all {len(prompts):,} prompts (HPSv2, ReFL, Parti, DrawBench), real vocabulary",
        "the original byte-pair encoding",
        f"{different} prompts differ",
    )


def test_as_many_prompts_are_cut_off_as_the_originals_cut_off(shared_data: Path):
    tokenizer = real_tokenizer(shared_data)
    lengths = [
        len(ids) for ids in tokenizer([clean_text(p) for p in all_prompts(shared_data)], verbose=False).input_ids
    ]
    groups = (lengths[:3200], lengths[3200:13200], lengths[13200:14832], lengths[14832:])
    assert [sum(length > 77 for length in group) for group in groups] == [2, 519, 1, 2]
