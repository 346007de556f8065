"""The settings: the paper's values, one text each, and values that are refused by the name of their flag."""

import ast
import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

import reneg.analysis.config
import reneg.baselines.config
import reneg.baselines.policy_config
import reneg.config
import reneg.file_config
import reneg.refinement.config
from reneg.cli import COMMANDS, build_parser, parse
from reneg.config import CONFIGS, PRESETS, EvaluateConfig, GenerateConfig, LearnConfig, ModelConfig, preset
from reneg.refinement.config import RefineConfig

MODULES = (
    reneg.config,
    reneg.file_config,
    reneg.baselines.config,
    reneg.baselines.policy_config,
    reneg.refinement.config,
    reneg.analysis.config,
)
CLASSES = {
    node.name: node
    for module in MODULES
    for node in ast.parse(inspect.getsource(module)).body
    if isinstance(node, ast.ClassDef)
}
YAMLS = sorted(CONFIGS.glob("*.yaml"))
"""Those of single models; tests/analysis has the experiments'."""


@pytest.mark.parametrize(
    ("name", "value", "quote"),
    [
        ("scheduler", "ddim", '"DDIM scheduler with 30 steps" (§5.1)'),
        ("num_inference_steps", 30, '"we set T = 30" (§4.2)'),
        ("guidance_scale", 7.5, '"the classifier-free guidance weight is set to 7.5" (§5.1)'),
        ("max_train_steps", 4000, '"4,000 steps" (§5.1)'),
        ("train_batch_size", 64, '"batch size of 64" (§5.1)'),
        ("learning_rate", 5e-3, '"a learning rate of 5e-3" (§5.1)'),
        ("lr_scheduler", "cosine", '"a Cosine Scheduler" (§5.1)'),
        ("grad_step_range", (20, 29), '"randomly sample t in [0, 10]" (§4.2)'),
    ],
)
def test_defaults_are_the_papers_and_quote_it(name: str, value: Any, quote: str):
    assert getattr(LearnConfig(), name) == value
    assert quote in docstrings("ModelConfig", "RunConfig", "LearnConfig")[name]


def test_generating_and_evaluating_sample_as_learning_does():
    shared = {field.name: getattr(LearnConfig(), field.name) for field in fields(ModelConfig)}
    del shared["seed"], shared["output_dir"]
    for config in (GenerateConfig(prompt=["a cat"]), EvaluateConfig()):
        assert {name: getattr(config, name) for name in shared} == shared


def test_refining_has_the_papers_steps_and_patience_and_the_worlds_gradient_steps():
    texts = docstrings("RefineConfig")
    assert (RefineConfig().max_refine_steps, RefineConfig().patience) == (10, 3)
    assert '"for an additional 10 steps" (§5.1)' in texts["max_refine_steps"]
    assert '"with a patience value of 3" (§5.1)' in texts["patience"]
    assert preset("world", config=RefineConfig) == {
        "grad_step_range": (27, 29),
        "gradient_steps": 3,
        "gradient_estimator": "draft",
        "trajectory_steps": 13,
        "refine_learning_rate": 0.04,
    }
    assert "max_train_steps" in preset("world") and "refine_learning_rate" not in preset("world")


def docstrings(*class_names: str) -> dict[str, str]:
    """Field -> the text below it; "" without one."""
    found = {}
    for class_name in class_names:
        body = CLASSES[class_name].body
        for statement, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = following.value if isinstance(following, ast.Expr) else None
                told = text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
                found[statement.target.id] = " ".join(told.split())
    return found


@pytest.mark.parametrize("class_name", CLASSES)
def test_every_field_has_a_docstring_and_every_class_one(class_name: str):
    texts = docstrings(class_name)
    assert texts
    assert [name for name, text in texts.items() if not text] == []
    assert ast.get_docstring(CLASSES[class_name])


@pytest.mark.parametrize("class_name", CLASSES)
def test_every_public_attribute_is_a_field(class_name: str):
    """A line without an annotation would look like a setting and be none."""
    config = next(vars(module)[class_name] for module in MODULES if class_name in vars(module))
    own = {name for name, value in vars(config).items() if not name.startswith("_") and not inspect.isfunction(value)}
    assert own <= {field.name for field in fields(config)}
    assert not [node for node in CLASSES[class_name].body if isinstance(node, ast.Assign)]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_every_settings_docstring(command: str):
    _, parser = build_parser(command)
    assert parser is not None
    told = "".join(parser.format_help().split())
    names = {field.name for field in fields(COMMANDS[command].config)}
    texts = docstrings(*(base.__name__ for base in COMMANDS[command].config.__mro__[::-1] if base is not object))
    shorter = {"prompt", "negatives", "scales", "rewards", "weights", "file", "files"}  # lists and positionals
    shorter |= {"rows", "models", "learned"}
    shorter |= {"convert": {"output"}, "push": {"repository"}}.get(command, set())
    for name in names - shorter:
        assert f"--{name}" in told
        assert "".join(texts[name].split()) in told, name


