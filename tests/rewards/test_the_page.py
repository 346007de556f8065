"""docs/rewards.md is up to date. Its name puts this file behind all that fills the page's table."""

from pathlib import Path

import pytest
from rewards.table import BEGIN, PAGE, ROWS, WHOLE, read_table

from reneg.rewards import FILES, REWARDS


def test_every_reward_is_described_with_its_place_and_files():
    text = PAGE.read_text(encoding="utf-8").split(BEGIN)[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines()]
    places = {name.strip("`"): row[3] for row in lines if len(row) == 4 for name in row[0].split(", ")}
    for name, source in REWARDS.items():
        if isinstance(source.location, str):
            assert f"`{source.location}`" in places[name]
    for file, name in FILES.items():
        assert f"`{file}`" in places[name]


def test_every_row_of_the_table_is_proven_by_a_test(request: pytest.FixtureRequest, shared_data: Path):
    """The other way round, each test finds the row that it proves."""
    ran = {item.path for item in request.session.items}
    if not request.config.stash[WHOLE] or not ran.issuperset(Path(__file__).parent.glob("test_*.py")):
        pytest.skip("not all tests of rewards ran")
    if request.config.getoption("--rewards-table") is None:
        assert request.config.stash[ROWS].keys() == read_table().keys()
