"""The training loop: optimiser, schedule, processes, checkpoints and the monitor's looks."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor

from reneg.checkpoint import check_settings, checkpoint_name, find_checkpoint, load_checkpoint, save_checkpoint
from reneg.config import RunConfig
from reneg.interfaces import Artifact, DiffusionModel, Reward
from reneg.learning_report import write_learning_report, write_samples
from reneg.metrics import MetricsLog, Row, read_rows
from reneg.monitor import Monitor, relative_distance
from reneg.offload import EVERYTHING_STAYS, Offload
from reneg.processes import BATCH, check_global_batch, needs_every_process
from reneg.progress import progress_bar, told_value
from reneg.rewards.mixture import Mixture
from reneg.run_folder import (
    METRICS,
    REPORT,
    SAMPLES,
    check_run_folder,
    clean_run_folder,
    discard_newer_checkpoints,
    environment,
    learning_metadata,
    plain_settings,
    result_names,
    result_settings,
    reward_metadata,
    write_config,
)
from reneg.schedule import learning_rate_factor
from reneg.targets import make_target
from reneg.training_state import TrainingState, moved

logger = logging.getLogger(__name__)

REMEDY = "lower --learning_rate or set --max_grad_norm, and learn again in another --output_dir"


class Trainer(ABC):
    """One run: its state, and what is common to the steps of every method."""

    same_samples_for_any_batching: ClassVar[bool] = False
    """Whether a step's samples depend on the global batch alone, so that a run may go on with other factors of it."""

    def __init__(
        self,
        config: RunConfig,
        model: DiffusionModel,
        reward: Reward,
        monitor: Reward | None,
        prompts: list[str],
        accelerator: Accelerator,
        offload: Offload = EVERYTHING_STAYS,
    ):
        self.config, self.model, self.reward, self.prompts = config, model, reward, prompts
        self.accelerator, self.folder = accelerator, config.output_dir
        self.offload = offload
        self.offload.only("text encoders")
        self._rewards = reward_metadata(reward, monitor)
        self.target = make_target(model, config)
        self.state = TrainingState(self.target, config)
        self._final, self._last = (self.folder / name for name in result_names(config.target))
        self.monitor = Monitor(
            model,
            reward,
            monitor,
            prompts,
            num_prompts=config.num_validation_prompts,
            seed=config.seed,
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
            offload=self.offload,
        )
        self.metrics = MetricsLog(self.folder / METRICS)
        self._settings = result_settings(config, prompts, accelerator.num_processes)
        self._null_images: Tensor | None = None

    def run(self) -> Artifact:
        """Learn from the start, or from the checkpoint that the configuration names, to the last step."""
        config = self.config
        resumed = self._start()
        self._prepare(min(self.state.step + 1, config.max_train_steps))
        with progress_bar(config.max_train_steps, enabled=self.accelerator.is_main_process) as show:
            if not resumed:
                self._begin()
            while self.state.step < config.max_train_steps:
                row, step = self._update(), self.state.step
                last = step == config.max_train_steps
                if step == 1:
                    self._tell_first(row)
                    show(step, row, None)
                    self._look_at_start()
                self._track(row)
                if last or step % config.validation_steps == 0:
                    self._look()
                if last or step % config.checkpointing_steps == 0:
                    self._save()
                show(step, row, self.state.best)
                self._prepare(config.max_train_steps)
        artifact = self._export()
        if self.accelerator.is_main_process:
            self._write_report(artifact)
        self._wait_for_everyone()
        self.accelerator.end_training()
        return artifact

    def _prepare(self, last: int) -> None:  # noqa: B027
        """What a run does before its first step, up to that, and after each step, up to the end."""

    def _begin(self) -> None:
        """What a run does before its first step, and one that goes on does not."""
        if isinstance(self.reward, Mixture):
            self._look()  # which gives the mixture its scales

    def _look_at_start(self) -> None:
        """Let the monitor look at the state before the first step, unless it did.

        It comes after that step, whose news do not wait for it: its noises are its own, and the state is put back.
        """
        if self._null_images is None:
            with self.state.at_start():
                self._look()

    def _tell_first(self, row: Row) -> None:
        """Log the first step; later ones are told by the bar and metrics.jsonl."""
        name, value = told_value(row)
        logger.info("step 1 of %d: %s %.4g, in %.1f s", self.config.max_train_steps, name, value, row["seconds"])

    def _start(self) -> bool:
        """Prepare the folder and take up the checkpoint that was asked for; whether there was one."""
        config, accelerator, path, rows = self.config, self.accelerator, None, 0
        check_run_folder(config)
        if accelerator.is_main_process:
            clean_run_folder(self.folder)
        self._wait_for_everyone()
        if config.resume_from_checkpoint is not None:
            path = find_checkpoint(self.folder, config.resume_from_checkpoint)
            if path is None:
                logger.warning("%s holds no checkpoint yet: starting from the beginning", self.folder)
        if path is not None:
            rows = self._restore(path)
        self._wait_for_everyone()
        if accelerator.is_main_process:
            # Newer checkpoints go before their metrics rows, so that a kill in between leaves none without its rows.
            discard_newer_checkpoints(self.folder, self.state.step)
            if path is None:
                self.metrics.restart(-1)
            else:
                self.metrics.restart(self.state.step, path.parent / METRICS)
            if self.metrics.count < rows:
                logger.warning("%s lacks %d rows of earlier steps", METRICS, rows - self.metrics.count)
            write_config(config, accelerator.num_processes)
        where = (self.model.name, len(self.prompts), self.state.step, config.max_train_steps, self.folder)
        logger.info("learning on %s from %d prompts, from step %d to %d, in %s", *where)
        accelerator.init_trackers("reneg", config={name: str(value) for name, value in self._settings.items()})
        return path is not None

    def _restore(self, path: Path) -> int:
        """Take up a checkpoint's state; the number of metrics rows that belong to it."""
        checkpoint = load_checkpoint(path)
        free = BATCH if self.same_samples_for_any_batching else ()
        check_settings(checkpoint.settings, self._settings, path, free=free)
        if free:
            check_global_batch(checkpoint.settings, self._settings, path)
        if not self.state.restore(checkpoint):
            raise ValueError(f"{path} was made with another text encoder or weights than --model {self.model.name}'s")
        then, today = checkpoint.environment, environment()
        if then != today:
            logger.warning("%s was made with %s; going on with %s, the last bits may differ", path, then, today)
        for name in [name for name in free if checkpoint.settings[name] != self._settings[name]]:
            change = (name, checkpoint.settings[name], self._settings[name])
            logger.warning("%s was %s and is %s: the same samples, whose sums may differ in the last bits", *change)
        if isinstance(self.reward, Mixture):
            self.reward.scales = checkpoint.reward_scales
        logger.info("going on from %s", path)
        return checkpoint.metrics_rows

    def _update(self) -> Row:
        """One step of the run, and its row of metrics."""
        start, learning_rate = time.perf_counter(), self._learning_rate()
        facts = self._step(learning_rate)
        self.state.step += 1
        row: Row = {
            "kind": "update",
            "step": self.state.step,
            **facts,
            "distance": relative_distance(self.state.parameters, self.state.initial),
            "learning_rate": learning_rate,
            "seconds": round(time.perf_counter() - start, 3),
        }
        self._write(row)
        return row

    @abstractmethod
    def _step(self, learning_rate: float) -> Row:
        """Change the parameters by one step over the global batch; what metrics.jsonl tells of it."""

    def _learning_rate(self) -> float:
        """Of the next step."""
        config = self.config
        done, last, warm_up = self.state.step, config.max_train_steps, config.lr_warmup_steps
        return config.learning_rate * learning_rate_factor(config.lr_scheduler, done, last, warm_up)

    def _reduce_gradients(self, loss_scale: float = 1.0) -> None:
        """The mean over the processes, of a loss that was multiplied by a scale."""
        for gradient in self.state.gradients():
            with self._everyone():
                gradient.copy_(cast(Tensor, self.accelerator.reduce(gradient / loss_scale, "mean")))

    def _gather(self, tensor: Tensor) -> Tensor:
        """Of all processes, one after the other."""
        with self._everyone():
            return cast(Tensor, self.accelerator.gather(tensor))

    def _gather_parts(self, parts: list[Any]) -> list[Any]:
        with self._everyone():
            return gather_object(parts)

    def _wait_for_everyone(self) -> None:
        with self._everyone():
            self.accelerator.wait_for_everyone()

    def _everyone(self) -> AbstractContextManager[None]:
        """Around what all processes do together."""
        return needs_every_process(self.accelerator.process_index, self.accelerator.num_processes)

    def _descend(self, facts: Row, learning_rate: float) -> float:
        """One step of the optimiser along the gradient that is there; its norm before any clipping."""
        norm = torch.nn.utils.get_total_norm(self.state.gradients(), foreach=False)
        self._check_update(facts, norm)
        if self.config.max_grad_norm is not None:
            clip = self.config.max_grad_norm
            torch.nn.utils.clip_grads_with_norm_(self.state.parameters, clip, norm, foreach=False)
        self.state.update(learning_rate)
        return float(norm)

    def _look(self) -> None:
        """Let the monitor look at the present state, and keep the state if it is the best so far."""
        start, accelerator, step = time.perf_counter(), self.accelerator, self.state.step
        negative, scale = self.target.negative().detach(), self._guidance_scale()
        mine = self.monitor.batches[accelerator.process_index :: accelerator.num_processes]
        parts = [self.monitor.measure(negative, batch, guidance_scale=scale) for batch in mine]
        look = self.monitor.sum_up(self._gather_parts(parts))
        self._check_look(look.means)
        if step == 0:
            self._null_images = look.images
        if "monitor" in look.means:
            self.state.keep_if_best(look.means["monitor"])
        seconds = round(time.perf_counter() - start, 3)
        self._record({"kind": "validation", "step": step, **look.means, "guidance_scale": scale, "seconds": seconds})
        if accelerator.is_main_process:
            write_samples(self.folder / SAMPLES / f"step-{step:06d}.png", self._shown_before(), look.images)
        facts = ", ".join(f"{name} {mean:.4g}" for name, mean in look.means.items())
        best = "" if self.state.best is None else f" (best monitor: step {self.state.best.step})"
        logger.info("step %d of %d: %s%s", step, self.config.max_train_steps, facts, best)

    def _guidance_scale(self) -> float:
        """That of the target's present state."""
        with torch.no_grad():
            return float(self.target.guidance_scale(self.config.guidance_scale))

    def _shown_before(self) -> Float[Tensor, "b 3 H W"]:
        """The grids' pictures before learning; a resumed run has to sample them again."""
        if self._null_images is None:
            self._null_images = self._show(self.state.initial)
        return self._null_images

    def _show(self, parameters: Sequence[Tensor]) -> Float[Tensor, "b 3 H W"]:
        """The grids' pictures with another state than the present one."""
        with self.state.holding(parameters):
            return self.monitor.show(self.target.negative().detach(), guidance_scale=self._guidance_scale())

    def _check_update(self, facts: Row, norm: Float[Tensor, ""]) -> None:
        """Stop on NaN or infinity before it reaches the parameters; all processes see the same values, so all stop."""
        names = (("reward_mean", "reward"), ("loss", "loss"))
        checked = {name: float(facts[key]) for key, name in names if key in facts} | {"gradient": float(norm)}
        broken = [name for name, value in checked.items() if not isfinite(value)]
        if broken:
            raise FloatingPointError(
                f"step {self.state.step + 1}: the {' and the '.join(broken)} became NaN or infinite; "
                f"{self._keep_last()}; {REMEDY}"
            )

    def _keep_last(self) -> str:
        """Keep the state of the last step where the next one failed; what was done, in words."""
        if self.state.step == 0:
            return "nothing was learned yet"
        kept = f"the state after step {self.state.step} is kept in {self._save()}"
        self._export()
        return kept

    def _check_look(self, means: dict[str, float]) -> None:
        """Stop when the embedding breaks the pictures: the last good state is then the best that was looked at."""
        broken = [name for name, mean in means.items() if not isfinite(mean)]
        if not broken:
            return
        raise FloatingPointError(
            f"step {self.state.step}: the {' and the '.join(broken)} of the monitor's pictures became NaN or "
            f"infinite; {self._keep_best()}; {REMEDY}"
        )

    def _keep_best(self) -> str:
        """Keep the best state that the monitor saw; what was done, in words."""
        if self.state.best is None:
            return "nothing was learned yet"
        if self.accelerator.is_main_process:
            self._artifact(*self.state.result).save(self._final)
        return f"the best state, of step {self.state.best.step}, is kept in {self._final}"

    def _record(self, row: Row) -> None:
        self._write(row)
        self._track(row)

    def _write(self, row: Row) -> None:
        if self.accelerator.is_main_process:
            self.metrics.append(row)

    def _track(self, row: Row) -> None:
        """Give a row to the trackers, some of which refuse an earlier step than the last."""
        values = {f"{row['kind']}/{name}": v for name, v in row.items() if not isinstance(v, str) and name != "step"}
        self.accelerator.log(values, step=int(row["step"]))

    def _save(self) -> Path:
        """Write a checkpoint of the present state."""
        path = self.folder / checkpoint_name(self.state.step)
        in_flight = self._gather_parts(moved(self.state.in_flight, torch.device("cpu")))
        if self.accelerator.is_main_process:
            self.metrics.sync()
            checkpoint = self.state.checkpoint(
                metrics_rows=self.metrics.count,
                settings=self._settings,
                environment=environment(),
                reward_scales=self.reward.scales if isinstance(self.reward, Mixture) else {},
                in_flight=in_flight,
            )
            save_checkpoint(self.folder, checkpoint, total_limit=self.config.checkpoints_total_limit)
        self._wait_for_everyone()
        return path

    def _export(self) -> Artifact:
        """Write the best and the last state as files; the best is the run's result."""
        best = self._artifact(*self.state.result)
        if self.accelerator.is_main_process:
            self._artifact(self.state.step, self.state.parameters).save(self._last)
            best.save(self._final)
        return best

    def _artifact(self, step: int, parameters: Sequence[Tensor]) -> Artifact:
        """The state of a step as a file's content."""
        with self.state.holding(parameters):
            metadata = learning_metadata(
                self.config,
                self._settings,
                self.model,
                len(self.prompts),
                step,
                read_rows(self.metrics.path),
                rewards=self._rewards,
                guidance_scale=self._guidance_scale(),
                effort=self._effort(),
            )
            return self.target.artifact(metadata)

    def _effort(self) -> dict[str, int]:
        """The denoiser's evaluations that the run spent so far: what its metrics tell, and the monitor's looks."""
        rows = read_rows(self.metrics.path)
        looked = sum(row["kind"] == "validation" for row in rows) * sum(map(len, self.monitor.batches))
        forward = sum(int(row.get("forward_evaluations", 0)) for row in rows)
        return {
            "denoiser_evaluations": forward + 2 * looked * self.config.num_inference_steps,
            "denoiser_backward_evaluations": sum(int(row.get("backward_evaluations", 0)) for row in rows),
        }

    def _write_report(self, artifact: Artifact) -> None:
        step, parameters = self.state.result
        write_learning_report(
            self.folder / REPORT,
            read_rows(self.metrics.path),
            step,
            artifact.facts(),
            {name: str(value) for name, value in plain_settings(self.config).items()},
            self.monitor.shown_prompts,
            self._shown_before(),
            self._show(parameters),
        )
        logger.info("the result, of step %d, is in %s", step, self._final)
