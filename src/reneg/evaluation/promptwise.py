"""What a file gives every prompt of its own: a negative, or another text to draw, one row a prompt."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from reneg.evaluation.negatives import Negative, PromptEmbeddings, PromptTexts
from reneg.interfaces import DiffusionModel
from reneg.negatives import beyond_limit

logger = logging.getLogger(__name__)

FIELDS = {
    "rewritten": "rewritten prompts",
    "negative": "a negative prompt for each prompt",
    "embedding": "an embedding for each prompt",
}
"""What a row may hold beside its `prompt` -> what a file of such rows is."""
COUNTS = ("denoiser_evaluations", "backward_passes", "seconds")
"""What finding a row took, where rows tell it."""


@dataclass(frozen=True)
class PromptRows:
    """A .jsonl file's rows of the prompts that are evaluated."""

    kind: str
    drawn: dict[str, str] | None
    """Prompt -> the text that is drawn instead."""
    negative: Negative | None
    counts: dict[str, float]
    """Mean over the prompts of what COUNTS names, as far as all rows tell it."""
    num_bytes: int
    """Of the file and of the files that its rows name."""


def looks_like_rows(path: Path) -> bool:
    """Whether a file is JSON lines, by its beginning: a safetensors file has zeros there, and no text does."""
    if path.suffix == ".jsonl" or not path.is_file():
        return path.suffix == ".jsonl"
    with path.open("rb") as file:
        head = file.read(64)
    return head.lstrip().startswith(b"{") and b"\0" not in head


def read_prompt_rows(path: Path, prompts: Sequence[str], model: DiffusionModel) -> PromptRows:
    """The rows of some prompts, each checked.

    Args:
        path: JSON lines with `prompt`, and `rewritten`, `negative` or `embedding`, which is a NegativeEmbedding's
            file, relative to this one's folder. The rows of other prompts are not looked at.

    Raises:
        ValueError, OSError: no such file, a line or file that cannot be used, or prompts without a row; in one line.
    """
    rows = _rows_of(path, prompts)
    fields = {field for field in FIELDS if any(field in row for row in rows.values())}
    for prompt, row in rows.items():
        if missing := sorted(field for field in fields if field not in row):
            raise ValueError(f"--negatives {path}: the row of {prompt!r} has no {missing[0]!r}, as other rows have")
    if not fields:
        raise ValueError(f"--negatives {path}: rows change nothing; they need one of {', '.join(map(repr, FIELDS))}")
    if {"negative", "embedding"} <= fields:
        raise ValueError(f"--negatives {path}: rows have both 'negative' and 'embedding'; give one of them")
    drawn = {prompt: row["rewritten"] for prompt, row in rows.items()} if "rewritten" in fields else None
    negative: Negative | None = None
    if "negative" in fields:
        negative = PromptTexts({prompt: row["negative"] for prompt, row in rows.items()})
    elif "embedding" in fields:
        files = {prompt: path.parent / row["embedding"] for prompt, row in rows.items()}
        negative = PromptEmbeddings.open(files, model, source=path)
    for field in fields - {"embedding"}:
        _report_cut_off(path, FIELDS[field], [row[field] for row in rows.values()], model)
    counts = {
        name: fmean(row[name] for row in rows.values())
        for name in COUNTS
        if all(_is_number(row.get(name)) for row in rows.values())
    }
    named = negative.num_bytes if isinstance(negative, PromptEmbeddings) else 0
    kind = " and ".join(FIELDS[field] for field in FIELDS if field in fields)
    return PromptRows(kind, drawn, negative, counts, path.stat().st_size + named)


def _rows_of(path: Path, prompts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The row of each prompt, in the order of the prompts."""
    found: dict[str, dict[str, Any]] = {}
    wanted = set(prompts)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            row = _row(line, f"--negatives {path}: line {number}")
            if row["prompt"] in wanted and found.setdefault(row["prompt"], row) != row:
                raise ValueError(f"--negatives {path}: line {number} is another row of {row['prompt']!r}")
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
    if missing:
        raise ValueError(
            f"--negatives {path}: {len(missing)} of {len(wanted)} prompts have no row, the first is {missing[0]!r}; "
            "make the missing rows, or evaluate the file's own prompts with --prompts or --max_prompts"
        )
    return {prompt: found[prompt] for prompt in prompts}


def _row(line: str, where: str) -> dict[str, Any]:
    """One line's object, its texts checked."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise ValueError(f"{where} is no object with a text as 'prompt'")
    for field in FIELDS.keys() & row.keys():
        text = row[field]
        if not isinstance(text, str) or (field != "negative" and not text.strip()):  # an empty negative is a text
            raise ValueError(f"{where}: {field!r} must be a text, and is {text!r}")
    return row


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _report_cut_off(path: Path, what: str, texts: Sequence[str], model: DiffusionModel) -> None:
    """Texts that a method wrote are cut off at the encoder's limit, as its pipeline does it, and reported."""
    count = len(beyond_limit(texts, model))
    if count:
        facts = (path, count, len(texts), what, model.max_tokens, model.name)
        logger.warning("--negatives %s: %d of %d texts (%s) are beyond %d tokens of %s and are cut off", *facts)
