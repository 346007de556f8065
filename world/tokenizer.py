"""Stage `tokenizer`: a byte-pair vocabulary of the captions in CLIPTokenizer's own format."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from .data import BAD_WORDS, DAMAGES, GOOD_WORDS, training_item

MAX_TOKENS = 32
"""Context length of every text tower of the world."""
START, END = "<|startoftext|>", "<|endoftext|>"


def train(folder: Path, captions: int = 20_000) -> CLIPTokenizer:
    rng = np.random.default_rng(7)
    texts = [training_item(rng)[1] for _ in range(captions)]
    texts += [w for words in DAMAGES.values() for w in words for _ in range(20)] + BAD_WORDS * 20 + GOOD_WORDS * 20
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    bpe.normalizer = normalizers.Lowercase()
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+"
    bpe.pre_tokenizer = pre_tokenizers.Split(__import__("tokenizers").Regex(pattern), "removed", invert=True)
    # Every printable ASCII character, alone and at a word's end, so that no prompt is lost to unknown tokens.
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=letters, end_of_word_suffix="</w>", special_tokens=[], show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(m) for m in merges]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    for special in (START, END):
        vocab[special] = len(vocab)
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS, pad_token=END)
    tokenizer.save_pretrained(folder)
    return tokenizer
