"""The command line: presets and flags in their order, and one line for everything that is wrong."""

import logging
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny_reward, tiny_pipeline

import reneg.cli
from reneg.baselines.config import DnpConfig
from reneg.baselines.policy_config import DdpoConfig, DiffusionDpoConfig, policy_preset
from reneg.cli import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED, main, parse
from reneg.config import PAPER, EvaluateConfig, GenerateConfig, LearnConfig, preset, read_preset
from reneg.errors import LostProcessError
from reneg.file_config import InspectConfig, PushConfig
from reneg.negative import NegativeEmbedding

HEAVY = {"torch", "diffusers", "transformers", "accelerate", "matplotlib"}
PRESET = preset("world")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a reward, prompts, and two files that are no embedding for it."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_pipeline().save_pretrained(folder / "model")
    save_tiny_reward(folder / "reward")
    (folder / "prompts.txt").write_text("a cat\na dog\n")
    (folder / "empty.txt").write_text("\n")
    (folder / "corrupt.safetensors").write_text("no tensor in it")
    NegativeEmbedding(torch.ones(1, 77, 9), torch.ones(1, 77, 9)).save(folder / "foreign.safetensors")
    return folder


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def learn_config(*arguments: str) -> LearnConfig:
    name, config = parse(["learn", *arguments])
    assert name == "learn" and isinstance(config, LearnConfig)
    return config


# What is parsed


def test_the_papers_settings_have_a_name():
    """In the world they are what every model without a preset has by default."""
    given = read_preset(PAPER)
    config, defaults = learn_config("--config=paper", "--train_batch_size", "8"), LearnConfig()
    assert all(value == getattr(defaults, name) for name, value in vars(learn_config("--config", "paper")).items())
    assert given.keys() >= PRESET.keys()
    assert (config.train_batch_size, config.grad_step_range, config.trajectory_steps) == (8, (20, 29), None)


def test_learn_takes_the_worlds_preset():
    config = learn_config()
    assert config.model == "world"
    assert {name: getattr(config, name) for name in PRESET} == PRESET
    paper = LearnConfig()
    assert {name: getattr(paper, name) for name in PRESET} != PRESET  # the preset changes something
    untouched = vars(paper).keys() - PRESET.keys()
    assert {name: getattr(config, name) for name in untouched} == {name: getattr(paper, name) for name in untouched}


def test_other_models_have_the_papers_values():
    assert learn_config("--model", "sd1.5") == LearnConfig(model="sd1.5")


