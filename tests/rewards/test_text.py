"""Text is cleaned, split and cut off as the originals do it."""

import csv
import gzip
import json
import unicodedata
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import regex
import torch
from scorers import cosine_reward, pictures
from tiny import tiny_clip_reward
from transformers import BertTokenizer, CLIPTokenizer

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
    cosine = cosine_reward()
    assert torch.equal(cosine(images, dirty), cosine(images, clean))
    pickscore = tiny_clip_reward(torch.float64)
    assert not torch.equal(pickscore(images, dirty), pickscore(images, clean))


SETS = "all {:,} distinct prompts of HPSv2, ReFL, Parti, DrawBench, VBench and ImageReward's tests"


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
    """Of every file in the shared folder; the first 15,032 are HPSv2's, ReFL's, Parti's and DrawBench's."""

    def fields_of(path: str, name: str) -> list[str]:
        return [row[name] for row in json.loads((shared_data / path).read_text())]

    def lines_of(path: str) -> list[str]:
        return [line for line in (shared_data / path).read_text().splitlines() if line.strip()]

    rows = csv.reader(lines_of("google-research+parti/PartiPrompts.tsv"), delimiter="\t", quoting=csv.QUOTE_NONE)
    vbench = ("all_dimension", "all_category", "overall_consistency", "scene", "subject_consistency")
    sets = [
        fields_of("AIDC-AI+Diffusion-SDPO/hpsv2.json", "prompt"),
        fields_of("THUDM+ImageReward/refl_data.json", "text"),
        [row[0] for row in rows][1:],
        lines_of("openai+dalle3-eval-samples/drawbench.txt"),
        fields_of("AIDC-AI+Diffusion-SDPO/partiprompts.json", "prompt"),
        fields_of("THUDM+ImageReward/test.json", "prompt"),
        fields_of("THUDM+ImageReward/benchmark-prompts.json", "prompt"),
        fields_of("Vchitect+VBench/VBench_full_info.json", "prompt_en"),
        *(lines_of(f"Vchitect+VBench/{name}.txt") for name in (*vbench, "temporal_flickering")),
        *(lines_of(f"mihirp1998+AlignProp/{name}.txt") for name in ("hps_v2_all", "hps_v2_all_eval")),
        *(json.loads(path.read_text()) for path in sorted((shared_data / "derived" / "hpsv2").glob("*.json"))),
    ]
    assert [len(prompts) for prompts in sets[:8]] == [3200, 10000, 1632, 200, 1632, 466, 100, 946]
    return [prompt for prompts in sets for prompt in prompts]


def real_tokenizer(shared_data: Path) -> CLIPTokenizer:
    folder = shared_data / "Comfy-Org+ComfyUI"
    vocab = json.loads((folder / "sd1_tokenizer__vocab.json").read_text())
    merges = [tuple(line.split()) for line in (folder / "sd1_tokenizer__merges.txt").read_text().splitlines()[1:]]
    options: Any = {"vocab": vocab, "merges": merges}  # annotated as a list of texts
    return CLIPTokenizer(**options, model_max_length=77)


@pytest.mark.slow
def test_tokens_are_the_originals_on_every_prompt(shared_data: Path, prove):
    original = OriginalTokenizer(shared_data / "tgxs002+HPSv2" / "bpe_simple_vocab_16e6.txt.gz")
    prompts = list(dict.fromkeys(all_prompts(shared_data)))
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
        "hpsv2.*, clipscore: text",
        f"tokens of {SETS.format(len(prompts))}, real vocabulary",
        "the original byte-pair encoding",
        f"{different} prompts differ",
    )


@pytest.mark.slow
def test_as_many_prompts_are_cut_off_as_the_originals_cut_off(shared_data: Path):
    tokenizer = real_tokenizer(shared_data)
    lengths = [
        len(ids)
        for ids in tokenizer([clean_text(p) for p in all_prompts(shared_data)[:15032]], verbose=False).input_ids
    ]
    groups = (lengths[:3200], lengths[3200:13200], lengths[13200:14832], lengths[14832:])
    assert [sum(length > 77 for length in group) for group in groups] == [2, 519, 1, 2]
    assert max(groups[1]) == 506


