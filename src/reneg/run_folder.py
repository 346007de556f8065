"""What a learning run reads and leaves: its prompts, its folder's files, and whether a run may start there."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import yaml

from reneg.checkpoint import (
    Environment,
    Setting,
    clean_leftovers,
    discard_checkpoint,
    find_checkpoint,
    list_checkpoints,
    step_of,
)
from reneg.config import ModelConfig, RunConfig
from reneg.files import make_output_dir, write_atomically
from reneg.interfaces import DiffusionModel, Reward
from reneg.metrics import Row
from reneg.prompts import read_prompts
from reneg.provenance import code_version
from reneg.randomness import prompt_index
from reneg.targets import TARGETS
from reneg.world import DENOISERS, load_prompts

logger = logging.getLogger(__name__)

CONFIG, METRICS, REPORT, SAMPLES = "config.yaml", "metrics.jsonl", "report.html", "samples"
FREE = {
    "output_dir",
    "report_to",
    "gradient_checkpointing",
    "offload",
    "prompt_cache",
    "resume_from_checkpoint",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "prompts",
    "pairs",
}
"""Settings that may change at a restart, because the result does not depend on them; prompts and pairs count by
content."""


def result_names(target: str) -> tuple[str, str]:
    """The file names of a target's best and last state in a run folder."""
    best = Path(TARGETS[target].file_name)
    return best.name, f"{best.stem}_last{best.suffix}"


ALL_RESULTS = sorted({name for target in TARGETS for name in result_names(target)})


def check_run_folder(config: RunConfig) -> None:
    """Make the run folder; refuse one that cannot be written, or that holds a run which was not asked to go on.

    Raises:
        OSError, ValueError: so, in one line.
    """
    folder, wanted = config.output_dir, config.resume_from_checkpoint
    make_output_dir(folder)
    used = [name for name in ALL_RESULTS if (folder / name).exists()] + [p.name for p in list_checkpoints(folder)]
    if wanted is None:
        if used:
            raise ValueError(
                f"--output_dir {folder} already holds a run ({used[-1]}); "
                "pass `--resume_from_checkpoint latest` to go on with it, or choose another --output_dir"
            )
    else:
        path = find_checkpoint(folder, wanted)
        if path is None and used:
            raise ValueError(f"--output_dir {folder} holds {used[-1]} but no checkpoint; choose another --output_dir")
        if path is not None and used and path.parent.resolve() != folder.resolve():
            raise ValueError(f"--output_dir {folder} already holds a run, and not that of {path}; choose another")


def learning_prompts(config: RunConfig) -> list[str]:
    """The prompts to learn from: the file's, all groups one after the other, or the world's own."""
    if config.prompts is None:
        return load_prompts().learn
    return [prompt for group in read_prompts(config.prompts).values() for prompt in group]


def sample_prompts(seed: int, prompts: Sequence[str], numbers: Sequence[int], noises_per_prompt: int) -> list[str]:
    """The prompts of some samples of a run, by their numbers; so many consecutive ones share a prompt."""
    groups = [number // noises_per_prompt for number in numbers]
    return [prompts[prompt_index(seed, group, len(prompts))] for group in groups]


def clean_run_folder(folder: Path) -> None:
    """Delete the half-written files of a killed run."""
    (folder / SAMPLES).mkdir(exist_ok=True)
    clean_leftovers(folder, ("checkpoint-", CONFIG, METRICS, REPORT, *ALL_RESULTS))
    clean_leftovers(folder / SAMPLES, ("step-",))


def discard_newer_checkpoints(folder: Path, step: int) -> None:
    """Delete the checkpoints after a step, newest first, so that at every moment the rest is a run's history."""
    for path in list_checkpoints(folder)[::-1]:
        if step_of(path) > step:
            logger.info("going back to step %d: deleting %s", step, path)
            discard_checkpoint(path)


def result_settings(config: RunConfig, prompts: Sequence[str], num_processes: int) -> dict[str, Setting]:
    """Everything that the result depends on, as JSON has it."""
    settings = {name: value for name, value in asdict(config).items() if name not in FREE}
    content = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    return json.loads(json.dumps(settings | {"prompts_sha256": content, "num_processes": num_processes}))


def environment() -> Environment:
    """What the last bits of the sums depend on, beside the settings."""
    return Environment(code_version(), torch.__version__, torch.get_num_threads())


def write_config(config: RunConfig, num_processes: int) -> None:
    """Write the resolved settings as YAML, which `reneg learn --config` reads again."""
    now = environment()
    made_by = f"# reneg {now.reneg}, torch {now.torch}, {now.threads} threads, processes: {num_processes}\n"
    text = made_by + yaml.safe_dump(plain_settings(config), sort_keys=False, allow_unicode=True)
    write_atomically(config.output_dir / CONFIG, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def plain_settings(config: RunConfig) -> dict[str, Setting]:
    """All settings with YAML's and JSON's types: paths as text, pairs as lists."""
    return json.loads(json.dumps(asdict(config), default=str))


def learning_metadata(
    config: RunConfig,
    settings: dict[str, Setting],
    model: DiffusionModel,
    num_prompts: int,
    step: int,
    rows: Sequence[Row],
    *,
    rewards: Mapping[str, str],
    guidance_scale: float,
    effort: dict[str, int],
) -> dict[str, str]:
    """How the state of a step was learned, for its file; the same however often the run was interrupted.

    Args:
        settings: of `result_settings`.
        model: that it was learned on.
        num_prompts: learned from.
        step: whose state it is.
        rows: of metrics.jsonl; the monitor's values before learning and at the step are taken from them.
        rewards: of `reward_metadata`.
        guidance_scale: the state's, learned or not.
        effort: of the run so far, for the best state needed the others to be the best.
    """
    metadata = {
        "target": config.target,
        **sampling_metadata(config, model, guidance_scale=guidance_scale),
        **rewards,
        "prompts_sha256": str(settings["prompts_sha256"]),
        "num_prompts": str(num_prompts),
        "seed": str(config.seed),
        "step": str(step),
        "config": json.dumps(settings),
        **{name: str(count) for name, count in effort.items()},
    }
    for row in rows:
        if row["kind"] == "validation":
            for when, at in (("before", 0), ("after", step)):
                if row["step"] == at:
                    names = [name for name in row if name.split("/")[0] in ("reward", "monitor")]
                    metadata |= {f"{name}_{when}": str(row[name]) for name in names}
    return metadata


def reward_metadata(reward: Reward, monitor: Reward | None) -> dict[str, str]:
    """The names of the rewards as they were loaded: a folder's own would not tell HPSv2.1 from v2.0."""
    return {"reward": reward.name, "monitor": "None" if monitor is None else monitor.name}


def sampling_metadata(config: ModelConfig, model: DiffusionModel, *, guidance_scale: float) -> dict[str, str]:
    """With which model, sampled how, and by which code a file was made."""
    metadata = {
        "base_model": config.model,
        "family": model.family,
        "guidance_scale": str(guidance_scale),
        "guidance_formula": "pred_uncond + guidance_scale * (pred_cond - pred_uncond)",
        "num_inference_steps": str(config.num_inference_steps),
        "scheduler": model.scheduler_name,
        "reneg_version": code_version(),
    }
    return metadata | ({"license": "Apache-2.0 (bundled world)"} if config.model in DENOISERS else {})
