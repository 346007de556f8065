"""The tests say what they proved of each scorer; `pytest tests/rewards --rewards-table docs/rewards.md` writes it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rewards.table import PAGE, ROWS, WHOLE, read_table, write_table

Prove = Callable[[str, str, str, float | str], None]
"""(scorer, what was proven, against what, largest difference or a count)."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}
    config.stash[WHOLE] = True


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.config.stash[WHOLE] = False


@pytest.fixture
def prove(request: pytest.FixtureRequest) -> Prove:
    """Enter a row, which the committed page must have; of several with one key, the largest difference stays."""
    rows = request.config.stash[ROWS]
    page = None if request.config.getoption("--rewards-table") else read_table()

    def enter(scorer: str, proven: str, against: str, difference: float | str) -> None:
        key, old = (scorer, proven, against), rows.get((scorer, proven, against))
        if isinstance(difference, float) and isinstance(old, float):
            difference = max(difference, old)
        rows[key] = difference
        if page is not None:
            assert key in page, f"{PAGE.name} has no such row; write it with --rewards-table"
            assert isinstance(difference, float) or page[key] == difference

    return enter


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, rows = session.config.getoption("--rewards-table"), session.config.stash.get(ROWS, {})
    if path and rows:
        write_table(path, rows)
