"""What refinement leaves: one file a prompt, kept as they come, and index.jsonl."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from reneg.evaluation.store import content_key
from reneg.files import keep_settings, make_output_dir, write_atomically
from reneg.metrics import Row
from reneg.negative import NegativeEmbedding
from reneg.refinement.config import RefineConfig

INDEX, EMBEDDINGS = "index.jsonl", "embeddings"
FREE = {"output_dir", "prompt", "prompts", "max_prompts", "batch_size", "gradient_checkpointing", "negative"}
"""Settings that no prompt's result depends on; the global embedding counts by content."""
FACT = "refined_"
"""Begins the names of a prompt's facts in its file's metadata."""


class RefinedEmbeddings:
    """A folder of embeddings, each named by all that determines it and whole or not there."""

    def __init__(self, config: RefineConfig, negative_sha256: str, fingerprints: dict[str, str]):
        """Go on with a folder, or begin it.

        Args:
            negative_sha256: of the global embedding's tensors.
            fingerprints: what identifies the weights that the result depends on, by their names.

        Raises:
            OSError: the folder cannot be written.
            ValueError: it was made with other settings.
        """
        self._folder = config.output_dir
        make_output_dir(self._folder)
        settings = {name: value for name, value in asdict(config).items() if name not in FREE}
        settings |= {"negative_sha256": negative_sha256, "fingerprints": fingerprints}
        self.settings: dict = json.loads(json.dumps(settings))
        keep_settings(self._folder, self.settings)

    def path(self, prompt: str) -> Path:
        """Where a prompt's embedding is, or will be."""
        key = content_key({"settings": self.settings, "prompt": prompt})
        return self._folder / EMBEDDINGS / f"{key}.safetensors"

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """The prompts that have no embedding yet."""
        return [prompt for prompt in prompts if not self.path(prompt).is_file()]

    def load(self, prompt: str) -> NegativeEmbedding:
        """A prompt's embedding.

        Raises:
            ValueError: its file is damaged.
        """
        return NegativeEmbedding.load(self.path(prompt))

    def write_index(self, prompts: Sequence[str]) -> list[Row]:
        """Write the line of each prompt, in their order, and give them; all must be there."""
        rows = []
        for prompt in prompts:
            facts = read_facts(self.load(prompt).metadata)
            rows.append({"prompt": prompt, "embedding": f"{EMBEDDINGS}/{self.path(prompt).name}"} | facts)
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        write_atomically(self._folder / INDEX, lambda file: file.write_text(text, encoding="utf-8"))
        return rows


def fact_metadata(facts: Row) -> dict[str, str]:
    """A prompt's facts as a file's metadata has them."""
    return {FACT + name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}


def read_facts(metadata: dict[str, str]) -> Row:
    """The way back."""
    return {name.removeprefix(FACT): json.loads(text) for name, text in metadata.items() if name.startswith(FACT)}
