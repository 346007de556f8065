"""The `reneg` command: parse, wire, call. Everything heavy is imported inside the commands."""

import logging
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings
from rich.console import Console
from rich.table import Table

from reneg import __version__
from reneg.config import PRESETS, EvaluateConfig, GenerateConfig, InspectConfig, LearnConfig

EXIT_BAD_INPUT = 2


def _learn(config: LearnConfig) -> None:
    from reneg.trainer import learn

    learn(config)
    print(f"Embedding: {config.output_dir / 'negative_embedding.safetensors'}")
    print(f"Report:    {config.output_dir / 'report.html'}")


def _generate(config: GenerateConfig) -> None:
    from reneg.negatives import generate_pictures

    paths = generate_pictures(config)
    print(f"{len(paths)} pictures in {config.output_dir}")


def _evaluate(config: EvaluateConfig) -> None:
    from reneg.evaluation import evaluate
    from reneg.evaluation.tables import print_table

    console = Console()
    print_table(evaluate(config, console=console), console)
    print(f"Results: {config.output_dir / 'results.json'}")
    print(f"Report:  {config.output_dir / 'report.html'}")


def _inspect(config: InspectConfig) -> None:
    from reneg.negative import NegativeEmbedding, describe

    table = Table(show_header=False, title=str(config.file))
    for label, value in describe(NegativeEmbedding.load(config.file)).items():
        table.add_row(label, value)
    Console().print(table)


@dataclass(frozen=True)
class Command:
    """One subcommand: what runs, the settings it takes, and its line in `reneg --help`."""

    run: Callable[[Any], None]
    config: type
    help: str


COMMANDS = {
    "learn": Command(_learn, LearnConfig, "learn a negative embedding from a reward"),
    "generate": Command(_generate, GenerateConfig, "make pictures with a negative embedding"),
    "evaluate": Command(_evaluate, EvaluateConfig, "compare negative embeddings on the same prompts and noises"),
    "inspect": Command(_inspect, InspectConfig, "what a file is, for which encoder, how it was learned"),
}
LISTS = {"prompt": "one or more prompts", "negatives": "what to compare; NAME=VALUE names one", "rewards": "rewards to report"}
"""Settings that take several values on the command line, and their help."""


def build_parser() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The parser of `reneg`, and those of its subcommands by name."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="reneg",
        description="Learn, apply and judge negative embeddings for diffusion models (ReNeg, arXiv 2412.19637).",
        version=f"reneg {__version__}",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(required=True, dest="command")
    subparsers = {}
    for name, command in COMMANDS.items():
        subparser = ArgumentParser(description=command.config.__doc__, exit_on_error=False)
        if command.config is InspectConfig:
            subparser.add_argument("file", type=Path, help="a negative embedding (.safetensors)")
        else:
            lists = {field.name: field for field in fields(command.config) if field.name in LISTS}
            subparser.add_argument("--config", action="config", help="a YAML file of the settings below")
            subparser.add_class_arguments(command.config, as_group=False, skip=set(lists))
            for flag, field in lists.items():
                default = field.default_factory() if field.default_factory is not MISSING else None
                subparser.add_argument(f"--{flag}", nargs="+", type=str, default=default, help=LISTS[flag])
        commands.add_subcommand(name, subparser, help=command.help)
        subparsers[name] = subparser
    return parser, subparsers


def parse(arguments: Sequence[str]) -> tuple[str, object]:
    """Command line -> (command, its validated settings).

    For `learn` the model's preset lies below what a YAML file and the flags say.

    Raises:
        ArgumentError, ValueError: a flag or value that is not allowed.
    """
    parser, subparsers = build_parser()
    parsed = parser.parse_args(list(arguments))
    name = parsed.command
    if name == "learn" and parsed.learn.model in PRESETS:
        subparsers[name].set_defaults(yaml.safe_load(PRESETS[parsed.learn.model].read_text()))
        parsed = parser.parse_args(list(arguments))
    settings = parsed[name].as_dict()
    settings.pop("config", None)
    return name, COMMANDS[name].config(**settings)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 after one line on what was wrong with the input."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        name, config = parse(sys.argv[1:] if arguments is None else arguments)
        COMMANDS[name].run(config)
    except (ArgumentError, ValueError, OSError) as error:
        print(f"reneg: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("reneg: interrupted; the same command continues where it can", file=sys.stderr)
        return 130
    return 0
