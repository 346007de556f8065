"""Table 2: its stages on tiny models, the choices that the monitor makes, what is made again, and the table."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from fakes import PROMPTS
from tiny import save_tiny_reward, tiny_pipeline

from reneg.analysis.comparison import Table2, run_table_2
from reneg.analysis.config import Table2Config
from reneg.analysis.rows import chosen_rows, read_table

QUICK = {"num_inference_steps": 3, "grad_step_range": [1, 2], "max_train_steps": 2, "train_batch_size": 2}
QUICK |= {"num_validation_prompts": 1, "validation_steps": 2, "checkpointing_steps": 2}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Table2Config:
    folder = tmp_path_factory.mktemp("table2")
    tiny_pipeline().save_pretrained(folder / "model")
    rewards = {name: str(save_tiny_reward(folder / name, seed=n)) for n, name in enumerate(("reward", "watch"), 1)}
    (folder / "learn.txt").write_text("\n".join(PROMPTS))
    (folder / "evaluate.txt").write_text("a fox\na tree\n")
    learn = QUICK | {"reward": rewards["reward"], "monitor": rewards["watch"]}
    rows = {
        "null": {"value": "null", "paper": "SD1.5"},
        "reneg": {"command": "learn", "settings": learn, "sweep": {"learning_rate": [0.01, 0.5]}},
        "lora": {"command": "learn", "settings": learn | {"target": "lora"}, "scales": []},
    }
    (folder / "rows.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    return Table2Config(
        model=str(folder / "model"),
        table=folder / "rows.yaml",
        prompts=folder / "evaluate.txt",
        learning_prompts=folder / "learn.txt",
        num_tuning_prompts=2,
        num_inference_steps=3,
        num_seeds=1,
        rewards=[rewards["reward"], rewards["watch"]],
        monitor=rewards["watch"],
        guidance_scales=[2.0, 7.5],
        output_dir=folder / "out",
    )


@pytest.fixture(scope="module")
def finished(config: Table2Config) -> dict:
    """What results.json holds after all rows."""
    run_table_2(config)
    return json.loads((config.output_dir / "results.json").read_text())


def test_prompts_are_split(config: Table2Config, finished: dict):
    files = [config.output_dir / f"{name}.txt" for name in ("tuning", "learning")]
    tuning, learning = (file.read_text().splitlines() for file in files)
    assert len(tuning) == 2 and not set(tuning) & set(learning) and set(tuning + learning) == set(PROMPTS)
    made = yaml.safe_load((config.output_dir / "lora" / "all" / "config.yaml").read_text())
    assert Path(made["prompts"]) == config.output_dir / "learning.txt"


def test_the_monitor_chooses(config: Table2Config, finished: dict):
    for choice, found in finished["tuning"].items():
        means = {key: score["mean"] for key, score in found["scores"].items()}
        assert str(found["chosen"]) == max(means, key=means.__getitem__), choice
        assert len(set(means.values())) == 2, choice
    assert list(finished["tuning"]) == [
        "null/choose-scale",
        "reneg/choose-value",
        "reneg/choose-scale",
    ]


def test_every_row_is_evaluated_with_what_was_chosen(config: Table2Config, finished: dict):
    rows, tuning = finished["rows"], finished["tuning"]
    for name in ("null", "reneg"):
        scale = tuning[f"{name}/choose-scale"]["chosen"]
        assert rows[name]["guidance_scale"] == scale
        assert (f"{name}-at-7.5" in rows) == (scale != 7.5)
    assert rows["lora"]["guidance_scale"] == 7.5  # nothing to choose
    assert finished["evaluation"]["bases"] == ["null", "reneg"]  # rows, and no row's second line
    assert list(rows) == sorted(
        rows, key=[f"{n}{s}" for n in ("null", "reneg", "lora") for s in ("", "-at-7.5")].index
    )
    learned = config.output_dir / "reneg" / f"all-{tuning['reneg/choose-value']['chosen']}"
    assert rows["reneg"]["chosen"] == tuning["reneg/choose-value"]["chosen"]
    evaluation = json.loads((config.output_dir / "evaluation-evaluate" / "results.json").read_text())
    values = {negative["name"]: negative["value"] for negative in evaluation["negatives"]}
    assert values["reneg"] == str(learned / "negative_embedding.safetensors")
    assert values["lora"].endswith("lora/all/pytorch_lora_weights.safetensors")


def test_nothing_is_made_twice(config: Table2Config, finished: dict, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_):
        raise AssertionError("a stage ran again")

    monkeypatch.setattr("reneg.analysis.methods.learn", refuse)
    monkeypatch.setattr("reneg.evaluation.runner._sample_missing", refuse, raising=False)
    table = run_table_2(config)
    again = json.loads((config.output_dir / "results.json").read_text())
    assert again["rows"] == finished["rows"]
    assert "paper: HPSv2 photo" in table.read_text()


def test_other_settings_are_refused(config: Table2Config, finished: dict):
    with pytest.raises(ValueError, match="null/choose-scale was made with seed 4321, and not 5"):
        run_table_2(dataclasses.replace(config, tuning_seed=5))


def test_plan_tells_costs_and_runs_nothing(config: Table2Config, tmp_path: Path):
    dry = dataclasses.replace(config, dry_run=True, output_dir=tmp_path, rows=["lora"], evaluations_per_second=1.0)
    text = run_table_2(dry).read_text()
    # 2 updates of 2 samples: the steps to 1 or 2, both branches, and a backward pass of both, as two evaluations each;
    # two looks at 2 pictures of 3 steps.
    stages = Table2(dry).stages(Table2(dry).rows["lora"])
    looks, updates = 2 * 2 * 2 * 3, 2 * 2
    assert looks + updates * (2 * 2 + 2 * 2) <= stages[0].evaluations <= looks + updates * (2 * 3 + 2 * 2)
    assert stages[1].evaluations == 2 * 2 * 3  # two prompts, three steps of two branches
    assert "lora/made-all" in text and "2 stages" in text
    assert {path.name for path in tmp_path.iterdir()} == {"plan.md"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": {"value": "null", "command": "learn"}}, "give one of value, command and parts"),
        ({"a": {"command": "fly"}}, "'fly' is unknown; choose from learn"),
        ({"a": {"parts": ["b"]}}, "needs 'b', which must stand above it"),
        ({"a": {"value": "null", "colour": 1}}, "'colour' is unknown; choose from command"),
        ({"a": {"value": "null", "sweep": {"x": [1], "y": [2]}}}, "over one setting, and not over x, y"),
        ({}, "must map names to rows"),
    ],
)
def test_bad_tables_are_refused(rows: dict, message: str, tmp_path: Path):
    path = tmp_path / "rows.yaml"
    path.write_text(yaml.safe_dump(rows))
    with pytest.raises(ValueError, match=message):
        read_table(path)


def test_rows_bring_what_they_need(tmp_path: Path):
    path = tmp_path / "rows.yaml"
    rows = {
        "null": {"value": "null"},
        "a": {"value": "x"},
        "b": {"value": "y"},
        "both": {"parts": ["a", "b"]},
        "more": {"command": "learn", "starts_from": "both"},
    }
    path.write_text(yaml.safe_dump(rows, sort_keys=False))
    assert list(chosen_rows(read_table(path), ["more"])) == ["a", "b", "both", "more"]
    assert list(chosen_rows(read_table(path), [])) == list(rows)
    with pytest.raises(ValueError, match="--rows: 'c' is unknown; choose from null"):
        chosen_rows(read_table(path), ["c"])
