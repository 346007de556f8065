"""What is compared: whatever changes the pictures of a prompt, recognised by its content."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from reneg.config import EvaluateConfig, parse_scales
from reneg.evaluation.negatives import Negative, OneForAll, PromptEmbeddings, learned_scales
from reneg.evaluation.promptwise import looks_like_rows, read_prompt_rows
from reneg.evaluation.store import fingerprint
from reneg.interfaces import DiffusionModel
from reneg.negative import HUB_PREFIX, NegativeEmbedding, is_file_reference, locate
from reneg.negatives import file_conditioning, resolve_negative
from reneg.targets.weights_files import WeightsFile, open_weights

LONGEST_NAME = 24
"""Characters of a negative prompt that name it, where it is given without a name."""
PLAIN_STEMS = {"negative_embedding", "pytorch_lora_weights", "denoiser", "text_encoder", "negatives", "prompts"}
"""Names of files that every run leaves alike: there the folder tells more."""
JOINT = " + "
"""Between the parts of one contender."""


@dataclass(frozen=True)
class Part:
    """One thing that a contender changes, or two where rows hold both another text and a negative."""

    value: str
    """As it was given."""
    kind: str
    """Such as "negative embedding" or "lora"."""
    negative: Negative | None = None
    weights: WeightsFile | None = None
    drawn: dict[str, str] | None = None
    """Prompt -> the text that is drawn instead."""
    scales: frozenset[float] = frozenset()
    """The guidance scale that was learned along, if one was; embeddings of many prompts may have several."""
    sha256: str | None = None
    """Of its file."""
    num_bytes: int = 0
    """Of its files."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What its file says of itself."""
    counts: dict[str, float] = field(default_factory=dict)
    """What it took for each prompt, on average (promptwise.COUNTS)."""


@dataclass(frozen=True)
class Contender:
    """One row of a comparison."""

    name: str
    value: str
    """As it was given."""
    parts: tuple[Part, ...]
    negative: Negative
    """Of the part that has one; the null text otherwise."""
    guidance_scale: float

    @property
    def kind(self) -> str:
        """What it is, part by part."""
        return JOINT.join(part.kind for part in self.parts)

    @property
    def weights(self) -> WeightsFile | None:
        """Those that take the place of the model's, or are added to them."""
        return next((part.weights for part in self.parts if part.weights is not None), None)

    def drawn(self, prompts: Sequence[str]) -> list[str]:
        """The texts that are drawn for some prompts."""
        instead = next((part.drawn for part in self.parts if part.drawn is not None), {})
        return [instead.get(prompt, prompt) for prompt in prompts]

    def in_force(self, model: DiffusionModel) -> AbstractContextManager[None]:
        """The model has the contender's weights within the block."""
        return nullcontext() if self.weights is None else self.weights.applied(model)


def split_name(text: str) -> tuple[str, str]:
    """(name, value) of a `--negatives` entry, VALUE or NAME=VALUE; a path may hold an equals sign."""
    match = re.fullmatch(r"([\w.+-]+)=(.+)", text, re.DOTALL)
    if match and not Path(text).is_file():
        return match[1], match[2]
    return JOINT.join(_own_name(part) for part in split_parts(text)), text


def _own_name(text: str) -> str:
    path = Path(text)
    if _is_file(text):
        return path.resolve().parent.name if path.stem in PLAIN_STEMS else path.stem
    return text if len(text) <= LONGEST_NAME else text[:LONGEST_NAME] + "…"


def split_parts(value: str) -> list[str]:
    """The parts of a value; a negative prompt may hold a plus sign, so without a file among them it is one text."""
    parts = [part.strip() for part in value.split(JOINT)]
    return parts if any(_is_file(part) for part in parts) and not Path(value).is_file() else [value]


def _is_file(text: str) -> bool:
    return is_file_reference(text) or text.endswith(".jsonl")


def load_contenders(config: EvaluateConfig, model: DiffusionModel, prompts: Sequence[str]) -> list[Contender]:
    """What `--negatives` names, for some prompts.

    Raises:
        ValueError, OSError: two share a name, or one cannot be used; in one line.
    """
    named = [split_name(text) for text in config.negatives]
    names, scales = [name for name, _ in named], parse_scales(config.scales)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--negatives: more than one is called {twice[0]!r}; tell them apart with NAME=VALUE")
    if unknown := sorted(scales.keys() - set(names)):
        raise ValueError(f"--scales: none of --negatives is called {unknown[0]!r}; choose from {', '.join(names)}")
    return [_load(name, value, config, scales.get(name), model, prompts) for name, value in named]


def _load(
    name: str, value: str, config: EvaluateConfig, scale: float | None, model: DiffusionModel, prompts: Sequence[str]
) -> Contender:
    """One contender. Files are checked against the model's own encoder, and texts encoded by the weights in force."""
    values = split_parts(value)
    parts = [_file_part(part, model, prompts) if _is_file(part) else None for part in values]
    weights = next((part.weights for part in parts if part is not None and part.weights is not None), None)
    with nullcontext() if weights is None else weights.applied(model):
        loaded = [part or _text_part(text, model) for part, text in zip(parts, values, strict=True)]
        null = OneForAll(model.null_conditioning())
    changed = {
        "negative": [part.negative for part in loaded if part.negative is not None],
        "weights": [part.weights for part in loaded if part.weights is not None],
        "text that is drawn": [part.drawn for part in loaded if part.drawn is not None],
    }
    for what, found in changed.items():
        if len(found) > 1:
            raise ValueError(f"--negatives {name}: {len(found)} parts of {value!r} change the {what}; keep one")
    learned = frozenset[float]().union(*(part.scales for part in loaded))
    if scale is None and len(learned) > 1:
        raise ValueError(
            f"--negatives {name}: learned with {len(learned)} guidance scales; choose one with --scales {name}=7.5"
        )
    default = next(iter(learned), config.guidance_scale)
    negative = next(iter(changed["negative"]), null)
    return Contender(name, value, tuple(loaded), negative, default if scale is None else scale)


def _text_part(text: str, model: DiffusionModel) -> Part:
    kind = {"null": "null text", "handcrafted": "hand-written negative prompt"}.get(text, "negative prompt")
    return Part(text, kind, OneForAll(resolve_negative(text, model, flag="--negatives")))


def _file_part(value: str, model: DiffusionModel, prompts: Sequence[str]) -> Part:
    """What a file changes, by its content: rows of prompts, weights, or else a negative embedding."""
    path = locate(value)
    if not value.startswith(HUB_PREFIX) and looks_like_rows(path):
        rows = read_prompt_rows(path, prompts, model)
        return Part(
            value,
            rows.kind,
            rows.negative,
            drawn=rows.drawn,
            scales=rows.negative.scales if isinstance(rows.negative, PromptEmbeddings) else frozenset(),
            sha256=fingerprint(path),
            num_bytes=rows.num_bytes,
            counts=rows.counts,
        )
    negative, scales, weights = None, frozenset[float](), open_weights(path, model)
    if weights is None:
        embedding = NegativeEmbedding.load(path)
        kind, metadata = "negative embedding", embedding.metadata
        negative, scales = OneForAll(file_conditioning(embedding, model)), learned_scales(embedding)
    else:
        kind, metadata, path = weights.kind, weights.metadata, weights.path  # of a folder, the file that is read
    return Part(
        value,
        kind,
        negative,
        weights,
        scales=scales,
        sha256=fingerprint(path),
        num_bytes=path.stat().st_size,
        metadata=metadata,
    )
