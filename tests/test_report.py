"""One HTML file, with everything in it and nothing taken for markup."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reneg.report import (
    FONT_SIZE,
    GAP,
    MARGIN,
    Section,
    fill,
    image_grid,
    labelled_grid,
    labelled_rows,
    plot_lines,
    to_uint8,
    write_report,
)

NASTY = '<script>alert("x")</script> & \'quoted\' "text"'


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new folder" / "report.html"
    images = [(NASTY, image_grid(torch.rand(3, 3, 4, 5), columns=2))]
    curve = plot_lines({NASTY: [(0, 1.0), (1, 2.0)], "b": [(0, 3.0), (1, 1.0)]}, "step", "$reward$ & more")
    sections = [
        Section(NASTY, f"{NASTY}\n\nsecond paragraph", [{"name": NASTY, "n": "-1.5"}, {"n": "2", "later": "x"}]),
        Section("figure", figure_svg=curve, images=images),
    ]
    write_report(path, NASTY, sections)
    return path.read_text(encoding="utf-8")


def test_the_page_is_self_contained(page):
    assert "http" not in page.lower()
    assert "<script" not in page.lower()
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    for tag, attributes in tags.seen:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))


def test_text_is_escaped_everywhere(page):
    tags = Tags()
    tags.feed(page)
    # Page title, heading, section heading, paragraph, table cell, legend and caption.
    assert tags.text.count('alert("x")') == 7
    assert [a["alt"] for tag, a in tags.seen if tag == "img"] == [NASTY]
    assert "$reward$ & more" in tags.text


def test_columns_are_those_of_all_rows(page):
    assert re.findall(r"<th>(\w+)</th>", page) == ["name", "n", "later"]
    assert '<td class="number">-1.5</td>' in page


def test_pictures_are_whole(page):
    data = re.search(r"base64,([^\"]+)", page)
    assert data
    picture = Image.open(io.BytesIO(base64.b64decode(data[1])))
    assert picture.size == (2 * 5 + 2, 2 * 4 + 2)


def test_image_grid_places_row_by_row_and_scales():
    shades = torch.tensor([0.0, 0.2, 0.4]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    grid = image_grid(shades, columns=2, scale=3)
    assert grid.size == (18, 18)
    assert np.asarray(grid)[[0, 0, 17, 17], [0, 17, 0, 17], 0].tolist() == [0, 51, 102, 255]


def test_to_uint8_rounds_and_clamps():
    values = torch.tensor([-0.5, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.5]).view(1, 1, 2, 3).expand(1, 3, 2, 3)
    assert to_uint8(values)[0, :, :, 0].flatten().tolist() == [0, 0, 0, 1, 255, 255]


def test_a_failed_write_leaves_the_old_report(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, "old", [])
    with pytest.raises(UnicodeEncodeError):
        write_report(path, "\ud800", [])
    assert "<h1>old</h1>" in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_rows_have_their_names_at_their_left():
    rows = {
        "null": torch.zeros(3, 3, 8, 8),
        "a longer name": torch.ones(3, 3, 8, 8) * torch.tensor([1.0, 0, 0])[:, None, None],
    }
    picture = labelled_rows(rows, 2)
    left = picture.width - 2 * (3 * 8 + 2 * 2)
    assert picture.height == 2 * (2 * 8 + 2)
    pixels = np.asarray(picture)
    assert pixels[0, left].tolist() == [0, 0, 0] and pixels[-1, left].tolist() == [255, 0, 0]
    names = pixels[:, :left]
    assert names[: len(names) // 2].min() < 128 and names[len(names) // 2 :].min() < 128  # dark letters in both halves


def test_a_grid_with_names_wraps_at_its_width_and_cuts_long_names():
    images = torch.rand(5, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    grid = labelled_grid(images, ["a", "b", "c", "d", "a name much longer than its picture"], 3 * 42, scale=4)
    down = 40 + FONT_SIZE + 2 * MARGIN
    assert grid.size == (3 * 42 - GAP, 2 * down)
    for number in range(5):  # each picture stands where its place says, and nothing covers it
        left, top = number % 3 * 42, number // 3 * down + FONT_SIZE + 2 * MARGIN
        shown = np.asarray(grid.crop((left, top, left + 40, top + 40)))[::4, ::4]
        assert np.array_equal(shown, to_uint8(images[number : number + 1])[0].numpy())
    beside = np.asarray(grid.crop((84, down, 3 * 42 - GAP, 2 * down)))
    assert (beside == 255).all()  # the long name does not run into the next place
    assert labelled_grid(images, list("abcde"), 1, scale=4).size == (40, 5 * down)


def test_what_stands_between_a_pages_markers_is_replaced(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n")
    fill(page, "a", "new")
    fill(page, "a", "newer")
    assert page.read_text() == "before\n<!-- a -->\n\nnewer\n\n<!-- end of a -->\nafter\n"
    with pytest.raises(ValueError, match="page.md lacks the lines <!-- b --> and <!-- end of b -->"):
        fill(page, "b", "new")
