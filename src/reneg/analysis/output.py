"""What every experiment leaves: results.json, a Markdown table, and a page that opens by itself."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image

from reneg.config import ModelConfig
from reneg.evaluation.summary import versions
from reneg.files import write_atomically
from reneg.interfaces import DiffusionModel
from reneg.negatives import check_prompt_lengths
from reneg.prompts import read_prompts
from reneg.report import Section, markdown_table, write_report
from reneg.world import load_prompts

TABLE = "table.md"


@dataclass(frozen=True)
class Outcome:
    """What an experiment found."""

    title: str
    text: str
    """What was done, and how to read it."""
    rows: list[dict[str, str]]
    """The table, with the paper's figures in columns or rows of their own."""
    content: dict
    """For results.json."""
    images: dict[str, tuple[str, Image.Image]] = field(default_factory=dict)
    """File name -> caption and picture, which go into the page too."""


def write_outcome(config: ModelConfig, outcome: Outcome) -> Path:
    """Write the files into the output folder; gives the table's, which is written last."""
    folder = config.output_dir
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    told = {"title": outcome.title, "text": outcome.text, "table": outcome.rows}
    results = {**told, "settings": settings, "versions": versions(), **outcome.content}
    write_json(folder / "results.json", results)
    for name, (_, image) in outcome.images.items():
        write_atomically(folder / name, lambda path, image=image: image.save(path, "PNG", optimize=True))
    facts = [{"setting": key, "value": str(value)} for key, value in (settings | results["versions"]).items()]
    sections = [
        Section("", outcome.text, outcome.rows, images=list(outcome.images.values())),
        Section("Settings", table=facts),
    ]
    write_report(folder / "report.html", outcome.title, sections)
    text = f"# {outcome.title}\n\n{outcome.text}\n\n{markdown_table(outcome.rows)}\n"
    write_atomically(folder / TABLE, lambda path: path.write_text(text, encoding="utf-8"))
    return folder / TABLE


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file, atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def spread(items: Sequence[str], count: int) -> list[str]:
    """So many items spread evenly over all, by their place alone.

    Raises:
        ValueError: there are fewer.
    """
    if count > len(items):
        raise ValueError(f"--num_prompts {count}: there are only {len(items)} prompts")
    return [items[number * len(items) // count] for number in range(count)]


def experiment_prompts(source: Path | None, model: DiffusionModel, count: int) -> list[str]:
    """Prompts of an experiment, spread evenly over a `--prompts` value or over the world's evaluation set.

    Raises:
        ValueError: there are fewer, or one is too long.
    """
    groups = load_prompts().evaluate if source is None else read_prompts(source)
    chosen = spread([prompt for prompts in groups.values() for prompt in prompts], count)
    check_prompt_lengths(chosen, model, source=source)
    return chosen
