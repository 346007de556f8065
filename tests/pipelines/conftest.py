"""`pytest tests/pipelines --pipelines-table docs/pipelines.md` writes the table of what the tests here proved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers.utils import logging
from pipelines.table import write_table

RESULTS = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pipelines-table", type=Path, help="markdown file for what was proven of each pipeline class")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = {}


@pytest.fixture(autouse=True)
def quiet():
    """The libraries' own logging off: it is not what is tested."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@pytest.fixture
def record(pytestconfig: pytest.Config) -> Callable[..., None]:
    """Keep what was measured of a class, for the table."""

    def keep(name: str, **measured: Any) -> None:
        pytestconfig.stash[RESULTS][name] = measured

    return keep


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path = session.config.getoption("--pipelines-table", default=None)
    if path is not None and exitstatus == 0:
        write_table(path, session.config.stash[RESULTS])
