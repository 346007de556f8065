"""The folder of a method that gives every prompt a text of its own: kept as it grows, never mixed."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from reneg.baselines.config import PromptwiseConfig
from reneg.files import keep_settings, make_output_dir, write_atomically
from reneg.metrics import Row, read_rows

NEGATIVES, REWRITTEN = "negatives.jsonl", "prompts.jsonl"
FREE = {"output_dir", "prompts", "max_prompts", "batch_size"}
"""Settings that no prompt's result depends on."""


class PromptRows:
    """One line a prompt, with its `negative` in negatives.jsonl or its `rewritten` one in prompts.jsonl, and what it
    took to find it."""

    def __init__(self, config: PromptwiseConfig, fingerprints: dict[str, str], file_name: str = NEGATIVES):
        """Go on with a folder, or begin it.

        Args:
            fingerprints: what identifies the weights that the result depends on, by their names.
            file_name: NEGATIVES or REWRITTEN.

        Raises:
            OSError: the folder cannot be written.
            ValueError: it was made with other settings.
        """
        self._folder, self.file = config.output_dir, config.output_dir / file_name
        make_output_dir(self._folder)
        settings = {name: value for name, value in asdict(config).items() if name not in FREE}
        keep_settings(self._folder, settings | {"fingerprints": fingerprints})
        self.rows = {str(row["prompt"]): row for row in read_rows(self.file)}
        """Prompt -> its line."""
        self._write("".join(_line(row) for row in self.rows.values()))  # without a line that a kill cut short

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """The prompts that have no line yet, each once."""
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.rows]

    def add(self, rows: Iterable[Row]) -> None:
        """Write lines, each with `prompt` and what was found for it."""
        with self.file.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(_line(row))
                self.rows[str(row["prompt"])] = row

    def _write(self, text: str) -> None:
        write_atomically(self.file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
