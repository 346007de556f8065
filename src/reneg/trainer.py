"""The training loop: optimiser, schedule, processes, checkpoints and the monitor's looks."""

import logging
import time
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor

from reneg.checkpoint import (
    Best,
    Checkpoint,
    check_settings,
    checkpoint_name,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from reneg.config import LearnConfig
from reneg.estimators import ESTIMATORS
from reneg.interfaces import DiffusionModel, Reward
from reneg.learning_report import write_learning_report, write_samples
from reneg.metrics import MetricsLog, Row, read_rows
from reneg.models import check_device
from reneg.monitor import Monitor, relative_distance, reward_statistics
from reneg.negative import FINGERPRINT_TOLERANCE, NegativeEmbedding
from reneg.progress import progress_bar
from reneg.randomness import Streams
from reneg.rewards.mixture import Mixture
from reneg.run_folder import (
    FINAL,
    LAST,
    METRICS,
    REPORT,
    SAMPLES,
    check_run_folder,
    clean_run_folder,
    discard_newer_checkpoints,
    embedding_metadata,
    environment,
    plain_settings,
    result_settings,
    sample_prompts,
    write_config,
)
from reneg.schedule import learning_rate_factor, sample_numbers
from reneg.targets import NegativeEmbeddingTarget

logger = logging.getLogger(__name__)

REMEDY = "lower --learning_rate or set --max_grad_norm, and learn again in another --output_dir"


def make_accelerator(config: LearnConfig) -> Accelerator:
    """One process or many, on the device that the configuration and accelerate's launcher give.

    Raises:
        ValueError: the device or a tracker is not available.
    """
    trackers: list[Any] = [] if config.report_to == "none" else [name.strip() for name in config.report_to.split(",")]
    available = [str(tracker) for tracker in get_available_trackers()]
    for name in trackers:
        if name not in available:
            choices = ", ".join(["none", *available])
            raise ValueError(f"--report_to {name!r} is unknown or not installed; choose from {choices}")
    check_device(config.device)
    cpu = config.device == "cpu"
    accelerator = Accelerator(cpu=cpu, log_with=trackers or None, project_dir=config.output_dir)
    if not cpu and accelerator.device.type != torch.device(config.device).type:
        raise ValueError(f"--device {config.device} is not available here; use --device {accelerator.device.type}")
    return accelerator


class Learner:
    """One run: its state, and what each step does with it."""

    def __init__(
        self,
        config: LearnConfig,
        model: DiffusionModel,
        reward: Reward,
        monitor: Reward | None,
        prompts: list[str],
        accelerator: Accelerator,
    ):
        self.config, self.model, self.reward, self.prompts = config, model, reward, prompts
        self.accelerator, self.folder = accelerator, config.output_dir
        self.target = NegativeEmbeddingTarget(model)
        self.parameters = self.target.parameters()
        self.initial = [parameter.detach().clone() for parameter in self.parameters]
        # Neither foreach nor fused: one plain kernel after the other gives the same sums everywhere.
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay,
            foreach=False,
            fused=False,
        )
        self.monitor = Monitor(
            model,
            reward,
            monitor,
            prompts,
            num_prompts=config.num_validation_prompts,
            seed=config.seed,
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
        )
        self.metrics = MetricsLog(self.folder / METRICS)
        self._settings = result_settings(config, prompts, accelerator.num_processes)
        self.step = 0
        """Updates done."""
        self.best: Best | None = None
        self._null_images: Tensor | None = None

    def run(self) -> NegativeEmbedding:
        """Learn from the start, or from the checkpoint that the configuration names, to the last step."""
        config = self.config
        resumed = self._start()
        with progress_bar(config.max_train_steps, enabled=self.accelerator.is_main_process) as show:
            if not resumed:
                self._look()
            while self.step < config.max_train_steps:
                row = self._update()
                last = self.step == config.max_train_steps
                if last or self.step % config.validation_steps == 0:
                    self._look()
                if last or self.step % config.checkpointing_steps == 0:
                    self._save()
                show(self.step, row, self.best)
        negative = self._export()
        if self.accelerator.is_main_process:
            self._write_report(negative)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return negative

    def _start(self) -> bool:
        """Prepare the folder and take up the checkpoint that was asked for; whether there was one."""
        config, accelerator, path, rows = self.config, self.accelerator, None, 0
        check_run_folder(config)
        if accelerator.is_main_process:
            clean_run_folder(self.folder)
        accelerator.wait_for_everyone()
        if config.resume_from_checkpoint is not None:
            path = find_checkpoint(self.folder, config.resume_from_checkpoint)
            if path is None:
                logger.warning("%s holds no checkpoint yet: starting from the beginning", self.folder)
        if path is not None:
            rows = self._restore(path)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            # Newer checkpoints go before their metrics rows, so that a kill in between leaves none without its rows.
            discard_newer_checkpoints(self.folder, self.step)
            if path is None:
                self.metrics.restart(-1)
            else:
                self.metrics.restart(self.step, path.parent / METRICS)
            if self.metrics.count < rows:
                logger.warning("%s lacks %d rows of earlier steps", METRICS, rows - self.metrics.count)
            write_config(config, accelerator.num_processes)
        facts = (self.model.name, len(self.prompts), self.step, config.max_train_steps, self.folder)
        logger.info("learning on %s from %d prompts, from step %d to %d, in %s", *facts)
        accelerator.init_trackers("reneg", config={name: str(value) for name, value in self._settings.items()})
        return path is not None

    def _restore(self, path: Path) -> int:
        """Take up a checkpoint's state; the number of metrics rows that belong to it."""
        checkpoint = load_checkpoint(path)
        check_settings(checkpoint.settings, self._settings, path)
        for saved, now in zip(checkpoint.initial, self.initial, strict=True):
            if saved.shape != now.shape or (saved.to(now) - now).norm() > FINGERPRINT_TOLERANCE * now.norm():
                raise ValueError(f"{path} was made with another text encoder than that of --model {self.model.name}")
        then, today = checkpoint.environment, environment()
        if then != today:
            logger.warning("%s was made with %s; going on with %s, the last bits may differ", path, then, today)
        with torch.no_grad():
            for own, saved in [(self.parameters, checkpoint.parameters), (self.initial, checkpoint.initial)]:
                for tensor, value in zip(own, saved, strict=True):
                    tensor.copy_(value)
        state = {"state": dict(enumerate(checkpoint.optimizer))}
        self.optimizer.load_state_dict(state | {"param_groups": self.optimizer.state_dict()["param_groups"]})
        self.step, self.best = checkpoint.step, checkpoint.best
        if isinstance(self.reward, Mixture):
            self.reward.scales = checkpoint.reward_scales
        logger.info("going on from %s", path)
        return checkpoint.metrics_rows

    def _update(self) -> Row:
        """One optimiser step over the global batch (§4.2)."""
        config, start = self.config, time.perf_counter()
        factor = learning_rate_factor(config.lr_scheduler, self.step, config.max_train_steps, config.lr_warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        rewards, step_index = self._gradient()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=False)
        self._check_update(rewards, norm)
        if config.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, config.max_grad_norm, norm, foreach=False)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        row: Row = {
            "kind": "update",
            "step": self.step,
            **reward_statistics(rewards),
            **self._part_means(),
            "step_index": step_index,
            "grad_norm": float(norm),
            "distance": relative_distance(self.parameters, self.initial),
            "learning_rate": config.learning_rate * factor,
            "seconds": round(time.perf_counter() - start, 3),
        }
        self._record(row)
        return row

    def _gradient(self) -> tuple[Float[Tensor, " b"], int]:
        """Leave the gradient of the global batch in the parameters; its rewards, and the last step that carried it."""
        config, accelerator = self.config, self.accelerator
        rewards, step_index = [], 0
        for micro_batch in range(config.gradient_accumulation_steps):
            numbers = sample_numbers(
                self.step,
                accelerator.process_index,
                micro_batch,
                train_batch_size=config.train_batch_size,
                gradient_accumulation_steps=config.gradient_accumulation_steps,
                num_processes=accelerator.num_processes,
            )
            outputs = ESTIMATORS[config.gradient_estimator](
                self.model,
                self.target,
                self.reward,
                sample_prompts(config, self.prompts, numbers),
                Streams(config.seed, self.step, numbers, antithetic=config.antithetic),
                guidance_scale=config.guidance_scale,
                num_inference_steps=config.num_inference_steps,
                grad_step_range=config.grad_step_range,
                gradient_steps=config.gradient_steps,
                trajectory_steps=config.trajectory_steps,
            )
            for output in outputs:
                (output.loss / config.gradient_accumulation_steps).backward()
                rewards.append(output.rewards)
                step_index = output.step_index
        for parameter in self.parameters:
            parameter.grad = cast(Tensor, accelerator.reduce(parameter.grad, "mean"))
        return cast(Tensor, accelerator.gather(torch.cat(rewards))), step_index

    def _part_means(self) -> dict[str, float]:
        """Means over the global batch of the parts of a mixture, in their own units; nothing for a single reward."""
        parts = self.reward.take() if isinstance(self.reward, Mixture) else {}
        return {key: float(cast(Tensor, self.accelerator.gather(scores)).mean()) for key, scores in parts.items()}

    def _look(self) -> None:
        """Let the monitor look at the present state, and keep the state if it is the best so far."""
        start, accelerator = time.perf_counter(), self.accelerator
        negative = self.target.negative(self.parameters).detach()
        mine = self.monitor.batches[accelerator.process_index :: accelerator.num_processes]
        look = self.monitor.sum_up(gather_object([self.monitor.measure(negative, batch) for batch in mine]))
        self._check_look(look.means)
        if self.step == 0:
            self._null_images = look.images
        value = look.means.get("monitor")
        if value is not None and (self.best is None or value > self.best.value):
            self.best = Best(self.step, value, [parameter.detach().clone() for parameter in self.parameters])
        seconds = round(time.perf_counter() - start, 3)
        self._record({"kind": "validation", "step": self.step, **look.means, "seconds": seconds})
        if accelerator.is_main_process:
            write_samples(self.folder / SAMPLES / f"step-{self.step:06d}.png", self._shown_before(), look.images)
        facts = ", ".join(f"{name} {mean:.4g}" for name, mean in look.means.items())
        best = "" if self.best is None else f" (best monitor: step {self.best.step})"
        logger.info("step %d of %d: %s%s", self.step, self.config.max_train_steps, facts, best)

    def _shown_before(self) -> Float[Tensor, "b 3 H W"]:
        """The grids' pictures with the null text; a resumed run has to sample them again."""
        if self._null_images is None:
            self._null_images = self.monitor.show(self.target.negative(self.initial))
        return self._null_images

    def _check_update(self, rewards: Float[Tensor, " b"], norm: Float[Tensor, ""]) -> None:
        """Stop on NaN or infinity before it reaches the embedding; all processes see the same values, so all stop."""
        broken = [name for name, value in (("reward", rewards), ("gradient", norm)) if not value.isfinite().all()]
        if not broken:
            return
        kept = "nothing was learned yet"
        if self.step > 0:
            kept = f"the state after step {self.step} is kept in {self._save()}"
            self._export()
        raise FloatingPointError(
            f"step {self.step + 1}: the {' and the '.join(broken)} became NaN or infinite; {kept}; {REMEDY}"
        )

    def _check_look(self, means: dict[str, float]) -> None:
        """Stop when the embedding breaks the pictures: the last good state is then the best that was looked at."""
        broken = [name for name, mean in means.items() if not isfinite(mean)]
        if not broken:
            return
        kept = "nothing was learned yet"
        if self.best is not None:
            kept = f"the best state, of step {self.best.step}, is kept in {self.folder / FINAL}"
            if self.accelerator.is_main_process:
                self._embedding(self.best.step, self.best.parameters).save(self.folder / FINAL)
        raise FloatingPointError(
            f"step {self.step}: the {' and the '.join(broken)} of the monitor's pictures became NaN or infinite; "
            f"{kept}; {REMEDY}"
        )

    def _record(self, row: Row) -> None:
        if self.accelerator.is_main_process:
            self.metrics.append(row)
        values = {f"{row['kind']}/{name}": v for name, v in row.items() if not isinstance(v, str) and name != "step"}
        self.accelerator.log(values, step=int(row["step"]))

    def _save(self) -> Path:
        """Write a checkpoint of the present state."""
        path = self.folder / checkpoint_name(self.step)
        if self.accelerator.is_main_process:
            self.metrics.sync()
            checkpoint = Checkpoint(
                step=self.step,
                parameters=[parameter.detach() for parameter in self.parameters],
                initial=self.initial,
                optimizer=[self.optimizer.state[p] for p in self.parameters if p in self.optimizer.state],
                best=self.best,
                metrics_rows=self.metrics.count,
                settings=self._settings,
                environment=environment(),
                reward_scales=self.reward.scales if isinstance(self.reward, Mixture) else {},
            )
            save_checkpoint(self.folder, checkpoint, total_limit=self.config.checkpoints_total_limit)
        self.accelerator.wait_for_everyone()
        return path

    def _export(self) -> NegativeEmbedding:
        """Write the best and the last state as embeddings; the best is the run's result."""
        last = self._embedding(self.step, self.parameters)
        best = last if self.best is None else self._embedding(self.best.step, self.best.parameters)
        if self.accelerator.is_main_process:
            last.save(self.folder / LAST)
            best.save(self.folder / FINAL)
        return best

    def _embedding(self, step: int, parameters: Sequence[Tensor]) -> NegativeEmbedding:
        rows = read_rows(self.metrics.path)
        metadata = embedding_metadata(self.config, self._settings, self.model, len(self.prompts), step, rows)
        return NegativeEmbedding.learned(self.target.negative(parameters), self.initial[0], metadata)

    def _write_report(self, negative: NegativeEmbedding) -> None:
        write_learning_report(
            self.folder / REPORT,
            read_rows(self.metrics.path),
            negative,
            {name: str(value) for name, value in plain_settings(self.config).items()},
            self.monitor.shown_prompts,
            self._shown_before(),
            self.monitor.show(negative.conditioning().to(self.model.device)),
        )
        logger.info("the embedding of step %s is in %s", negative.metadata["step"], self.folder / FINAL)
