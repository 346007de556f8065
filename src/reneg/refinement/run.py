"""Refinement from its settings: `reneg refine`, `reneg generate --refine`, and `reneg.refine` in Python."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from jsonargparse import ArgumentParser
from rich.console import Console
from torch import Tensor

from reneg.config import EvaluateConfig, GenerateConfig, ModelConfig, preset
from reneg.evaluation.comparison import load_groups
from reneg.evaluation.runner import model_fingerprint, reward_fingerprint
from reneg.files import make_output_dir
from reneg.interfaces import Conditioning, DiffusionModel, Reward
from reneg.models import check_device, load_configured
from reneg.models.base import LatentModel
from reneg.negative import NegativeEmbedding, is_file_reference, tensor_hash
from reneg.negatives import check_prompt_lengths, file_conditioning, prompts_to_draw, write_pictures
from reneg.refinement.algorithm import Refinement, refine_prompts
from reneg.refinement.config import RefineConfig
from reneg.refinement.page import write_page
from reneg.refinement.progress import prompt_progress
from reneg.refinement.store import INDEX, RefinedEmbeddings, fact_metadata
from reneg.rewards import load_reward
from reneg.rewards.own import as_reward
from reneg.rewards.process import is_process, no_gradient
from reneg.run_folder import reward_metadata, sampling_metadata
from reneg.targets import NegativeEmbeddingTarget

logger = logging.getLogger(__name__)


def refine(
    model: DiffusionModel,
    negative: NegativeEmbedding | None,
    prompts: Sequence[str],
    *,
    reward: Callable[[Tensor, Sequence[str]], Any],
    monitor: Callable[[Tensor, Sequence[str]], Any] | None = None,
    config: RefineConfig | None = None,
) -> list[NegativeEmbedding]:
    """Algorithm 1 for each prompt, in memory.

    Args:
        negative: the global embedding; None for the null text.
        reward: what is raised: of images `[b, 3, h, w]` in [0, 1] and prompts -> `[b]`, differentiable.
        monitor: another reward, which no candidate may lower; None lets the reward decide alone.
        config: how; its model, rewards, prompts and folder are not read.

    Returns:
        An embedding for each prompt, in their order; its base model is the global embedding's, or else the model.

    Raises:
        ValueError: the embedding belongs to another text encoder, or a prompt is too long.
        FloatingPointError: a reward or gradient became NaN or infinite.
    """
    known = {} if negative is None else negative.metadata
    config = replace(config or RefineConfig(), model=known.get("base_model", model.name))
    check_prompt_lengths(prompts, model)
    start, null = global_embedding(model, negative)
    sought, judged = as_reward(reward), None if monitor is None else as_reward(monitor)
    scorers = reward_metadata(sought, judged)
    different = list(dict.fromkeys(prompts))
    sha256 = tensor_hash(*start.tensors())
    found, rewards = {}, []
    for done in refine_prompts(model, start, different, sought, judged, config):
        found[str(done.facts["prompt"])] = artifact(done, null, model, config, sha256, scorers)
        rewards.append(float(done.facts["reward"]))
    _warn_of_no_reward_above_0(rewards, config)
    return [found[prompt] for prompt in prompts]


def run_refine(config: RefineConfig, *, console: Console | None = None) -> Path:
    """`reneg refine`; gives index.jsonl. Under accelerate's launcher the processes share the prompts.

    Args:
        console: shows a progress bar; None shows nothing.

    Raises:
        ValueError, OSError: with one line that names the flag.
        FloatingPointError: a reward or gradient became NaN or infinite; what is finished is kept.
    """
    make_output_dir(config.output_dir)
    prompts = prompts_of(config)
    check_device(config.device)
    model = load_configured(config, device=_device(config))
    refine_into_folder(model, prompts, config, console=console)
    return config.output_dir / INDEX


def refine_into_folder(
    model: LatentModel, prompts: Sequence[str], config: RefineConfig, *, console: Console | None = None
) -> RefinedEmbeddings:
    """`run_refine` for a model and different prompts that are loaded already; gives the folder's embeddings."""
    flag = "--prompt" if config.prompt else "--prompts"
    check_prompt_lengths(prompts, model, flag=flag, source=config.prompts)
    given = None if config.negative == "null" else _open(config.negative)
    start, null = global_embedding(model, given)
    if is_process(config.reward):
        raise ValueError(no_gradient(config.reward))
    rewards = [config.reward, *([] if config.monitor is None else [config.monitor])]
    fingerprints = {name: reward_fingerprint(name, published=False) for name in rewards}
    fingerprints |= {config.model: model_fingerprint(config.model)}
    sha256 = tensor_hash(*start.tensors())
    store, state = RefinedEmbeddings(config, sha256, fingerprints), PartialState(cpu=config.device == "cpu")
    mine = store.missing(prompts[state.process_index :: state.num_processes])
    logger.info("%d of %d prompts are refined already", len(prompts) - len(store.missing(prompts)), len(prompts))
    if mine:
        reward, *others = (load_reward(name, device=str(model.device)) for name in rewards)
        if config.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        _refine_missing(model, start, null, mine, reward, others[0] if others else None, config, store, console)
    state.wait_for_everyone()
    if state.is_main_process:
        rows = store.write_index(prompts)
        write_page(model, start, rows, store, config)
    state.wait_for_everyone()
    return store


