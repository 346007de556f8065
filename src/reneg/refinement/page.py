"""The pictures and the page that a refinement leaves behind."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from reneg.evaluation.comparison import thin
from reneg.files import write_atomically
from reneg.generation import generate, picture_generators, picture_noise
from reneg.interfaces import Conditioning, DiffusionModel
from reneg.metrics import Row
from reneg.negatives import file_conditioning
from reneg.randomness import derive_seed
from reneg.refinement.config import RefineConfig
from reneg.refinement.store import RefinedEmbeddings
from reneg.report import Section, labelled_rows, write_report

SHOWN = 8
"""Prompts whose pictures are shown, spread evenly."""
PICTURE, REPORT = "before_after.png", "report.html"


def write_page(
    model: DiffusionModel, start: Conditioning, rows: Sequence[Row], store: RefinedEmbeddings, config: RefineConfig
) -> None:
    """Write before_after.png and report.html.

    Their noises played no part in the refinement, and are the same for both rows.
    """
    prompts = thin([str(row["prompt"]) for row in rows], SHOWN)
    own = [file_conditioning(store.load(prompt), model) for prompt in prompts]
    seed = derive_seed(config.seed, "refinement's pictures", 0)
    pictures = {}
    for name, negatives in {"global": [start] * len(prompts), "refined": own}.items():
        generators = picture_generators(seed, 0, len(prompts))
        pictures[name] = generate(
            model,
            prompts,
            Conditioning.concatenate(*negatives),
            picture_noise(model, generators),
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
            generators=generators,
        ).cpu()
    grid = labelled_rows(pictures, max(1, 128 // pictures["global"].shape[-1]))
    write_atomically(config.output_dir / PICTURE, lambda file: grid.save(file, "PNG"))
    captions = "\n\n".join(f"{number}. {prompt}" for number, prompt in enumerate(prompts, 1))
    settings = {name: str(value) for name, value in asdict(config).items()}
    sections = [
        Section("Result", _note(config), table=_means(rows)),
        Section(
            "Pictures",
            "Above the global embedding, below the prompt's own, from the same noises, which refinement did not use. "
            "From left to right:\n\n" + captions,
            images=[("The global embedding above, the prompt's own below", grid)],
        ),
        Section("Prompts", table=[_shown(row) for row in rows[:100]]),
        Section("Settings", table=[{"setting": name, "value": value} for name, value in settings.items()]),
    ]
    write_report(config.output_dir / REPORT, "Refinement for each prompt", sections)


def _note(config: RefineConfig) -> str:
    if config.mode == "paper":
        return (
            "Algorithm 1 as printed. The rewards are of one-step predictions, of other noises at each step: the "
            "largest that was seen is not the reward of the returned state."
        )
    return (
        f"Means over the prompts, on the {config.judged_noises} noises of each by which its state was chosen: they "
        "flatter the choice. What it is worth is decided by reneg evaluate, on other noises."
    )


def _means(rows: Sequence[Row]) -> list[dict[str, str]]:
    names = [name for name in ("reward", "monitor") if name in rows[0]]
    table = [
        {"": name}
        | {
            "global": f"{fmean(float(row[f'{name}_global']) for row in rows):.4f}",
            "refined": f"{fmean(float(row[name]) for row in rows):.4f}",
        }
        for name in names
    ]
    changed = sum(row["step"] != 0 for row in rows)
    counts = ("steps", "denoiser_evaluations", "backward_passes", "decodes")
    table += [
        {"": f"mean {n.replace('_', ' ')}", "refined": f"{fmean(float(r[n]) for r in rows):.1f}"} for n in counts
    ]
    return [*table, {"": "prompts that left the global embedding", "refined": f"{changed} of {len(rows)}"}]


def _shown(row: Row) -> dict[str, str]:
    return {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in row.items()}
