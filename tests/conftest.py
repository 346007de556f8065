from pathlib import Path

import pytest
import torch

# One thread: the same sums on every machine, and no quarrel with what else runs on it.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kill-results", type=Path, help="JSON file for the steps at which test_kill.py's runs were killed"
    )
