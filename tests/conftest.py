import os
from pathlib import Path

import pytest
import torch

# One thread: the same sums on every machine, and no quarrel with what else runs on it.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kill-results", type=Path, help="JSON file for the steps at which test_kill.py's runs were killed"
    )
    parser.addoption(
        "--rewards-table",
        type=Path,
        help="Markdown file whose table tests/rewards writes: what is proven of each scorer",
    )
    parser.addoption(
        "--mutation-results",
        type=Path,
        help="JSON file for test_mutated_files.py's counts of loaded and refused files",
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public prompt sets, tokenizers, scorer heads and embeddings, which are not part of the repository."""
    folder = Path(os.environ.get("RENEG_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("needs the public files: put them in ../shared/data, or set RENEG_SHARED_DATA")
    return folder
