"""Rewriters of the positive prompt: Promptist (arXiv 2212.09611) and BeautifulPrompt (arXiv 2311.06752).

Both are causal language models that go on from a template with the prompt in it. The templates and settings are those
of the authors' own examples: Promptist's in the README of microsoft/LMOps and of its model, BeautifulPrompt's on the
card of its model. Each prompt is rewritten by itself, so that no result depends on a batch.
"""

import logging
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from reneg.baselines.config import BeautifulPromptConfig, PromptistConfig, RewriterConfig
from reneg.baselines.inputs import fingerprint, model_fingerprint, prompts_of
from reneg.baselines.store import REWRITTEN, PromptRows
from reneg.interfaces import DiffusionModel
from reneg.metrics import Row
from reneg.models import load_configured
from reneg.negatives import check_prompt_lengths
from reneg.randomness import derive_seed
from reneg.world import WEIGHTS

logger = logging.getLogger(__name__)

PROMPTIST = "{prompt} Rephrase:"
BEAUTIFUL_PROMPT = (
    "Instruction: Give a simple description of the image to generate a drawing prompt.\nInput: {prompt}\nOutput:"
)
WORLDS_REWRITER = WEIGHTS / "rewriter"
"""Knows both templates."""


@dataclass(frozen=True)
class Location:
    """Where a language model is."""

    source: str | Path
    """A folder, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""


PUBLISHED: dict[type[RewriterConfig], Location] = {
    # The main branch holds a .bin alone; the hub's own conversion to safetensors waits in this pull request.
    PromptistConfig: Location("microsoft/Promptist", "refs/pr/2"),
    BeautifulPromptConfig: Location("alibaba-pai/pai-bloom-1b1-text2prompt-sd"),
}


def location_of(config: RewriterConfig) -> Location:
    """Where a command's language model is: as given, the world's own, or the published one."""
    if config.rewriter is not None:
        return Location(config.rewriter, config.rewriter_revision)
    return Location(WORLDS_REWRITER) if config.model == "world" else PUBLISHED[type(config)]


class Rewriter:
    """A causal language model, and how it is asked."""

    # Any: transformers' annotations contradict its code.
    def __init__(self, model: Any, tokenizer: Any, template: str, options: dict[str, Any], *, seed: int):
        """Take a loaded model.

        Args:
            template: with `{prompt}` in the prompt's place; what follows it is the rewritten prompt.
            options: of transformers' `generate`.
            seed: of what is sampled, together with the prompt.
        """
        self._model, self._tokenizer, self._template = model.requires_grad_(False).eval(), tokenizer, template
        self._options, self._seed = options, seed

    @torch.no_grad()
    def __call__(self, prompt: str) -> tuple[str, int]:
        """The rewritten prompt in one line, which may be empty, and how many tokens were generated for it."""
        text = self._template.format(prompt=prompt.strip())
        ids = self._tokenizer(text, return_tensors="pt").input_ids.to(self._model.device)
        end = self._tokenizer.eos_token_id
        cuda = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(cuda):  # transformers samples from the global generator
            torch.manual_seed(derive_seed(self._seed, f"rewriter {text}", 0))
            output = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), eos_token_id=end, pad_token_id=end, **self._options
            )[0, ids.shape[1] :]
        return " ".join(self._tokenizer.decode(output, skip_special_tokens=True).split()), len(output)


def load_rewriter(location: Location, template: str, options: dict[str, Any], *, seed: int, device: str) -> Rewriter:
    """Load a causal language model in transformers' layout. Of a .bin file tensors alone are read, never code.

    Raises:
        ValueError: it cannot be loaded, or lacks some of its weights; in one line.
    """
    source, revision = location.source, location.revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        load: Any = AutoModelForCausalLM.from_pretrained  # annotated as if it never gave the loading info as well
        model, info = load(source, revision=revision, dtype=torch.float32, weights_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"--rewriter {str(source)!r} cannot be loaded as a causal language model: {reason}"
        ) from error
    if info["missing_keys"]:
        raise ValueError(f"--rewriter {str(source)!r} lacks {len(info['missing_keys'])} of its weights")
    if tokenizer.vocab_size <= len(tokenizer.all_special_ids) or tokenizer.eos_token_id is None:
        raise ValueError(
            f"--rewriter {str(source)!r} has no tokenizer with an end-of-text token; save it with the model"
        )
    return Rewriter(model.to(device), tokenizer, template, options, seed=seed)


def fit(text: str, model: DiffusionModel) -> str:
    """The longest beginning of a text, in whole words, that the text encoder reads."""
    words = text.split()
    while words and model.count_tokens(" ".join(words)) > model.max_tokens:
        words.pop()
    return " ".join(words)


def rewrite(
    model: DiffusionModel, rewriter: Callable[[str], tuple[str, int]], prompts: Sequence[str], store: PromptRows
) -> None:
    """Give every prompt that has none yet its rewritten one, and report those that had to be cut or came out empty."""
    missing = store.missing(prompts)
    cut = empty = 0
    for number, prompt in enumerate(missing):
        text, tokens = rewriter(prompt)
        rewritten = fit(text, model) or prompt
        row: Row = {
            "prompt": prompt,
            "rewritten": rewritten,
            "denoiser_evaluations": 0,
            "generated_tokens": tokens,
            "words_cut": len(text.split()) - len(rewritten.split()) if text else 0,
        }
        store.add([row])
        cut, empty = cut + (row["words_cut"] != 0), empty + (not text)
        logger.info("%d of %d: %r -> %r", number + 1, len(missing), prompt, rewritten)
    if cut:
        facts = (cut, len(missing), model.max_tokens, model.name)
        logger.warning("%d of %d rewritten prompts were cut at the limit of %d tokens of %s", *facts)
    if empty:
        logger.warning("%d of %d prompts were rewritten as nothing, and stay as they were", empty, len(missing))


def _run(config: RewriterConfig, template: str, options: dict[str, Any]) -> Path:
    prompts, location = prompts_of(config), location_of(config)
    fingerprints = {"model": model_fingerprint(config.model), "rewriter": fingerprint(location.source)}
    name = "world" if location.source == WORLDS_REWRITER else str(location.source)  # wherever the package is
    asked = replace(config, rewriter=name, rewriter_revision=location.revision)
    store = PromptRows(asked, fingerprints, REWRITTEN)
    model = load_configured(config, device=config.device)
    check_prompt_lengths(prompts, model, source=config.prompts)
    rewriter = load_rewriter(location, template, options, seed=config.seed, device=config.device)
    rewrite(model, rewriter, prompts, store)
    return store.file


def run_promptist(config: PromptistConfig) -> Path:
    """`reneg baseline promptist`; gives prompts.jsonl. Beam search: the best of the beams.

    Raises:
        ValueError, OSError: with one line that names the flag.
    """
    options = {"do_sample": False, "max_new_tokens": config.max_new_tokens}
    options |= {"num_beams": config.num_beams, "length_penalty": config.length_penalty}
    return _run(config, PROMPTIST, options)


def run_beautiful_prompt(config: BeautifulPromptConfig) -> Path:
    """`reneg baseline beautifulprompt`; gives prompts.jsonl. Sampled, once for each prompt.

    Raises:
        ValueError, OSError: with one line that names the flag.
    """
    options = {"do_sample": True, "max_length": config.max_length, "temperature": config.temperature}
    options |= {"top_k": config.top_k, "top_p": config.top_p, "repetition_penalty": config.repetition_penalty}
    return _run(config, BEAUTIFUL_PROMPT, options)
