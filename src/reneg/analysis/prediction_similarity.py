"""Fig. 3: how like the finished x0 its one-step prediction from x_t is at every step, by DDIM and by DDPM (§4.2)."""

import io
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy import ndarray
from PIL import Image
from torch import Tensor

from reneg.algorithm import predict_guided
from reneg.analysis.config import Fig3Config
from reneg.analysis.output import Outcome, experiment_prompts, write_outcome
from reneg.baselines.inputs import model_fingerprint
from reneg.config import require
from reneg.evaluation.statistics import bootstrap
from reneg.evaluation.store import Shards, content_key
from reneg.files import make_output_dir
from reneg.generation import picture_generators, picture_noise
from reneg.interfaces import Conditioning, DiffusionModel
from reneg.intervals import interval
from reneg.models import load_configured
from reneg.prediction import predict_x0

logger = logging.getLogger(__name__)

SAMPLERS = ("ddim", "ddpm")
MEASURES = ("latent cosine", "image MSE")
LATE = 10
""""t in [0, 10]" (§4.2): the last steps, of which one carries the gradient."""


@torch.no_grad()
def predictions_along(
    model: DiffusionModel,
    positive: Conditioning,
    negative: Conditioning,
    noise: Float[Tensor, "b c h w"],
    generators: list[torch.Generator],
    *,
    guidance_scale: float,
    num_inference_steps: int,
) -> tuple[Float[Tensor, "n b c h w"], Float[Tensor, "b c h w"]]:
    """The one-step prediction of x0 (Eq. 6) at every step of a guided trajectory, and the latents it ends with."""
    timesteps = model.set_timesteps(num_inference_steps)
    latents, predictions = model.initial_latents(noise), []
    for timestep in timesteps:
        prediction = predict_guided(model, latents, timestep, positive, negative, guidance_scale)
        predictions.append(predict_x0(latents, prediction, *model.alpha_sigma(timestep), model.prediction_type))
        latents = model.step(prediction, timestep, latents, generators)
    return torch.stack(predictions), latents


