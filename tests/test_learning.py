"""A run from its settings: those that save memory change nothing that is learned."""

from pathlib import Path

import pytest
import torch
from short_runs import assert_same_run, quick, save_tiny_world

from reneg.learning import learn


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """The tiny world's settings, and a run with them."""
    world = save_tiny_world(tmp_path_factory.mktemp("world"))
    folder = tmp_path_factory.mktemp("runs") / "plain"
    learn(quick(folder, **world))
    return world, folder


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}], ids=str)
def test_the_same_run_to_the_last_bit(plain: tuple[dict, Path], settings: dict, tmp_path: Path):
    world, folder = plain
    learn(quick(tmp_path / "run", **world, **settings))
    assert_same_run(folder, tmp_path / "run")


@pytest.mark.slow
def test_a_second_run_takes_its_prompts_from_the_cache(plain: tuple[dict, Path], tmp_path: Path):
    world, folder = plain
    for name in ("first", "second"):
        learn(quick(tmp_path / name, **world, prompt_cache=tmp_path / "cache"))
        assert_same_run(folder, tmp_path / name)
    assert len(list((tmp_path / "cache").iterdir())) > 1


def test_the_settings_of_a_gpus_products_are_torchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`tf32` is a switch of the process, set before anything is loaded."""

    def stop(*arguments: object, **options: object) -> None:
        raise InterruptedError

    monkeypatch.setattr("reneg.learning.load_model_and_monitor", stop)
    for number, tf32 in enumerate((True, False)):
        with pytest.raises(InterruptedError):
            learn(quick(tmp_path / str(number), tf32=tf32))
        assert torch.backends.cuda.matmul.allow_tf32 == tf32
