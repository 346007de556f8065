"""The experiments' files: all parsed by the command that reads them, and every row made into settings."""

import json
from pathlib import Path

import pytest
import yaml

from reneg.analysis import EXPERIMENTS
from reneg.analysis.comparison import Table2
from reneg.analysis.config import Table1Config, Table2Config, TransferConfig, experiment_file
from reneg.analysis.methods import METHODS
from reneg.analysis.paper import TABLE_2, TABLE_2_COLUMNS
from reneg.analysis.rows import read_table
from reneg.cli import parse
from reneg.config import CONFIGS, EvaluateConfig, LearnConfig, preset

MODELS = {"world": "world", "paper": "sd1.5"}
TABLES = [CONFIGS / kind / "table2_rows.yaml" for kind in MODELS]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("kind", MODELS)
def test_every_experiment_has_a_file_that_parses_to_what_it_says(experiment: str, kind: str):
    path = experiment_file(experiment, MODELS[kind])
    assert path == CONFIGS / kind / f"{experiment}.yaml"
    name, config = parse(["reproduce", experiment, "--model", MODELS[kind]])
    assert name == f"reproduce {experiment}" and isinstance(config, EXPERIMENTS[experiment].config)
    says = yaml.safe_load(path.read_text())
    assert says
    found = {name: str(value) if isinstance(value, Path) else value for name, value in vars(config).items()}
    assert json.loads(json.dumps({name: found[name] for name in says})) == says
    sampling = {"guidance_scale": 7.5, "num_inference_steps": 30, "scheduler": "ddim"}
    assert {setting: found[setting] for setting in sampling} == sampling


def test_an_evaluation_takes_all_settings_that_it_shares_with_an_experiment():
    sampling = {"revision": "r", "dtype": "bf16", "trust_remote_code": True, "scheduler": "ddpm", "device": "cuda"}
    sampling |= {"guidance_scale": 3.0, "num_inference_steps": 9}
    compared = {"prompts": Path("parti"), "max_prompts": 5, "num_seeds": 1, "rewards": ["hpsv2.1"], "published": True}
    config = TransferConfig(**sampling, **compared, batch_size=2, seed=3, evaluation_seed=4, models=["a", "b"])
    expected = EvaluateConfig(model="a", **sampling, **compared, batch_size=2, seed=4, output_dir=Path("there"))
    assert config.evaluation("a", Path("there")) == expected


def test_there_are_no_other_files():
    expected = {f"{kind}/{name}.yaml" for kind in MODELS for name in (*EXPERIMENTS, "table2_rows")}
    expected.add("paper/learn.yaml")  # of `learn --config paper`
    assert {str(path.relative_to(CONFIGS)) for kind in MODELS for path in (CONFIGS / kind).iterdir()} == expected


def test_flags_win_over_the_experiments_file():
    _, config = parse(["reproduce", "table1", "--num_prompts", "3"])
    assert isinstance(config, Table1Config)
    assert (config.num_prompts, config.num_probes) == (3, 8)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.parent.name)
def test_every_row_makes_settings(path: Path):
    model = MODELS[path.parent.name]
    for row in read_table(path).values():
        assert row.paper is None or row.paper in TABLE_2, row.name
        if row.command is not None:
            for setting, values in (row.sweep or {"seed": [0]}).items():
                for value in values:
                    settings = METHODS[row.command].settings(model, row.settings | {setting: value})
                    assert vars(settings)[setting] == value


def test_a_row_learns_with_the_models_preset():
    table = read_table(TABLES[0])
    settings = METHODS["learn"].settings("world", table["reneg"].settings)
    expected = LearnConfig(**preset("world") | table["reneg"].settings, resume_from_checkpoint="latest")
    assert settings == expected
    lora = METHODS["learn"].settings("world", table["lora-16"].settings)
    assert (lora.learning_rate, lora.lora_rank) == (preset("world", "lora")["learning_rate"], 16)


def test_the_worlds_table_has_every_row_that_the_papers_has():
    world, paper = (read_table(path) for path in TABLES)
    assert set(paper) <= set(world)
    assert all(len(figures) == len(TABLE_2_COLUMNS) for figures in TABLE_2.values())


def test_the_worlds_plan_keeps_every_stage_below_two_hours(tmp_path: Path):
    _, config = parse(["reproduce", "table2", "--output_dir", str(tmp_path)])
    assert isinstance(config, Table2Config)
    table = Table2(config)
    assert len(table.tuning) == 100 and table.num_evaluated >= 200
    minutes = {
        stage.name: stage.evaluations / config.evaluations_per_second / 60
        for row in table.rows.values()
        for stage in table.stages(row)
    }
    assert max(minutes.values()) < 120, max(minutes, key=minutes.__getitem__)