@torch.no_grad()
def similarities(
    model: DiffusionModel, predictions: Float[Tensor, "n b c h w"], final: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b m n"]:
    """MEASURES of each sample at every step: cosine of the latents, and mean squared error of the clamped images."""
    finished = model.decode(final).clamp(0, 1)
    rows = []
    for predicted in predictions:
        cosine = F.cosine_similarity(predicted.flatten(1), final.flatten(1))
        error = (model.decode(predicted).clamp(0, 1) - finished).square().mean((1, 2, 3))
        rows.append(torch.stack([cosine, error.to(cosine)], dim=1))
    return torch.stack(rows, dim=-1)


def measure(model: DiffusionModel, prompts: Sequence[str], config: Fig3Config, store: Shards) -> ndarray:
    """[samples, measures, steps] by one sampler; what is in the store is not computed again.

    A sample's noise, and DDPM's step noises, depend on the seed and its number alone: both samplers start alike.
    """
    null = model.null_conditioning()
    for numbers in store.missing(config.batch_size):
        generators = picture_generators(config.seed, numbers.start, len(numbers))
        positive = model.encode_prompt(prompts[numbers.start : numbers.stop])
        predictions, final = predictions_along(
            model,
            positive,
            null.expand(len(numbers)),
            picture_noise(model, generators),
            generators,
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
        )
        store.write(numbers.start, similarities(model, predictions, final).double().cpu().numpy())
        logger.info("fig3: %s, %d of %d samples", model.scheduler_name, numbers.stop, len(prompts))
    return store.read(range(store.total))


def summarise(values: dict[str, Float[ndarray, "p m n"]]) -> dict:
    """Sampler -> measure -> estimates by step, and the paired differences of the two, over samples."""
    curves = values | {"difference": values["ddim"] - values["ddpm"]}
    return {
        name: {
            measure: [asdict(estimate) for estimate in bootstrap(samples[:, m])] for m, measure in enumerate(MEASURES)
        }
        for name, samples in curves.items()
    }


def run_fig_3(config: Fig3Config) -> Path:
    """`reneg reproduce fig3`; gives the table's file.

    Raises:
        ValueError, OSError: with one line that names the flag.
    """
    require(config.scheduler == "ddim", f"--scheduler {config.scheduler}: the experiment runs both; leave it out")
    make_output_dir(config.output_dir)
    values, timesteps = {}, []
    for sampler in SAMPLERS:
        model = load_configured(replace(config, scheduler=sampler), device=config.device)
        prompts = experiment_prompts(config.prompts, model, config.num_prompts)
        settings = str(asdict(replace(config, output_dir=Path(), prompts=None, batch_size=1)))
        model_key = f"{model_fingerprint(config.model)} {sampler}"
        key = content_key({"model": model_key, "prompts": prompts, "settings": settings})
        values[sampler] = measure(model, prompts, config, Shards(config.output_dir / "samples" / key, len(prompts)))
        timesteps = model.set_timesteps(config.num_inference_steps).tolist()
    curves = summarise(values)
    content = {"num_samples": config.num_prompts, "timesteps": timesteps, "curves": curves}
    return write_outcome(config, _outcome(config, curves, content))


def _outcome(config: Fig3Config, curves: dict, content: dict) -> Outcome:
    rows = []
    for step, timestep in enumerate(content["timesteps"]):
        row = {"step_index": str(step), "timestep": f"{timestep:g}"}
        for measure, digits in zip(MEASURES, (3, 5), strict=True):
            for sampler in SAMPLERS:
                row[f"{measure}, {sampler.upper()}"] = interval(curves[sampler][measure][step], digits=digits)
            row[f"{measure}, DDIM - DDPM"] = interval(curves["difference"][measure][step], digits=digits, sign=True)
        rows.append(row)
    last = config.num_inference_steps
    text = (
        f"The one-step prediction of x0 (Eq. 6) at every step against the x0 that the same trajectory ends with: "
        f"{config.num_prompts} samples, one noise each, the same for both samplers, {last} steps, guidance "
        f"{config.guidance_scale:g}; means with 95 % intervals over samples.\n\n{_verdict(curves, last)} "
        "At the last step DDPM returns the prediction itself, and DDIM the latents of the first timestep's noise.\n\n"
        'The paper draws its curve from one prompt, and prints no figures: "DDIM consistently outperforms DDPM".'
    )
    image = {"fig3.png": ("x0 against its one-step prediction; bands are 95 % intervals over samples", _plot(curves))}
    return Outcome("Fig. 3: the one-step prediction of x0, DDIM against DDPM", text, rows, content, image)


def _verdict(curves: dict, steps: int) -> str:
    """At how many steps each sampler is better, clear of zero."""
    lines = []
    for measure, sign in zip(MEASURES, (1, -1), strict=True):
        for where, chosen in (("all", range(steps)), ("the last", range(max(0, steps - LATE), steps))):
            differences = [curves["difference"][measure][step] for step in chosen]
            better = sum(min(sign * d["low"], sign * d["high"]) > 0 for d in differences)
            worse = sum(max(sign * d["low"], sign * d["high"]) < 0 for d in differences)
            lines.append(
                f"By {measure}, of {where} {len(chosen)} steps DDIM is better at {better} and DDPM at {worse}, clear "
                "of zero."
            )
    return " ".join(lines)


def _plot(curves: dict) -> Image.Image:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=100)
    for axes, measure in zip(figure.subplots(1, 2), MEASURES, strict=True):
        for sampler in SAMPLERS:
            points = curves[sampler][measure]
            steps = range(len(points))
            axes.plot(steps, [point["mean"] for point in points], label=sampler.upper(), linewidth=1.4)
            bounds = ([point["low"] for point in points], [point["high"] for point in points])
            axes.fill_between(steps, *bounds, alpha=0.25, linewidth=0)
        axes.set_xlabel("step_index, from noise to picture")
        axes.set_ylabel(measure)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return Image.open(buffer).convert("RGB")
