"""The table of docs/rewards.md: what the tests proved of each scorer, and how far the two sides were."""

from pathlib import Path

import pytest

from reneg.files import write_atomically

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
HEAD = "| scorer | proven | against | largest difference |\n|---|---|---|---|\n"
Key = tuple[str, str, str]
ROWS = pytest.StashKey[dict[Key, float | str]]()
WHOLE = pytest.StashKey[bool]()
"""Whether no test of this folder was left out."""


def read_table() -> dict[Key, str]:
    """The committed rows."""
    text = PAGE.read_text(encoding="utf-8").split(BEGIN + HEAD)[1].split(END)[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()]
    return {(scorer, proven, against): value for scorer, proven, against, value in rows}


def write_table(path: Path, rows: dict[Key, float | str]) -> None:
    """Put the rows between the marks of a page."""
    lines = [
        f"| {' | '.join(key)} | {value if isinstance(value, str) else format(value, '.1e')} |\n"
        for key, value in sorted(rows.items())
    ]
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page = before + BEGIN + HEAD + "".join(lines) + END + after
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
