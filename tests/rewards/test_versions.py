"""HPSv2.1 and v2.0 share one layout: every report tells which one it was, also where only a folder was named."""

import json
from pathlib import Path

import pytest
import yaml
from scorers import open_clip_state, save_hps
from short_runs import quick, save_tiny_world

from reneg.cli import main
from reneg.config import EvaluateConfig
from reneg.evaluation.runner import evaluate
from reneg.learning import learn
from reneg.metrics import read_rows

FILES = {"hpsv2.1": "HPS_v2.1_compressed.pt", "hpsv2.0": "HPS_v2_compressed.pt"}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """Version -> a folder that holds its file, and whose name tells nothing."""
    save_hps(tmp_path / "one", FILES["hpsv2.1"])
    turned = {k: -v if k == "visual.proj" else v for k, v in open_clip_state().items()}
    save_hps(tmp_path / "two", FILES["hpsv2.0"], turned)
    return {"hpsv2.1": str(tmp_path / "one"), "hpsv2.0": str(tmp_path / "two")}


def test_learning_and_its_file(tmp_path: Path, folders: dict[str, str], capsys: pytest.CaptureFixture[str]):
    version, other = FILES
    world = save_tiny_world(tmp_path / "world") | {"reward": folders[version], "monitor": folders[other]}
    run = tmp_path / "run"
    metadata = learn(quick(run, max_train_steps=1, **world)).metadata
    assert (metadata["reward"], metadata["monitor"]) == (version, other)
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert (saved["reward"], saved["monitor"]) == (folders[version], folders[other])  # what a restart reads
    report = (run / "report.html").read_text()
    assert f"<td>{version}</td>" in report and f"<td>{other}</td>" in report
    assert main(["inspect", str(run / "negative_embedding.safetensors")]) == 0
    lines = [line.strip("│ ").split("│") for line in capsys.readouterr().out.splitlines()]
    told = {line[0].strip(): line[1].strip() for line in lines if len(line) == 2}
    assert (told["reward"], told["monitor"]) == (version, other)


def test_a_mixture_of_both(tmp_path: Path, folders: dict[str, str]):
    world = save_tiny_world(tmp_path / "world")
    world |= {"reward": [f"{folders['hpsv2.1']}=1", f"{folders['hpsv2.0']}=-0.5"], "monitor": None}
    metadata = learn(quick(tmp_path / "run", max_train_steps=1, **world)).metadata
    assert metadata["reward"] == "hpsv2.1=1 + hpsv2.0=-0.5"
    for row in read_rows(tmp_path / "run" / "metrics.jsonl"):
        assert float(row["reward/hpsv2.1"]) == pytest.approx(-float(row["reward/hpsv2.0"]), abs=1e-6)
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(f"Part of the reward: {version}" in report for version in FILES)


def test_evaluation_of_both(tmp_path: Path, folders: dict[str, str]):
    world = save_tiny_world(tmp_path / "world")
    config = EvaluateConfig(
        model=world["model"],
        prompts=world["prompts"],
        negatives=["null", "bad"],
        rewards=list(folders.values()),
        num_inference_steps=2,
        num_seeds=1,
        max_prompts=2,
        output_dir=tmp_path / "out",
    )
    evaluate(config)
    results = json.loads((config.output_dir / "results.json").read_text())
    assert results["rewards"] == list(FILES)
    assert len({results["fingerprints"][version] for version in FILES}) == 2
    for negative in ("null", "bad"):
        means = [results["overall"]["negatives"][negative]["rewards"][version]["mean"]["mean"] for version in FILES]
        assert means[0] == pytest.approx(-means[1], abs=1e-6) and means[0] != 0
    report = (config.output_dir / "report.html").read_text()
    assert all(report.count(version) > 2 for version in FILES)
    scores = [json.loads(line)["scores"] for line in (config.output_dir / "scores.jsonl").read_text().splitlines()]
    assert all(score.keys() == FILES.keys() for score in scores)
