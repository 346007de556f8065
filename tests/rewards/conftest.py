"""The table of docs/rewards.md: the tests say what they proved of each scorer, and how far the two sides were."""

from collections.abc import Callable
from pathlib import Path

import pytest

BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
HEAD = "| scorer | proven | against | largest difference |\n|---|---|---|---|\n"
ROWS = pytest.StashKey[dict[tuple[str, str, str], float | str]]()

Prove = Callable[[str, str, str, float | str], None]
"""(scorer, what was proven, against what, largest difference or a count)."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}


@pytest.fixture
def prove(request: pytest.FixtureRequest) -> Prove:
    """Enter a row; of several with the same first three columns, the largest difference stays."""
    rows = request.config.stash[ROWS]

    def enter(scorer: str, proven: str, against: str, difference: float | str) -> None:
        key, old = (scorer, proven, against), rows.get((scorer, proven, against))
        if isinstance(difference, float) and isinstance(old, float):
            difference = max(difference, old)
        rows[key] = difference

    return enter


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, rows = session.config.getoption("--rewards-table"), session.config.stash.get(ROWS, {})
    if path and rows:
        write_table(path, rows)


def write_table(path: Path, rows: dict[tuple[str, str, str], float | str]) -> None:
    lines = [
        f"| {' | '.join(key)} | {value if isinstance(value, str) else format(value, '.1e')} |\n"
        for key, value in sorted(rows.items())
    ]
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    path.write_text(before + BEGIN + HEAD + "".join(lines) + END + after, encoding="utf-8")
