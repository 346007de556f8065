"""Short learning runs for the tests."""

import dataclasses
import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import PROMPTS, Brightness, GaussianModel, Tone
from safetensors.torch import load_file
from tiny import save_tiny_reward, tiny_pipeline
from torch import Tensor

from reneg.config import LearnConfig
from reneg.interfaces import DiffusionModel, Reward
from reneg.learning import Learner, learn
from reneg.metrics import Row, read_rows
from reneg.processes import make_accelerator

QUICK = LearnConfig(
    output_dir=Path("unset"),
    max_train_steps=8,
    train_batch_size=4,
    learning_rate=0.05,
    num_inference_steps=6,
    grad_step_range=(3, 5),
    checkpointing_steps=2,
    validation_steps=4,
    num_validation_prompts=3,
)


def quick(output_dir: Path, **changes: Any) -> LearnConfig:
    """A run of a second."""
    return dataclasses.replace(QUICK, output_dir=output_dir, **changes)


def fake_learner(
    config: LearnConfig,
    *,
    model: DiffusionModel | None = None,
    reward: Reward | None = None,
    monitor: Reward | None = None,
    prompts: Sequence[str] = PROMPTS,
) -> Learner:
    """A learner on the Gaussian model in float64; by default it trains on Tone and monitors Brightness."""
    accelerator = make_accelerator(config)
    model, reward, monitor = model or GaussianModel(), reward or Tone(), monitor or Brightness()
    return Learner(config, model, reward, monitor, list(prompts), accelerator)


def timeless(folder: Path) -> list[Row]:
    """A run's metrics without the wall-clock times."""
    return [
        {key: value for key, value in row.items() if key != "seconds"} for row in read_rows(folder / "metrics.jsonl")
    ]


def last_state(folder: Path) -> dict[str, Tensor]:
    """The tensors of a run's last checkpoint: embedding, optimiser and best state."""
    return load_file(max(folder.glob("checkpoint-*")) / "state.safetensors")


def assert_same_state(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def assert_close_runs(left: Path, right: Path) -> None:
    """Equal up to the order of the sums."""
    for name, tensor in last_state(left).items():
        assert (tensor - last_state(right)[name]).abs().max() <= 1e-8, name
    for one, other in zip(timeless(left), timeless(right), strict=True):
        assert one.pop("kind") == other.pop("kind")
        assert one == pytest.approx(other, rel=1e-8, abs=1e-10)


def assert_same_run(left: Path, right: Path) -> None:
    """Bit for bit: embedding, optimiser, best state, metrics and files."""
    assert_same_state(last_state(left), last_state(right))
    assert timeless(left) == timeless(right)
    for name in ("negative_embedding.safetensors", "negative_embedding_last.safetensors"):
        assert_same_state(load_file(left / name), load_file(right / name))
    assert {path.name for path in left.iterdir()} == {path.name for path in right.iterdir()}


def learn_as_process(rank: int, port: int, config: LearnConfig, **parts: Any) -> None:
    """One of two processes, as accelerate's launchers start them; `parts` as for `fake_learner`."""
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(address | ranks | {"OMP_NUM_THREADS": "1"})
    fake_learner(config, **parts).run()


def on_two_processes(target: Callable[..., None], *arguments: Any) -> list[int | None]:
    """The exit codes of `target(rank, port, *arguments)` in two processes, as of `learn_as_process`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["short_runs"])
    processes = [context.Process(target=target, args=(rank, port, *arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    return [process.exitcode for process in processes]


def save_tiny_world(folder: Path) -> dict[str, Any]:
    """Model, rewards and prompts as files; the settings that name them."""
    tiny_pipeline().save_pretrained(folder / "generator")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    return {
        "model": str(folder / "generator"),
        "reward": str(save_tiny_reward(folder / "preference", seed=1)),
        "monitor": str(save_tiny_reward(folder / "monitor", seed=2)),
        "prompts": folder / "prompts.txt",
    }


def learn_on_one_thread(config: LearnConfig) -> None:
    """`reneg.learn` in a process of its own."""
    torch.set_num_threads(1)
    learn(config)