@pytest.mark.slow
def test_cleaning_changes_as_many_prompts_as_is_known(shared_data: Path):
    """Without it the tokens of 12 prompts of Parti and of 104 of ReFL are others than the originals'."""
    tokenizer = real_tokenizer(shared_data)
    prompts = all_prompts(shared_data)[:15032]
    plain, clean = (
        tokenizer(texts, truncation=True, max_length=77, verbose=False).input_ids
        for texts in (prompts, [clean_text(prompt) for prompt in prompts])
    )
    different = [one != other for one, other in zip(plain, clean, strict=True)]
    assert [sum(different[part]) for part in (slice(3200, 13200), slice(13200, 14832))] == [104, 12]


class OriginalBert:
    """BERT's uncased tokenizer as its authors wrote it: words and signs, then the longest pieces from the left."""

    def __init__(self, vocabulary: dict[str, int]):
        self.vocabulary = vocabulary

    def words(self, text: str) -> list[str]:
        kept = []
        for sign in text:
            category = unicodedata.category(sign)
            if sign in "\t\n\r" or category == "Zs":
                kept.append(" ")
            elif sign not in "\0\ufffd" and not category.startswith("C"):
                kept.append(f" {sign} " if self.is_chinese(ord(sign)) else sign)
        plain = unicodedata.normalize("NFD", "".join(kept).lower())
        letters = [sign for sign in plain if unicodedata.category(sign) != "Mn"]
        return "".join(f" {sign} " if self.is_sign(sign) else sign for sign in letters).split()

    @staticmethod
    def is_chinese(code: int) -> bool:
        blocks = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)]
        blocks += [(0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
        return any(first <= code <= last for first, last in blocks)

    @staticmethod
    def is_sign(sign: str) -> bool:
        return (sign.isascii() and sign.isprintable() and not sign.isalnum() and sign != " ") or (
            unicodedata.category(sign).startswith("P")
        )

    @cache  # noqa: B019
    def pieces(self, word: str) -> tuple[int, ...]:
        found, start = list[int](), 0
        while start < len(word) <= 100:
            names = (("##" if start else "") + word[start:end] for end in range(len(word), start, -1))
            longest = next((name for name in names if name in self.vocabulary), None)
            if longest is None:
                break
            found.append(self.vocabulary[longest])
            start += len(longest) - (2 if start else 0)
        return tuple(found) if start == len(word) else (self.vocabulary["[UNK]"],)

    def __call__(self, text: str, limit: int) -> list[int]:
        ids = [number for word in self.words(text) for number in self.pieces(word)]
        return [self.vocabulary["[CLS]"], *ids[: limit - 2], self.vocabulary["[SEP]"]]


def make_vocabulary(prompts: list[str]) -> dict[str, int]:
    """BERT's own is not at hand: the special tokens, all but the rarest signs, and common words and their pieces."""
    words = Counter(word for prompt in prompts for word in OriginalBert({}).words(prompt))
    signs = Counter(sign for word in words for sign in word)
    endings = Counter(word[-length:] for word in words for length in (2, 3, 4) if len(word) > length)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    common = [sign for sign, count in signs.items() if count > 1]
    tokens += [*common, *(f"##{sign}" for sign in common)]
    tokens += [word for word, _ in words.most_common(4000)] + [f"##{end}" for end, _ in endings.most_common(2000)]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


@pytest.mark.slow
def test_bert_tokens_are_the_originals_on_every_prompt(shared_data: Path, prove):
    prompts = list(dict.fromkeys(all_prompts(shared_data)))
    vocabulary = make_vocabulary(prompts)
    original = OriginalBert(vocabulary)
    tokenize = PromptTokenizer(BertTokenizer(vocab=vocabulary), 35, name="bert")
    with pytest.warns(UserWarning, match="reads the first 35 tokens of longer prompts"):
        tokens = tokenize(prompts, torch.device("cpu"))
    own = [ids[mask.bool()].tolist() for ids, mask in zip(tokens["input_ids"], tokens["attention_mask"], strict=True)]
    expected = [original(prompt, 35) for prompt in prompts]
    assert sum(len(ids) == 35 for ids in expected) > 1000  # of which some are cut off
    assert sum(vocabulary["[UNK]"] in ids for ids in expected) > 5
    different = [prompt for prompt, one, other in zip(prompts, own, expected, strict=True) if one != other]
    assert different == []
    what = f"tokens of {SETS.format(len(prompts))}, a vocabulary made of them"
    prove("imagereward: text", what, "BERT's original algorithm", "0 prompts differ")