def _refine_missing(
    model: DiffusionModel,
    start: Conditioning,
    null: Tensor,
    prompts: Sequence[str],
    reward: Reward,
    monitor: Reward | None,
    config: RefineConfig,
    store: RefinedEmbeddings,
    console: Console | None,
) -> None:
    sha256, found = tensor_hash(*start.tensors()), []
    scorers = reward_metadata(reward, monitor)
    with prompt_progress(len(prompts), config.max_refine_steps, console) as show:
        for done in refine_prompts(model, start, prompts, reward, monitor, config, show):
            file = store.path(str(done.facts["prompt"]))
            artifact(done, null, model, config, sha256, scorers).save(file)
            found.append(float(done.facts["reward"]))
    _warn_of_no_reward_above_0(found, config)


def _warn_of_no_reward_above_0(rewards: Sequence[float], config: RefineConfig) -> None:
    count = sum(reward <= 0 for reward in rewards)
    if config.mode == "paper" and count:
        facts = (count, len(rewards), config.patience)
        logger.warning(
            "--mode paper: %d of %d prompts had no reward above 0, where J_best starts, and ended after %d steps",
            *facts,
        )


def global_embedding(model: DiffusionModel, negative: NegativeEmbedding | None) -> tuple[Conditioning, Tensor]:
    """(what to start from as the conditioning of one prompt, the null text's encoding); None is the null text.

    Raises:
        ValueError: the embedding belongs to another text encoder.
    """
    target = NegativeEmbeddingTarget(model)  # as learning starts: every token is read, and none is another's copy
    start = target.negative().detach() if negative is None else file_conditioning(negative, model)
    return start, target.null.prompt_embeds


def artifact(
    done: Refinement,
    null: Tensor,
    model: DiffusionModel,
    config: RefineConfig,
    negative_sha256: str,
    scorers: dict[str, str],
) -> NegativeEmbedding:
    """A prompt's embedding with what was found on the way."""
    settings = {name: value for name, value in asdict(config).items() if name not in ("prompt", "output_dir")}
    metadata = {
        "target": "negative_embedding, refined for one prompt",
        **sampling_metadata(config, model, guidance_scale=config.guidance_scale),
        **scorers,
        "seed": str(config.seed),
        "refined_from_sha256": json.dumps(negative_sha256),
        "config": json.dumps(settings, default=str),
    }
    return NegativeEmbedding.learned(done.negative, null, metadata | fact_metadata(done.facts))


def prompts_of(config: RefineConfig) -> list[str]:
    """The prompts to refine for, each once: those that are given, or those that evaluate takes by the same flags."""
    if config.prompt:
        return list(dict.fromkeys(config.prompt))
    groups = load_groups(EvaluateConfig(prompts=config.prompts, max_prompts=config.max_prompts))
    return list(dict.fromkeys(prompt for group in groups.values() for prompt in group))


def generate_refined(config: GenerateConfig, *, console: Console | None = None) -> list[Path]:
    """`reneg generate --refine`: refine for each prompt, then draw; gives the pictures.

    Raises:
        ValueError, OSError, ArgumentError: with one line that names the flag.
        FloatingPointError: a reward or gradient became NaN or infinite.
    """
    prompts = prompts_to_draw(config)
    settings = settings_of_generate(config)
    make_output_dir(config.output_dir)
    model = load_configured(config, device=config.device)
    store = refine_into_folder(model, list(dict.fromkeys(prompts)), settings, console=console)
    own = {prompt: file_conditioning(store.load(prompt), model) for prompt in prompts}
    return write_pictures(model, prompts, config, own)


def settings_of_generate(config: GenerateConfig) -> RefineConfig:
    """How generate refines: the model's preset, then --refine_config, and above both what generate itself was given.

    Raises:
        ValueError, ArgumentError: the file cannot be read, or says what refine does not take.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RefineConfig, as_group=False)
    parser.set_defaults(preset(config.model, config=RefineConfig))
    given = {}
    if config.refine_config is not None:
        try:
            given = yaml.safe_load(config.refine_config.read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ValueError(f"--refine_config {config.refine_config} cannot be read ({error})") from error
    shared = {field.name for field in fields(ModelConfig)} | {"negative", "batch_size", "prompt", "prompts"}
    shared -= {"seed", "output_dir"}
    chosen = RefineConfig(**parser.parse_object(given).as_dict())
    values = {name: value for name, value in vars(config).items() if name in shared}
    return replace(chosen, **values, output_dir=config.output_dir / "refined")


def _open(negative: str) -> NegativeEmbedding:
    if not is_file_reference(negative):
        raise ValueError(f"--negative {negative!r}: give null, a file (.safetensors) or hub:owner/name to start from")
    return NegativeEmbedding.open(negative)


def _device(config: RefineConfig) -> str:
    """The settings' device; of several processes, the one that accelerate gives this one."""
    state = PartialState(cpu=config.device == "cpu")
    return config.device if state.num_processes == 1 else str(state.device)