def test_there_is_a_packaged_yaml_for_the_world():
    assert YAMLS
    assert set(PRESETS.values()) <= set(YAMLS)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_every_packaged_yaml_parses_to_what_it_says(path: Path, tmp_path: Path):
    """Its settings are learn's and refine's; each command reads those that it has."""
    says, read = yaml.safe_load(path.read_text()), set()
    refine = ["refine", "--negative", "null", "--prompt", "a cat"]
    for command, given in ((LearnConfig, ["learn"]), (RefineConfig, refine)):
        own = {name: says[name] for name in says.keys() & {field.name for field in fields(command)}}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
        _, config = parse([*given, "--config", str(tmp_path / "own.yaml")])
        assert json.loads(json.dumps({name: getattr(config, name) for name in own})) == own  # tuples are YAML's lists
        read |= own.keys()
    assert says and read == says.keys()


GENERATE = {"prompt": ["a cat"]}
BAD = [
    (LearnConfig, {"num_inference_steps": 0}, "--num_inference_steps 0"),
    (LearnConfig, {"num_inference_steps": -3}, "--num_inference_steps -3"),
    (LearnConfig, {"guidance_scale": 1.0}, "--guidance_scale 1.0"),
    (LearnConfig, {"guidance_scale": float("nan")}, "--guidance_scale nan"),
    (LearnConfig, {"guidance_scale": float("inf")}, "--guidance_scale inf"),
    *((LearnConfig, {n: 0}, f"--{n} 0: must be at least 1") for n in ("max_train_steps", "train_batch_size")),
    *((LearnConfig, {n: -1}, f"--{n} -1") for n in ("gradient_accumulation_steps", "checkpointing_steps")),
    *((LearnConfig, {n: 0}, f"--{n} 0") for n in ("validation_steps", "num_validation_prompts")),
    (LearnConfig, {"checkpoints_total_limit": 0}, "--checkpoints_total_limit 0"),
    (LearnConfig, {"learning_rate": 0.0}, "--learning_rate 0.0"),
    (LearnConfig, {"learning_rate": float("nan")}, "--learning_rate nan"),
    (LearnConfig, {"lr_warmup_steps": -1}, "--lr_warmup_steps -1"),
    (LearnConfig, {"lr_warmup_steps": 5000}, r"--lr_warmup_steps 5000: must be 0 to max_train_steps \(4000\)"),
    (LearnConfig, {"seed": -1}, "--seed -1"),
    (LearnConfig, {"grad_step_range": (20, 30)}, r"--grad_step_range \[20, 30\]: must lie in 0 … 29"),
    (LearnConfig, {"grad_step_range": (9, 8)}, r"--grad_step_range \[9, 8\]"),
    (LearnConfig, {"grad_step_range": (-1, 8)}, r"--grad_step_range \[-1, 8\]"),
    (LearnConfig, {"num_inference_steps": 10}, r"--grad_step_range \[20, 29\]: must lie in 0 … 9"),
    (LearnConfig, {"gradient_steps": 0}, "--gradient_steps 0: must be 1 to 10, the steps of --grad_step_range"),
    (LearnConfig, {"gradient_steps": 3, "grad_step_range": (28, 29)}, "--gradient_steps 3: must be 1 to 2"),
    (LearnConfig, {"max_grad_norm": 0.0}, "--max_grad_norm 0.0"),
    (GenerateConfig, {}, "--prompt TEXT or --prompts FILE"),
    (GenerateConfig, GENERATE | {"prompts": Path("x.txt")}, "--prompt TEXT or --prompts FILE"),
    (GenerateConfig, {"prompt": ["a cat", " "]}, "--prompt: got an empty text"),
    (GenerateConfig, GENERATE | {"num_images_per_prompt": 0}, "--num_images_per_prompt 0"),
    (GenerateConfig, GENERATE | {"batch_size": 0}, "--batch_size 0"),
    (GenerateConfig, GENERATE | {"seed": -1}, "--seed -1"),
    (EvaluateConfig, {"negatives": ["null"]}, "--negatives: give at least two"),
    (EvaluateConfig, {"num_seeds": 0}, "--num_seeds 0"),
    (EvaluateConfig, {"batch_size": -2}, "--batch_size -2"),
    (EvaluateConfig, {"max_prompts": 0}, "--max_prompts 0"),
    (EvaluateConfig, {"seed": -1}, "--seed -1"),
]


@pytest.mark.parametrize(("config", "changes", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_values_name_the_flag_in_one_line(config: type, changes: dict, message: str):
    with pytest.raises(ValueError, match=message) as error:
        config(**changes)
    assert "\n" not in str(error.value)
