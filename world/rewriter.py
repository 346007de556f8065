"""Stage `rewriter`: a small language model that rewrites prompts of the world, for the baselines Promptist and
BeautifulPrompt.

Both publish a language model trained in two stages: on pairs of a plain prompt and a good one, then by reinforcement
learning from a reward. The first is the same here, with pairs from the world's captions and training scenes; the
second is left out.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from reneg.baselines.rewriters import BEAUTIFUL_PROMPT, PROMPTIST
from reneg.world import load_captions

from .data import BAD_WORDS, DAMAGES, GOOD_WORDS, WORK, describe, training_scene
from .training import learning_rate_at

END = "<|endoftext|>"
WIDTH, LAYERS, HEADS, POSITIONS = 96, 3, 4, 512
BATCH, STEPS, RATE = 16, 3500, 2e-3
"""A number of steps, and not of minutes as for the other models, since it is short."""

Pair = tuple[str, str]
"""What the model reads, template and all, and what it is to go on with."""


def clean_captions() -> list[str]:
    """Those of captions.json that blame nothing, without their praise."""
    blame = tuple(word for words in DAMAGES.values() for word in words) + tuple(BAD_WORDS)
    plain = (caption.rpartition(", ") for caption in load_captions().captions)
    heads = [head if head and tail in GOOD_WORDS else head + comma + tail for head, comma, tail in plain]
    return [head for head in heads if not any(word in head for word in blame)]


def praise(rng: np.random.Generator) -> str:
    """Two or three different words of praise."""
    return ", ".join(str(word) for word in rng.permutation(GOOD_WORDS)[: rng.integers(2, 4)])


def promptist_pair(captions: list[str], rng: np.random.Generator) -> Pair:
    """A caption, and the same with praise."""
    plain = str(rng.choice(captions)) if rng.random() < 0.5 else describe(training_scene(rng))
    return PROMPTIST.format(prompt=plain), f" {plain}, {praise(rng)}"


def beautiful_pair(captions: list[str], rng: np.random.Generator) -> Pair:
    """A description, and the same with praise, and with size and place where it leaves them out."""
    scene = training_scene(rng)
    told = scene if rng.random() < 0.5 else replace(scene, size="medium", position="centre")
    return BEAUTIFUL_PROMPT.format(prompt=describe(told)), f" {describe(scene)}, {praise(rng)}"


PAIRS = (promptist_pair, beautiful_pair)
"""In turn: those of one kind have about one length."""


def make_tokenizer(pairs: list[Pair]) -> PreTrainedTokenizerFast:
    """A byte-level vocabulary, as GPT-2's and BLOOM's are: no text is unknown to it."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["".join(p) for p in pairs], vocab_size=640, special_tokens=[END], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token=END, pad_token=END)


def batch(tokenizer: PreTrainedTokenizerFast, pairs: list[Pair]) -> tuple[Tensor, Tensor]:
    """Token numbers, and the same as labels where the model has to go on: not for the prompt, not for the padding."""
    read = [tokenizer(text).input_ids for text, _ in pairs]
    whole = [
        ids + tokenizer(target).input_ids + [tokenizer.eos_token_id]
        for ids, (_, target) in zip(read, pairs, strict=True)
    ]
    longest = max(map(len, whole))
    ids = torch.full((len(pairs), longest), tokenizer.eos_token_id)
    labels = torch.full((len(pairs), longest), -100)
    for row, (known, tokens) in enumerate(zip(read, whole, strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, len(known) : len(tokens)] = torch.tensor(tokens[len(known) :])
    return ids, labels


def make_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    torch.manual_seed(51)
    end = tokenizer.eos_token_id
    shape = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # every pair is a new one
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **shape, **no_dropout)
    )


def train() -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """The finished model; loss and seconds of computing go to the log."""
    captions, rng = clean_captions(), np.random.default_rng(51)
    tokenizer = make_tokenizer([make(captions, rng) for _ in range(2500) for make in PAIRS])
    model = make_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    start, losses, rows = time.process_time(), [], []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * learning_rate_at((step + 1) / STEPS)
        ids, labels = batch(tokenizer, [PAIRS[step % 2](captions, rng) for _ in range(BATCH)])
        loss = model(ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            seconds = round(time.process_time() - start)
            rows.append({"step": step + 1, "seconds": seconds, "loss": round(sum(losses) / len(losses), 5)})
            write_log(rows)
            losses = []
    return model.eval(), tokenizer


def write_log(rows: list[dict]) -> None:
    folder = WORK / "rewriter"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """fp16 safetensors with everything that `from_pretrained` needs."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model.float()
