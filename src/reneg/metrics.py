"""metrics.jsonl: one JSON object a line, in step order, and never a row of a step that was undone by a restart.

Only the row of the look at the start, step 0, stands behind that of the first update, after which it is made.
"""

import json
import os
from pathlib import Path

from reneg.files import write_atomically

Row = dict[str, str | int | float]


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics file; a last line that a kill cut short is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not line.endswith("\n") or not isinstance(row, dict):
                break
            rows.append(row)
    return rows


class MetricsLog:
    """Appends rows to a file."""

    def __init__(self, path: Path):
        self.path = path
        self.count = 0
        """Rows in the file."""

    def restart(self, step: int, source: Path | None = None) -> None:
        """Keep the rows up to a step and drop the others, and any half-written line, in one atomic replacement.

        Args:
            step: the state that the run goes on from; -1 drops all.
            source: read the rows from another run's file instead.
        """
        rows = [row for row in read_rows(source or self.path) if int(row["step"]) <= step]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(self.path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        self.count = len(rows)

    def append(self, row: Row) -> None:
        """Add a row, which readers may see at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        self.count += 1

    def sync(self) -> None:
        """Flush to the disk, before a checkpoint relies on the rows."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
