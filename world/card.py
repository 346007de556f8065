"""Stage `card`: the tables of the model card, written from the committed logs and measurements."""

import json
from pathlib import Path

from .quality import RESULTS
from .siblings import SIBLINGS

CARD = Path(__file__).parent / "README.md"
TRAININGS = {
    "vae": ("autoencoder", "8"),
    "generator": ("text encoder and denoiser", "2 x 32"),
    "preference": ("`preference`", "48 pairs"),
    "monitor": ("`monitor`", "48 pairs"),
    "judge": ("`judge`", "48 pairs"),
    "aesthetic": ("`aesthetic`", "48 pairs"),
    "rewriter": ("`rewriter`", "16 prompts"),
}
"""Log -> what was trained, and on how many pictures, pairs or prompts a step."""
TIMES = ("step", "of_steps", "seconds", "cpu_seconds")
"""What a log's line tells beside losses and accuracies."""
MEASURES = {
    "true_caption_first_generated": (
        "the judge ranks the true caption above 19 that differ in the subject alone, generated",
        "{:.1%}",
        "70%",
    ),
    "true_caption_first_real": ("the same on real held-out pictures", "{:.1%}", "85%"),
    "ratio": ("ratio of the two", "{:.2f}", "0.8"),
    "seconds_for_4_pictures_of_30_steps": ("four pictures of 30 guided steps", "{:.2f} s", "4 s"),
    "autoencoder_psnr_db": ("autoencoder, clean pictures", "{:.1f} dB", ""),
}
"""Key of quality.json -> its words, its form, its bar."""


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def training_table() -> str:
    """What each training took, and the figures that it logged last."""
    rows = []
    for name, (what, pictures) in TRAININGS.items():
        last = json.loads((RESULTS / "training" / f"{name}.jsonl").read_text().splitlines()[-1])
        rows.append([what, f"{last['seconds'] / 60:.0f}", f"{last['step']:,}", pictures, figures_of(last)])
    return table(["Model", "Minutes", "Steps", "Pictures a step", "Last logged"], rows)


def figures_of(last: dict[str, float]) -> str:
    """What a log's last line tells of losses and accuracies."""
    return ", ".join(f"{key.replace('_', ' ')} {last[key]:.3f}" for key in last if key not in TIMES)


def siblings_table() -> str:
    """The other denoisers: how each came about, and the quality bar's measurement."""
    rows = []
    for name, sibling in SIBLINGS.items():
        last = json.loads((RESULTS / "training" / f"{name}.jsonl").read_text().splitlines()[-1])
        quality = json.loads((RESULTS / f"quality-{name}.json").read_text())
        rows.append(
            [
                f"`{name}`",
                " and ".join(map(str, sibling.block_out_channels)),
                "the shipped denoiser" if sibling.from_shipped else "random weights",
                sibling.prediction_type.removesuffix("_prediction"),
                f"{last['step']:,} of {sibling.batch}",
                f"{last['cpu_seconds'] / 60:.0f}",
                figures_of(last),
                f"{quality['true_caption_first_generated']:.1%}",
                f"{quality['ratio']:.2f}",
            ]
        )
    heads = ["Model", "Wide", "Start", "Predicts", "Steps", "Minutes of one core", "Last logged"]
    return table([*heads, "True caption first", "Ratio to real pictures"], rows)


def accuracy_table() -> str:
    accuracy = json.loads((RESULTS / "rewards.json").read_text())["accuracy"]
    kinds = list(next(iter(accuracy.values())))
    rows = [[k, *(f"{row[k]:.1%}" if k in row else "–" for row in accuracy.values())] for k in kinds]
    return table(["held-out pairs", *accuracy], rows)


def quality_table() -> str:
    """The quality bar of the generator and of the judge that measures it."""
    quality = json.loads((RESULTS / "quality.json").read_text())
    rows = [[text, form.format(quality[key]), bar] for key, (text, form, bar) in MEASURES.items()]
    return table(["Measure", "Value", "Bar"], rows)


def write() -> None:
    """Replace what stands between the markers of each table."""
    text = CARD.read_text()
    tables = {
        "training": training_table,
        "accuracy": accuracy_table,
        "quality": quality_table,
        "siblings": siblings_table,
    }
    for name, make in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"{CARD} lacks the markers of its table {name!r}")
        text = text[: text.index(start) + len(start)] + "\n" + make() + "\n\n" + text[text.index(end) :]
    CARD.write_text(text)
