"""What every experiment leaves: three files that agree, and prompts that are chosen by their place alone."""

import json
from pathlib import Path

import pytest
from PIL import Image

from reneg.analysis.config import Fig6Config
from reneg.analysis.output import Outcome, spread, write_outcome
from reneg.analysis.stages import Stage, run_stage, write_plan
from reneg.report import markdown_table


def test_files_agree(tmp_path: Path):
    rows = [{"method": "ours <b>", "score": "1.5"}, {"method": "theirs", "paper": "2.5"}]
    picture = Image.new("RGB", (4, 4), "red")
    outcome = Outcome("A table", "What was done.", rows, {"rows": {"ours": 1.5}}, {"x.png": ("a red square", picture)})
    table = write_outcome(Fig6Config(output_dir=tmp_path), outcome)
    text = table.read_text()
    assert text.startswith("# A table\n\nWhat was done.\n\n| method | score | paper |\n| --- | --- | --- |\n")
    assert "| theirs |  | 2.5 |" in text
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["rows"] == {"ours": 1.5} and results["settings"]["num_noises"] == 32 and results["versions"]
    page = (tmp_path / "report.html").read_text()
    assert "ours &lt;b&gt;" in page and "data:image/png;base64," in page and "http" not in page
    with Image.open(tmp_path / "x.png") as saved:
        assert saved.size == (4, 4)


def test_markdown_without_rows_is_empty():
    assert markdown_table([]).replace("|", "").strip() == ""


def test_spread_is_even_and_whole():
    assert spread(list("abcdefghij"), 3) == ["a", "d", "g"]
    assert spread(list("abc"), 3) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="--num_prompts 4: there are only 3 prompts"):
        spread(list("abc"), 4)


def test_a_stage_runs_once_and_an_interrupted_one_again(tmp_path: Path):
    calls = []

    def run(folder: Path) -> dict:
        calls.append(folder)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"value": 3}

    stage = Stage("row/made", {"rate": 0.1}, 6600, run)
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, stage)
    assert "| row/made | 6,600 | 1.0 |  |" in write_plan(tmp_path, [stage], 110.0).read_text()
    assert run_stage(tmp_path, stage) == run_stage(tmp_path, stage) == {"value": 3}
    assert calls == [tmp_path / "row" / "made"] * 2
    assert "| row/made | 6,600 | 1.0 | done |" in write_plan(tmp_path, [stage], 110.0).read_text()
    long = Stage("row/long", {}, 110 * 60 * 121, run)
    assert "over two hours" in write_plan(tmp_path, [long], 110.0).read_text()
    with pytest.raises(ValueError, match="row/made was made with rate 0.1, and not 0.2; choose another"):
        run_stage(tmp_path, Stage("row/made", {"rate": 0.2}, 1, run))