def test_flags_override_the_yaml_which_overrides_the_preset(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("validation_steps: 5\nmax_train_steps: 7\ngrad_step_range: [3, 6]\n")
    assert PRESET.keys() > {"validation_steps", "max_train_steps", "train_batch_size"}
    config = learn_config("--config", str(path), "--max_train_steps", "9")
    assert config.max_train_steps == 9  # the flag
    assert config.validation_steps == 5 and config.grad_step_range == (3, 6)  # the YAML
    assert config.train_batch_size == PRESET["train_batch_size"]  # the preset
    assert config.adam_beta1 == LearnConfig().adam_beta1  # the default


def test_a_baseline_has_a_preset_of_its_own_for_the_world():
    _, config = parse(["baseline", "ddpo"])
    assert isinstance(config, DdpoConfig)
    says = policy_preset("ddpo", "world", "lora")
    assert says.keys() <= vars(config).keys()
    assert {name: getattr(config, name) for name in says} == says
    assert config.num_samples != DdpoConfig().num_samples  # the preset changes something
    assert parse(["baseline", "ddpo", "--model", "sd1.5"])[1] == DdpoConfig(model="sd1.5")
    _, config = parse(["baseline", "diffusion-dpo", "--model", "sd1.5", "--target", "denoiser"])
    assert isinstance(config, DiffusionDpoConfig)
    assert config.learning_rate == 2.048e-8


def test_flags_override_the_preset():
    config = learn_config("--learning_rate", "0.25", "--train_batch_size", "3")
    assert (config.learning_rate, config.train_batch_size) == (0.25, 3)
    assert config.max_train_steps == PRESET["max_train_steps"]


def test_a_target_brings_its_learning_rate_below_the_flags():
    denoiser = learn_config("--target", "denoiser")
    assert denoiser.learning_rate == 1e-5 and denoiser.train_batch_size == PRESET["train_batch_size"]
    assert learn_config("--target", "denoiser", "--learning_rate", "0.5").learning_rate == 0.5
    assert learn_config("--target", "embedding_and_scale").learning_rate == PRESET["learning_rate"]
    assert learn_config("--target", "lora", "--lora_rank", "16", "--model", "sd1.5") == LearnConfig(
        model="sd1.5", target="lora", lora_rank=16, learning_rate=1e-3
    )


def test_a_model_in_the_yaml_decides_the_preset(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: sd1.5\n")
    assert learn_config("--config", str(path)) == LearnConfig(model="sd1.5")
    assert learn_config("--config", str(path), "--model", "world").train_batch_size == PRESET["train_batch_size"]


def test_values_get_their_types():
    config = learn_config(
        *["--output_dir", "runs/x", "--grad_step_range", "[3, 6]", "--monitor", "null", "--max_grad_norm", "0.5"]
    )
    assert (config.output_dir, config.grad_step_range) == (Path("runs/x"), (3, 6))
    assert (config.monitor, config.max_grad_norm) == (None, 0.5)
    name, generate = parse(["generate", "--prompt", "a cat", "a dog", "--negative", "blurry"])
    assert (name, generate) == ("generate", GenerateConfig(prompt=["a cat", "a dog"], negative="blurry"))
    name, evaluate = parse(["evaluate", "--negatives", "null", "b=x.safetensors", "--num_seeds", "3"])
    assert (name, evaluate) == ("evaluate", EvaluateConfig(negatives=["null", "b=x.safetensors"], num_seeds=3))
    name, baseline = parse(["baseline", "dnp", "--captioner", "mine/blip", "--max_prompts", "3"])
    assert (name, baseline) == ("baseline dnp", DnpConfig(captioner="mine/blip", max_prompts=3))
    assert parse(["inspect", "x.safetensors"]) == ("inspect", InspectConfig(Path("x.safetensors")))


@pytest.mark.parametrize(
    ("arguments", "published"),
    [
        ([], False),
        (["--published"], True),
        (["--published", "--num_seeds", "3"], True),
        (["--published", "true"], True),
        (["--published=true"], True),
        (["--published", "false"], False),
        (["--published=false"], False),
    ],
)
def test_a_switch_may_stand_alone(arguments: list[str], published: bool, tmp_path: Path):
    name, config = parse(["evaluate", *arguments])
    assert name == "evaluate" and isinstance(config, EvaluateConfig)
    assert config.published is published
    assert config.num_seeds == (3 if "--num_seeds" in arguments else EvaluateConfig().num_seeds)
    (tmp_path / "mine.yaml").write_text("published: true\n")
    _, config = parse(["evaluate", "--config", str(tmp_path / "mine.yaml"), *arguments])
    assert isinstance(config, EvaluateConfig) and config.published is (published or not arguments)


def test_a_switch_swallows_no_argument_behind_it():
    _, config = parse(["push", "--private", "x.safetensors", "owner/name", "--license", "mit"])
    assert isinstance(config, PushConfig)
    assert (config.private, config.file, config.repository) == (True, Path("x.safetensors"), "owner/name")
    assert learn_config("--gradient_checkpointing").gradient_checkpointing


# What is refused


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error of a command that fails."""
    capsys.readouterr()
    assert main(arguments) == EXIT_BAD_INPUT
    output = capsys.readouterr()
    # Loading weights may have shown progress bars; on a terminal they are overwritten, elsewhere they are off.
    lines = [line for line in output.err.splitlines() if line.strip() and "%|" not in line]
    assert len(lines) == 1, output.err
    assert lines[0].startswith("reneg: error: ")
    assert output.out == ""
    return lines[0]


MODEL = ["--model", "{tiny}/model", "--num_inference_steps", "2"]
LEARN = ["learn", *MODEL, "--grad_step_range", "[0,1]", "--prompts", "{tiny}/prompts.txt", "--monitor", "null"]
GENERATE = ["generate", *MODEL, "--prompt", "a cat"]
EVALUATE = ["evaluate", *MODEL, "--prompts", "{tiny}/prompts.txt"]
BASELINE = ["baseline", "dnp", *MODEL, "--prompts", "{tiny}/prompts.txt"]
BAD = {
    "no command": ([], "learn,generate,evaluate,inspect"),
    "unknown command": (["paint"], "invalid choice: 'paint'"),
    "unknown flag": (["learn", "--learning_rat", "3"], "--learning_rat"),
    "unknown model": ([*LEARN, "--model", "sd9"], "--model 'sd9' is unknown; choose from world"),
    "unknown reward": ([*LEARN, "--reward", "beauty"], "reward 'beauty' is unknown; choose from world/preference"),
    "unknown monitor": ([*LEARN, "--reward", "{tiny}/reward", "--monitor", "beauty"], "'beauty' is unknown"),
    "unknown judge": ([*EVALUATE, "--negatives", "null", "bad", "--rewards", "beauty"], "reward 'beauty' is unknown"),
    "unknown scheduler": (["learn", "--scheduler", "euler"], "scheduler"),
    "unknown device": ([*GENERATE, "--device", "gpu"], "--device 'gpu' cannot be used here"),
    "unknown device to learn on": ([*LEARN, "--device", "gpu"], "--device 'gpu' cannot be used here"),
    "no number": (["learn", "--learning_rate", "fast"], "learning_rate"),
    "no whole number": (["learn", "--seed", "1.5"], "seed"),
    "neither true nor false": (["evaluate", "--published", "maybe"], "--published maybe: must be true or false"),
    "NaN": (["learn", "--learning_rate", "nan"], "learning_rate"),
    "negative steps": (["learn", "--max_train_steps", "-3"], "--max_train_steps -3: must be at least 1"),
    "negative sampling steps": ([*GENERATE, "--num_inference_steps", "-1"], "--num_inference_steps -1"),
    "missing YAML": (["learn", "--config", "gone.yaml"], "--config gone.yaml: no such file"),
    "broken YAML": (["learn", "--config", "broken.yaml"], "line 2"),
    "unknown key in YAML": (["learn", "--config", "key.yaml"], "learning_rat"),
    "bad value in YAML": (["learn", "--config", "value.yaml"], "seed"),
    "missing prompts": (["learn", "--prompts", "gone.txt"], "--prompts gone.txt: there is no such file"),
    "empty prompts": (["learn", "--prompts", "{tiny}/empty.txt"], "empty.txt holds no prompt"),
    "empty prompts to draw": ([*GENERATE[:-2], "--prompts", "{tiny}/empty.txt"], "empty.txt holds no prompt"),
    "empty prompts to evaluate": (["evaluate", "--prompts", "{tiny}/empty.txt"], "empty.txt holds no prompt"),
    "too long prompt": ([*GENERATE[:-1], "a b c d e f g h i j k l m n o p"], "beyond the limit of 16 tokens"),
    "no prompt": (["generate"], "--prompt TEXT or --prompts FILE"),
    "unwritable run": ([*LEARN, "--output_dir", "{tiny}/prompts.txt/run"], "prompts.txt/run cannot be written"),
    "unwritable pictures": (
        [*GENERATE, "--output_dir", "{tiny}/prompts.txt/out"],
        "prompts.txt/out cannot be written",
    ),
    "unwritable results": ([*EVALUATE, "--output_dir", "{tiny}/prompts.txt/out"], "prompts.txt/out cannot be written"),
    "missing negative": ([*GENERATE, "--negative", "gone.safetensors"], "no negative embedding at gone.safetensors"),
    "corrupt negative": ([*GENERATE, "--negative", "{tiny}/corrupt.safetensors"], "not a readable safetensors file"),
    "foreign negative": ([*GENERATE, "--negative", "{tiny}/foreign.safetensors"], "belongs to another text encoder"),
    "missing contender": ([*EVALUATE, "--negatives", "null", "gone.safetensors"], "gone.safetensors"),
    "one contender": (["evaluate", "--negatives", "null"], "--negatives: give at least two"),
    "no baseline": (["baseline"], "{dnp,dpo-diff,"),
    "unknown baseline": (["baseline", "dnq"], "'dnq' (choose from 'dnp', 'dpo-diff', "),
    "baseline's setting": (["baseline", "dpo-diff", "--num_noises", "0"], "--num_noises 0: must be at least 1"),
    "no captioner": ([*BASELINE, "--captioner", "{tiny}/model"], "--captioner"),
    "nothing to inspect": (["inspect"], "required: file"),
    "refined for other weights": ([*GENERATE, "--refine", "--weights", "x"], "--weights x: --refine refines for the"),
    "unwritable suffix": (["convert", "x.bin", "x.bin"], "must end in .safetensors"),
    "missing file": (["inspect", "gone.safetensors"], "no negative embedding at gone.safetensors"),
    "corrupt file": (["inspect", "{tiny}/corrupt.safetensors"], "not a readable safetensors file"),
    "a folder": (["inspect", "{tiny}"], "is a folder"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gives_one_line(
    kind: str, tiny: Path, in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # pytest's own handlers stay
    (in_folder / "broken.yaml").write_text("seed: [\n")
    (in_folder / "key.yaml").write_text("learning_rat: 3\n")
    (in_folder / "value.yaml").write_text("seed: many\n")
    arguments, message = BAD[kind]
    line = refused([argument.format(tiny=tiny) for argument in arguments], capsys)
    assert message in line


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (FloatingPointError("step 3: the reward\nbecame NaN"), EXIT_FAILED, "step 3: the reward became NaN"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted"),
        (LostProcessError("process 0 of 2 ends"), EXIT_FAILED, "process 0 of 2 ends"),
        (OSError("disk full"), EXIT_BAD_INPUT, "disk full"),
    ],
    ids=["nan", "interrupted", "lost process", "disk full"],
)
def test_what_stops_a_command_is_told_in_one_line(
    error: BaseException,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def fail(config: Any) -> None:
        raise error

    command = reneg.cli.Command(fail, InspectConfig, "")
    monkeypatch.setattr("reneg.cli.COMMANDS", reneg.cli.COMMANDS | {"inspect": command})
    assert main(["inspect", "x"]) == code
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


@pytest.mark.parametrize(("rank", "level"), [(None, logging.INFO), ("0", logging.INFO), ("1", logging.WARNING)])
def test_of_several_processes_the_first_alone_tells_the_news(
    rank: str | None, level: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    levels = []
    monkeypatch.setattr("logging.basicConfig", lambda **options: levels.append(options["level"]))
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert main(["paint"]) == EXIT_BAD_INPUT
    assert levels == [level] and "paint" in capsys.readouterr().err


def test_sigterm_ends_a_command_with_one_line_and_is_given_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    tidied = []

    def wait(config: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except Exception:  # noqa: BLE001 (what must not hold the signal up)
            tidied.append("swallowed")
        finally:
            tidied.append("tidied up")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        "reneg.cli.COMMANDS", reneg.cli.COMMANDS | {"inspect": reneg.cli.Command(wait, InspectConfig, "")}
    )
    assert main(["inspect", "x"]) == EXIT_TERMINATED
    assert tidied == ["tidied up"] and signal.getsignal(signal.SIGTERM) == before
    err = capsys.readouterr().err
    assert "SIGTERM" in err and "--resume_from_checkpoint latest" in err and err.count("\n") == 1


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    """An error that is no fault of the input keeps its traceback."""

    def fail(config: Any) -> None:
        raise KeyError("defect")

    command = reneg.cli.Command(fail, InspectConfig, "")
    monkeypatch.setattr("reneg.cli.COMMANDS", reneg.cli.COMMANDS | {"inspect": command})
    with pytest.raises(KeyError):
        main(["inspect", "x"])


# What is printed


def test_inspect_tells_everything_without_reading_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mine.safetensors"
    NegativeEmbedding(torch.ones(1, 3, 4), torch.eye(4)[None, :3], {"base_model": "a[/b] [red]:cat:"}).save(path)
    assert main(["inspect", str(path)]) == 0
    output = capsys.readouterr().out
    assert "3 tokens x 4" in output
    assert "a[/b] [red]:cat:" in output
    checksum = NegativeEmbedding.load(path).metadata["sha256"]
    assert checksum in "".join(character for character in output if character.isalnum())  # folded, and whole


def test_generate_tells_where_the_pictures_are(tiny: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [argument.format(tiny=tiny) for argument in GENERATE]
    assert main([*arguments, "--output_dir", "out"]) == 0
    assert capsys.readouterr().out == "1 pictures in out\n"
    assert (in_folder / "out" / "00000.png").is_file()


def test_errors_of_the_installed_command_are_one_line_and_need_nothing_heavy():
    code = (
        f"import sys; from reneg.cli import main; c = main(sys.argv[1:]); print(c, *({HEAVY!r} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, "learn", "--max_train_steps", "-3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(EXIT_BAD_INPUT)]
    assert done.stderr == "reneg: error: --max_train_steps -3: must be at least 1\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["learn", "--help"], ["baseline", "dnp", "--help"]], ids=" ".join
)
def test_help_imports_nothing_heavy(arguments: list[str]):
    code = (
        "import sys; from reneg.cli import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: print('heavy:', *({HEAVY!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"
    assert "reneg" in done.stdout


def test_help_takes_less_than_half_a_second_of_a_core():
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "reneg.cli", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize("arguments", [[], ["--help"], ["baseline"], ["baseline", "--help"], ["paint"]], ids=" ".join)
def test_without_a_command_no_settings_are_read(arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reneg.cli._add_settings", lambda *arguments: pytest.fail("read the settings of a command"))
    with pytest.raises((SystemExit, ValueError)):
        parse(arguments)


@pytest.mark.slow
def test_loading_leaves_no_line_of_the_libraries_on_standard_error(tiny: Path, in_folder: Path):
    """In a fresh process that is no terminal: neither warnings nor progress bars, only the error's own line."""
    arguments = [argument.format(tiny=tiny) for argument in BAD["foreign negative"][0]]
    command = [
        sys.executable,
        "-c",
        "import sys; from reneg.cli import main; sys.exit(main(sys.argv[1:]))",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_BAD_INPUT
    assert done.stderr.startswith("reneg: error: ") and done.stderr.count("\n") == 1, done.stderr
