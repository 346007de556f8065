"""Reports: one HTML file with everything in it, which opens without a server, a network or a script."""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw
from torch import Tensor

from reneg.files import write_atomically

GAP = 2
"""White pixels between the pictures of a grid, before scaling."""
FONT_SIZE, MARGIN = 13, 8
"""Of the names beside a grid's rows, in pixels."""

INK = "#010203"
"""Stands for the page's text colour while matplotlib draws; the page then decides between light and dark."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2025; --soft: #5c6470; --line: #d9dde3; --page: #fff; --band: #f5f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #9aa4b1; --line: #363c45; --page: #15181c; --band: #1d2126; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 62rem; color: var(--ink); background: var(--page);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1.5rem; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; overflow-wrap: anywhere; }
.box { overflow-x: auto; margin: .9rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
tbody tr:nth-child(even) { background: var(--band); }
td.number { text-align: right; white-space: nowrap; }
figure { margin: 1.1rem 0; }
figcaption { color: var(--soft); font-size: .88rem; overflow-wrap: anywhere; }
figure .box { margin: .3rem 0 0; }
img, svg { display: block; }
img { max-width: none; }
svg { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True)
class Section:
    """One part of a report, shown in the order of its fields; what is empty is left out."""

    title: str
    text: str = ""
    """Plain text; an empty line begins a new paragraph."""
    table: list[dict[str, str]] | None = None
    """Rows of column -> cell; the columns are those of the first row and any that later rows add."""
    figure_svg: str | None = None
    """What `plot_lines` gives."""
    images: list[tuple[str, Image.Image]] = field(default_factory=list)
    """Caption, which is the alternative text too, and picture, one below the other."""


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write a self-contained HTML page, atomically.

    Raises:
        OSError: the folder cannot be made or written.
    """
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
    )
    body = "\n".join(_section(section) for section in sections)
    page = f"{head}<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    write_atomically(Path(path), lambda temporary: temporary.write_text(page, encoding="utf-8"))


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"] if section.title else []
    parts += [f"<p>{html.escape(text.strip())}</p>" for text in re.split(r"\n\s*\n", section.text) if text.strip()]
    if section.table:
        parts.append(_table(section.table))
    if section.figure_svg:
        parts.append(f'<figure><div class="box">{section.figure_svg}</div></figure>')
    parts += [_figure(caption, image) for caption, image in section.images]
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _table(rows: list[dict[str, str]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "\n".join("<tr>" + "".join(_cell(row.get(column, "")) for column in columns) + "</tr>" for row in rows)
    return f'<div class="box"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _cell(text: str) -> str:
    numeric = ' class="number"' if re.match(r"[-+−]?[.\d]", text) else ""
    return f"<td{numeric}>{html.escape(text)}</td>"


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of column -> cell as a Markdown table; the columns are those of the rows in the order they appear."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def fill(page: Path, name: str, block: str) -> None:
    """Replace what stands on a page between `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        ValueError: the page lacks them, or has them twice.
    """
    text, start, end = page.read_text(encoding="utf-8"), f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"{page.name} lacks the lines {start.strip()} and {end}")
    filled = text[: text.index(start) + len(start)] + f"\n{block}\n\n" + text[text.index(end) :]
    page.write_text(filled, encoding="utf-8")


def _figure(caption: str, image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    data, text = base64.b64encode(buffer.getvalue()).decode(), html.escape(caption)
    picture = f'<img src="data:image/png;base64,{data}" alt="{text}" width="{image.width}" height="{image.height}">'
    return f'<figure><figcaption>{text}</figcaption><div class="box">{picture}</div></figure>'


def plot_lines(series: dict[str, list[tuple[int | float, float]]], xlabel: str, ylabel: str) -> str:
    """Lines through (x, y) points as an inline SVG; a legend appears when there is more than one."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        # Text stays text, and ids stay the same from run to run. Dollar signs are no formulas here.
        matplotlib.rc("svg", fonttype="none", hashsalt="reneg")
        matplotlib.rc("text", color=INK, parse_math=False)
        matplotlib.rc("axes", edgecolor=INK, labelcolor=INK)
        matplotlib.rc("xtick", color=INK)
        matplotlib.rc("ytick", color=INK)
        figure = Figure(figsize=(7.6, 3.2), layout="constrained")
        axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
        for name, points in series.items():
            axes.plot([x for x, _ in points], [y for _, y in points], label=name, linewidth=1.4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        if len(series) > 1:
            axes.legend(frameon=False)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML needs no namespace, and the page names no address


def to_uint8(images: Float[Tensor, "b 3 H W"]) -> UInt8[Tensor, "b H W 3"]:
    """Images in [0, 1] -> 8-bit pixels, rounded as diffusers' pipelines round them."""
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def to_images(pixels: UInt8[ndarray, "b H W 3"]) -> Float[Tensor, "b 3 H W"]:
    """8-bit pixels -> images in [0, 1]: the way back from `to_uint8`."""
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255


def image_grid(images: Float[Tensor, "b 3 H W"], columns: int, scale: int = 1) -> Image.Image:
    """Images in [0, 1] side by side, row by row, with a white gap; `scale` enlarges each pixel to a square."""
    pixels = to_uint8(images)
    count, height, width, _ = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    grid = Image.new("RGB", size, "white")
    for number, picture in enumerate(pixels.numpy()):
        row, column = divmod(number, columns)
        grid.paste(Image.fromarray(picture), (column * (width + GAP), row * (height + GAP)))
    return grid.resize((size[0] * scale, size[1] * scale), Image.Resampling.NEAREST)


def labelled_grid(images: Float[Tensor, "b 3 H W"], names: Sequence[str], width: int, scale: int = 1) -> Image.Image:
    """Pictures in [0, 1], each under its name, as many side by side as fit in so many pixels; one at least.

    A name that is too long is cut; `scale` is as in `image_grid`.
    """
    pictures = [image_grid(image[None], 1, scale) for image in images]
    across, down = pictures[0].width + GAP, pictures[0].height + FONT_SIZE + 2 * MARGIN
    columns = min(max(1, (width + GAP) // across), len(pictures))
    grid = Image.new("RGB", (columns * across - GAP, -(-len(pictures) // columns) * down), "white")
    pen = ImageDraw.Draw(grid)
    for number, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        row, column = divmod(number, columns)
        left, top, shown = column * across, row * down, name
        while pen.textlength(shown, font_size=FONT_SIZE) > picture.width and len(shown) > 1:
            shown = shown.removesuffix("…")[:-1] + "…"
        pen.text((left, top + MARGIN), shown, fill="black", font_size=FONT_SIZE)
        grid.paste(picture, (left, top + FONT_SIZE + 2 * MARGIN))
    return grid


def labelled_rows(rows: Mapping[str, Float[Tensor, "b 3 H W"]], scale: int = 1) -> Image.Image:
    """One row of pictures in [0, 1] for each name, which stands at its left; `scale` as in `image_grid`."""
    grid = image_grid(torch.cat(list(rows.values())), len(next(iter(rows.values()))), scale)
    left = round(max(ImageDraw.Draw(grid).textlength(name, font_size=FONT_SIZE) for name in rows)) + 2 * MARGIN
    picture = Image.new("RGB", (left + grid.width, grid.height), "white")
    picture.paste(grid, (left, 0))
    pen, height = ImageDraw.Draw(picture), grid.height / len(rows)
    for number, name in enumerate(rows):
        pen.text((MARGIN, (number + 0.5) * height), name, fill="black", font_size=FONT_SIZE, anchor="lm")
    return picture
