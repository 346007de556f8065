"""A run from its settings: those that save memory change nothing that is learned."""

from pathlib import Path

import pytest
from short_runs import assert_same_run, quick, save_tiny_world

from reneg.learning import learn


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """The tiny world's settings, and a run with them."""
    world = save_tiny_world(tmp_path_factory.mktemp("world"))
    folder = tmp_path_factory.mktemp("runs") / "plain"
    learn(quick(folder, **world))
    return world, folder


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}], ids=str)
def test_the_same_run_to_the_last_bit(plain: tuple[dict, Path], settings: dict, tmp_path: Path):
    world, folder = plain
    learn(quick(tmp_path / "run", **world, **settings))
    assert_same_run(folder, tmp_path / "run")
