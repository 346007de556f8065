"""Learning on 1, 2 and 4 processes, against two that know nothing of each other: samples per second, bytes, equality.

    python benchmarks/processes.py      # the world: about four minutes on two idle cores
    python benchmarks/processes.py --updates 1 --micro_batch 1 --global_batch 4 --num_inference_steps 4 \
        --folder FOLDER --result FILE   # in small, to see that it works

Every part is a run of `reneg.learning.Learner` on the CPU, with the same global batch and micro-batch, started by
accelerate's launcher where there are several processes. The first update warms up and is not timed. Bytes are counted
where torch.distributed is called: what a process hands in, whatever the backend makes of it. Each part is written to
the result file as it is made; one that the folder holds with the same settings is not made again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reneg.config import LearnConfig, preset
from reneg.learning import Learner
from reneg.models import load_model
from reneg.processes import make_accelerator
from reneg.rewards import load_reward
from reneg.world import load_prompts

RESULT = Path(__file__).with_suffix(".json")
SETTINGS = ("updates", "global_batch", "micro_batch", "num_inference_steps")
ONE, PAIR, ALONE = "1 process", "2 processes", "2 independent processes"
PARTS = {ONE: (1, 1), PAIR: (2, 1), ALONE: (1, 2), "4 processes": (4, 1)}
"""Part -> (processes of a run, runs at once)."""
SENT = {"all_reduce": 0, "all_gather": 1, "all_gather_into_tensor": 1, "broadcast": 0}
"""Function of torch.distributed -> which of its arguments a process hands in."""


class Meter:
    """What this process hands to the collectives, in bytes."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        for name, place in SENT.items():
            setattr(torch.distributed, name, self._counted(name, place, getattr(torch.distributed, name)))

    def _counted(self, name: str, place: int, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            tensor: Tensor = arguments[place]
            self.bytes[name] += tensor.numel() * tensor.element_size()
            self.calls[name] += 1
            return call(*arguments, **options)

        return counted

    def clear(self) -> None:
        self.bytes.clear()
        self.calls.clear()


class Measured(Learner):
    """Updates alone: no looks, no report."""

    def measure(self, updates: int, meter: Meter) -> dict[str, Any]:
        """One update that warms up, then those that count; what they cost this process."""
        self._start()
        self._prepare()
        self._update()
        self._wait_for_everyone()
        meter.clear()
        begin, cpu = time.perf_counter(), time.process_time()
        rows = [self._update() for _ in range(updates)]
        seconds = time.perf_counter() - begin
        return {
            "seconds": round(seconds, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "seconds_of_each_update": [row["seconds"] for row in rows],
            "bytes_per_update": {name: count / updates for name, count in meter.bytes.items()},
            "calls_per_update": {name: count / updates for name, count in meter.calls.items()},
        }


def work(arguments: argparse.Namespace) -> None:
    """One process of a part; leaves what it measured, and the embedding, in a folder."""
    folder = arguments.work
    torch.set_num_threads(1)
    share = arguments.global_batch // int(os.environ.get("WORLD_SIZE", "1"))
    last = arguments.num_inference_steps - 1
    config = replace(
        LearnConfig(**preset("world")),
        num_inference_steps=arguments.num_inference_steps,
        grad_step_range=(last - 2, last),
        train_batch_size=arguments.micro_batch,
        gradient_accumulation_steps=share // arguments.micro_batch,
        max_train_steps=arguments.updates + 1,
        monitor=None,
        output_dir=folder / "run",
    )
    meter, accelerator = Meter(), make_accelerator(config)
    prompts = load_prompts().learn[: 4 * arguments.global_batch]
    learner = Measured(config, load_model("world"), load_reward("world/preference"), None, prompts, accelerator)
    found = learner.measure(arguments.updates, meter)
    (folder / f"process-{accelerator.process_index}.json").write_text(json.dumps(found))
    if accelerator.is_main_process:
        save_file({"embedding": learner.state.parameters[0].detach()}, folder / "embedding.safetensors")


def start(arguments: argparse.Namespace, folder: Path, processes: int) -> subprocess.Popen:
    """The processes of one run."""
    own = ["--work", str(folder)]
    for name in SETTINGS:
        own += [f"--{name}", str(getattr(arguments, name))]
    command = [sys.executable]
    if processes > 1:  # without --multi_gpu the launcher starts a single process on a CPU, whatever the number
        command += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    quiet = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} | quiet
    return subprocess.Popen([*command, __file__, *own], env=environment)


def measure(arguments: argparse.Namespace, folder: Path, processes: int, runs: int) -> None:
    """So many runs at once, each of so many processes; what they leave is in the folder, `part.json` last."""
    shutil.rmtree(folder, ignore_errors=True)
    folders = [folder / str(run) for run in range(runs)]
    for own in folders:
        own.mkdir(parents=True)
    started = [start(arguments, own, processes) for own in folders]
    if any([process.wait() for process in started]):
        raise SystemExit("a process failed; what it said is above")
    told = [[json.loads(path.read_text()) for path in sorted(own.glob("process-*.json"))] for own in folders]
    samples = arguments.global_batch * arguments.updates
    # A run is as slow as its slowest process, for which the others wait.
    seconds = [max(process["seconds"] for process in run) for run in told]
    cpu_seconds = sum(process["cpu_seconds"] for run in told for process in run)
    part = {
        "samples_per_second": round(sum(samples / each for each in seconds), 3),
        "samples_per_cpu_second": round(runs * samples / cpu_seconds, 3),
        "seconds": seconds,
        "load_average": round(os.getloadavg()[0], 1),
        "first_process": told[0][0],
    }
    (folder / "part.json").write_text(json.dumps(part))


def sum_up(folder: Path) -> dict[str, Any]:
    """The parts that are there, and what they say together."""
    parts = {name: json.loads((folder / name / "part.json").read_text()) for name in PARTS if done(folder / name)}
    found: dict[str, Any] = {"parts": parts}
    if {PAIR, ALONE} <= parts.keys():
        pair, alone = (parts[name]["samples_per_second"] for name in (PAIR, ALONE))
        found["efficiency_of_2_processes"] = round(pair / alone, 4)
    learned = {name: load_file(folder / name / "0" / "embedding.safetensors")["embedding"] for name in parts}
    if ONE in learned:
        others = {name: tensor for name, tensor in learned.items() if name not in (ONE, ALONE)}
        found["greatest_difference_from_1_process"] = {
            name: float((other - learned[ONE]).abs().max()) for name, other in others.items()
        }
        found["greatest_number_of_the_embedding"] = float(learned[ONE].abs().max())
    return found


def done(folder: Path) -> bool:
    return (folder / "part.json").is_file()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=4, help="timed, after one that warms up")
    parser.add_argument("--global_batch", type=int, default=16)
    parser.add_argument("--micro_batch", type=int, default=4)
    parser.add_argument("--num_inference_steps", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=Path("runs/processes"), help="of what the parts leave")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--work", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        work(arguments)
        return
    most = max(processes for processes, _ in PARTS.values())
    if arguments.global_batch % (arguments.micro_batch * most):
        raise SystemExit(f"--global_batch: must be a multiple of {most} micro-batches")
    settings = {name: getattr(arguments, name) for name in SETTINGS}
    folder = arguments.folder / "-".join(str(value) for value in settings.values())
    for name, (processes, runs) in PARTS.items():
        if not done(folder / name):
            measure(arguments, folder / name, processes, runs)
        facts = {"torch": torch.__version__, "cores": os.cpu_count(), "threads_of_a_process": 1}
        found = {"settings": settings | facts, **sum_up(folder)}
        arguments.result.write_text(json.dumps(found, indent=1) + "\n")
    print(arguments.result.read_text())


if __name__ == "__main__":
    main()
