"""Several processes make the shards of one, and kill -9 loses and repeats nothing that was finished."""

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import torch
from short_runs import save_tiny_world

from reneg.config import EvaluateConfig
from reneg.evaluation import evaluate

PROMPTS = [f"a {word}" for word in ("cat", "dog", "hen", "lamp", "road", "sea", "hat")]
KILLED_AFTER = (1, 4, 9, 13, 19)
"""Shards on the disk; a whole evaluation leaves SHARDS."""
SHARDS = 2 * 5 + 2 * 2 * 5


def evaluate_as_process(rank: int, count: int, port: int, config: EvaluateConfig) -> None:
    """One of some processes, as accelerate's launchers start them."""
    torch.set_num_threads(1)
    if count > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        os.environ.update(address | ranks | {"OMP_NUM_THREADS": "1"})
    results = evaluate(config)
    # Every process gives the same, though one alone sums up.
    assert results["overall"]["num_prompts"] == len(PROMPTS) and results["work"]["processes"] == count


def start(config: EvaluateConfig, count: int) -> Sequence[BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["short_runs", "reneg.evaluation"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=evaluate_as_process, args=(rank, count, port, config)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def finish(config: EvaluateConfig, count: int) -> dict:
    processes = start(config, count)
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0] * count
    return json.loads((config.output_dir / "results.json").read_text())


def kill(config: EvaluateConfig, count: int, shards: int) -> None:
    """Start an evaluation, and kill all its processes once so many shards are there."""
    processes = start(config, count)
    while all(process.is_alive() for process in processes) and len(shards_of(config)) < shards:
        time.sleep(0.001)
    for process in processes:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(200)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * count


def shards_of(config: EvaluateConfig) -> dict[str, tuple[int, int]]:
    """Shard -> what changes if it is written again."""
    paths = {path.relative_to(config.output_dir): path.stat() for path in config.output_dir.glob("*/*/[!.]*.npy")}
    return {str(path): (stat.st_ino, stat.st_mtime_ns) for path, stat in paths.items()}


def contents(config: EvaluateConfig) -> dict[str, bytes]:
    return {name: (config.output_dir / name).read_bytes() for name in shards_of(config)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("world")
    world = save_tiny_world(folder)
    (folder / "evaluate.txt").write_text("\n".join(PROMPTS))
    shape = {"num_inference_steps": 4, "num_seeds": 2, "batch_size": 3}
    rewards = [world["reward"], world["monitor"]]
    prompts = folder / "evaluate.txt"
    return {"model": world["model"], "rewards": rewards, "prompts": prompts, "negatives": ["null", "bad"], **shape}


@pytest.fixture(scope="module")
def whole(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluateConfig, dict]:
    """One process, never interrupted."""
    config = EvaluateConfig(output_dir=tmp_path_factory.mktemp("whole"), **settings)
    return config, finish(config, 1)


def figures(results: dict) -> dict:
    return {name: results[name] for name in ("overall", "groups", "notes", "negatives", "fingerprints")}


@pytest.mark.slow
def test_two_processes_make_the_shards_of_one(settings, whole, tmp_path):
    config = EvaluateConfig(output_dir=tmp_path, **settings)
    results = finish(config, 2)
    assert contents(config) == contents(whole[0]) and len(contents(config)) == SHARDS
    assert figures(results) == figures(whole[1])
    assert (tmp_path / "scores.jsonl").read_text() == (whole[0].output_dir / "scores.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", [1, 2])
def test_killed_anywhere_nothing_is_lost_or_made_again(count, settings, whole, tmp_path):
    for shards in KILLED_AFTER:
        config = EvaluateConfig(output_dir=tmp_path / str(shards), **settings)
        kill(config, count, shards)
        kept = shards_of(config)
        results = finish(config, count)
        after = shards_of(config)
        assert shards <= len(kept) < len(after) == SHARDS
        assert {name: after[name] for name in kept} == kept
        pictures = sum(3 if name.endswith("0003.npy") else 2 for name in kept if name.startswith("pictures"))
        assert results["work"]["pictures_sampled_in_this_run"] == 2 * 2 * len(PROMPTS) - pictures
        assert contents(config) == contents(whole[0])
        assert figures(results) == figures(whole[1])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_evaluation_killed_again_and_again_by_either_number_of_processes(settings, whole, tmp_path):
    config, kept = EvaluateConfig(output_dir=tmp_path, **settings), dict[str, tuple[int, int]]()
    for number, shards in enumerate(KILLED_AFTER):
        kill(config, 1 + number % 2, shards)
        assert {name: shards_of(config)[name] for name in kept} == kept
        kept = shards_of(config)
    results = finish(config, 2)
    assert contents(config) == contents(whole[0]) and figures(results) == figures(whole[1])
