"""The `reneg` command: parse, wire, call. Everything heavy is imported inside the commands."""

import logging
import os
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings
from rich.console import Console
from rich.table import Table

from reneg import __version__
from reneg.analysis import EXPERIMENTS
from reneg.analysis.config import experiment_preset
from reneg.arguments import complete_config, complete_rewards, complete_switches
from reneg.baselines import BASELINES
from reneg.config import EvaluateConfig, GenerateConfig, LearnConfig, PlanConfig, preset
from reneg.errors import LostProcessError, TerminatedError, VerificationError
from reneg.file_config import ConvertConfig, InspectConfig, MergeConfig, PushConfig, VerifyConfig
from reneg.refinement.config import RefineConfig

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143
GO_ON = "the same command goes on where it can, reneg learn with --resume_from_checkpoint latest"


def _learn(config: LearnConfig) -> None:
    from reneg.learning import learn
    from reneg.run_folder import result_names

    learn(config)
    print(f"Result: {config.output_dir / result_names(config.target)[0]}")
    print(f"Report: {config.output_dir / 'report.html'}")


def _generate(config: GenerateConfig) -> None:
    if config.refine:
        from reneg.refinement.run import generate_refined

        paths = generate_refined(config, console=Console())
    else:
        from reneg.negatives import generate_pictures

        paths = generate_pictures(config)
    print(f"{len(paths)} pictures in {config.output_dir}")


def _refine(config: RefineConfig) -> None:
    from reneg.refinement.run import run_refine

    index = run_refine(config, console=Console())
    print(f"Embeddings: {index}")
    print(f"Report:     {config.output_dir / 'report.html'}")


def _evaluate(config: EvaluateConfig) -> None:
    from reneg.evaluation import evaluate

    evaluate(config, console=Console())


def _convert(config: ConvertConfig) -> None:
    from reneg.negative import NegativeEmbedding

    NegativeEmbedding.load(config.file).save(config.output)
    print(f"Embedding: {config.output}")


def _merge(config: MergeConfig) -> None:
    from reneg.merging import merge_files

    merge_files(config.files, config.weights, config.method, config.output)
    print(f"Embedding: {config.output}")


def _inspect(config: InspectConfig) -> None:
    from reneg.negative import NegativeEmbedding, describe

    table = Table("", "", show_header=False, title=str(config.file))
    table.columns[1].overflow = "fold"  # checksums stay whole
    for label, value in describe(NegativeEmbedding.load(config.file)).items():
        table.add_row(label, value)
    Console(markup=False, emoji=False).print(table)  # brackets and colons in a file's texts are no markup


def _verify(config: VerifyConfig) -> None:
    from reneg.verify import verify

    found = verify(config)
    print(f"{config.file} changes the picture of {found.prompt!r} on {config.model}:")
    print(
        f"mean difference {found.mean_difference:.4f}, largest {found.largest_difference:.4f} of 1, "
        f"{found.changed_pixels:.0%} of the pixels"
    )
    print(f"Pictures: {config.output_dir / 'null.png'}, {config.output_dir / 'negative.png'}")


def _push(config: PushConfig) -> None:
    from reneg.negative import NegativeEmbedding

    url = NegativeEmbedding.load(config.file).push_to_hub(
        config.repository,
        license=config.license,
        evaluation=config.evaluation,
        private=config.private,
        commit_message=config.commit_message,
    )
    print(f"Pushed: {url}")


def _plan(config: PlanConfig) -> None:
    from reneg.planning import plan
    from reneg.planning.tables import print_plan

    print_plan(plan(config), Console(markup=False, emoji=False))


def _baseline(name: str) -> Callable[[Any], None]:
    """What runs a row of BASELINES."""

    def run(config: Any) -> None:
        file = BASELINES[name].run(config)
        print(f"Result:  {file}")
        print(f"Compare: reneg evaluate --negatives null {name}={file}")

    return run


def _reproduce(name: str) -> Callable[[Any], None]:
    """What runs a row of EXPERIMENTS."""

    def run(config: Any) -> None:
        table = EXPERIMENTS[name].run(config)
        print(table.read_text(encoding="utf-8"))
        print(f"Written: {table}")

    return run


@dataclass(frozen=True)
class Command:
    """One subcommand: what runs, the settings it takes, and its line in `reneg --help`."""

    run: Callable[[Any], None]
    config: type
    help: str
    preset: Callable[[str, Any], dict[str, Any]] | None = None
    """(model, target) -> settings that lie below what is given; None takes the model's own."""


COMMANDS = {
    "learn": Command(_learn, LearnConfig, "learn a negative embedding from a reward"),
    "generate": Command(_generate, GenerateConfig, "make pictures with a negative embedding"),
    "evaluate": Command(_evaluate, EvaluateConfig, "compare negative embeddings on the same prompts and noises"),
    "inspect": Command(_inspect, InspectConfig, "what a file is, for which encoder, how it was learned"),
    "refine": Command(_refine, RefineConfig, "refine a negative embedding for each prompt by itself"),
    "verify": Command(_verify, VerifyConfig, "render with and without a file; fail if nothing changed"),
    "convert": Command(_convert, ConvertConfig, "write an official .bin file as safetensors"),
    "merge": Command(_merge, MergeConfig, "several files into one, or one at another strength"),
    "push": Command(_push, PushConfig, "share a file on the hub, with a card"),
    "plan": Command(_plan, PlanConfig, "what learning will need of a GPU's memory, without any weights"),
    **{
        f"baseline {name}": Command(_baseline(name), row.config, row.help, row.preset)
        for name, row in BASELINES.items()
    },
    **{
        f"reproduce {name}": Command(_reproduce(name), row.config, row.help, partial(experiment_preset, name))
        for name, row in EXPERIMENTS.items()
    },
}
"""A name of two words is a command of a group."""
GROUPS = {"baseline": "methods that ReNeg is compared with", "reproduce": "the paper's tables and figures"}
"""Group -> its line in `reneg --help`."""
LISTS = {
    "prompt": "one or more prompts",
    "negatives": "what to compare; NAME=VALUE names one",
    "scales": "guidance scales of some of them, each NAME=NUMBER",
    "rewards": "rewards to report",
    "rows": "rows of the table; those that they need come along",
    "models": "generators",
    "learned": "embeddings that are there already, each GENERATOR=FILE",
}
"""Settings that take several values on the command line, and their help."""
REQUIRED = "the following arguments are required: "
"""What jsonargparse says before the names of what is missing."""


def _inspect_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a negative embedding (.safetensors, or an official .bin)")


def _convert_arguments(parser: ArgumentParser) -> None:
    _inspect_arguments(parser)
    parser.add_argument("output", type=Path, help="the .safetensors file to write")


def _merge_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, help="negative embeddings (.safetensors, or official .bin)")
    parser.add_argument("--weights", nargs="+", type=float, default=[], help="one for each file; none takes the mean")
    parser.add_class_arguments(MergeConfig, as_group=False, skip={"files", "weights"})


def _verify_arguments(parser: ArgumentParser) -> None:
    _inspect_arguments(parser)
    parser.add_argument("--config", action="config", help="a YAML file of the settings below")
    parser.add_class_arguments(VerifyConfig, as_group=False, skip={"file"})


def _push_arguments(parser: ArgumentParser) -> None:
    _inspect_arguments(parser)
    parser.add_argument("repository", type=str, help="owner/name on the hub; made if there is none")
    parser.add_class_arguments(PushConfig, as_group=False, skip={"file", "repository"})


POSITIONAL = {
    InspectConfig: _inspect_arguments,
    ConvertConfig: _convert_arguments,
    MergeConfig: _merge_arguments,
    VerifyConfig: _verify_arguments,
    PushConfig: _push_arguments,
}
"""Settings of the commands that work on files named without a flag -> what adds them to a parser."""


def build_parser(wanted: str) -> tuple[ArgumentParser, ArgumentParser | None]:
    """The parser of `reneg`, and that of one subcommand; the others are named and have no settings.

    All settings of all commands would take longer than a help text may.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="reneg",
        description="Learn, apply and judge negative embeddings for diffusion models (ReNeg, arXiv 2412.19637).",
        version=f"reneg {__version__}",
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(required=True, dest="command")
    groups, found = {"": commands}, None
    for name, command in COMMANDS.items():
        subparser = ArgumentParser(description=command.config.__doc__, exit_on_error=False, allow_abbrev=False)
        if name == wanted:
            _add_settings(subparser, command.config)
            found = subparser
        group, _, own_name = name.rpartition(" ")
        if group not in groups:
            parser_of_group = ArgumentParser(description=GROUPS[group], exit_on_error=False, allow_abbrev=False)
            commands.add_subcommand(group, parser_of_group, help=GROUPS[group])
            groups[group] = parser_of_group.add_subcommands(required=True, dest="command")
        groups[group].add_subcommand(own_name, subparser, help=command.help)
    return parser, found


def _add_settings(parser: ArgumentParser, config: type) -> None:
    """All that a command takes."""
    if config in POSITIONAL:
        POSITIONAL[config](parser)
        return
    lists = {field.name: field for field in fields(config) if field.name in LISTS}
    parser.add_argument("--config", action="config", help="a YAML file of the settings below")
    parser.add_class_arguments(config, as_group=False, skip=set(lists))
    for flag, field in lists.items():
        default = field.default_factory() if field.default_factory is not MISSING else None
        parser.add_argument(f"--{flag}", nargs="+", type=str, default=default, help=LISTS[flag])


def _wanted(arguments: Sequence[str]) -> str:
    """The command that arguments name, of one word or two; empty if none."""
    words = [argument for argument in arguments if not argument.startswith("-")][:2]
    return " ".join(words if words and words[0] in GROUPS else words[:1])


def _complete(arguments: Sequence[str], wanted: str) -> Sequence[str]:
    """Arguments of a command as jsonargparse reads them; those of none as they are."""
    command = COMMANDS.get(wanted)
    if command is None:
        return arguments
    switches = {f"--{field.name}" for field in fields(command.config) if field.type is bool}
    arguments = complete_switches(arguments, switches, names_files=command.config in POSITIONAL)
    arguments = complete_config(arguments)
    return complete_rewards(arguments) if command.config is LearnConfig else arguments


def _as_typed(message: str) -> str:
    """What is missing as it is typed, `--license`, and not as jsonargparse names it, `push.license`."""
    before, required, missing = message.partition(REQUIRED)
    if not required:
        return message
    command, names = missing.partition(".")[0], [name.rpartition(".")[2] for name in missing.split(", ")]
    parser = ArgumentParser()
    POSITIONAL[COMMANDS[command].config](parser)  # no other command has settings without a default
    usage = parser.format_usage()
    return before + required + ", ".join(f"--{name}" if f" --{name} " in usage else name for name in names)


def parse(arguments: Sequence[str]) -> tuple[str, object]:
    """Command line -> (command, its validated settings).

    The preset of the model and the target, or of the experiment, as far as the command has its settings, lies below
    what a YAML file and the flags say.

    Raises:
        ArgumentError, ValueError: a flag or value that is not allowed.
    """
    wanted = _wanted(arguments)
    parser, subparser = build_parser(wanted)
    arguments = _complete(arguments, wanted)
    try:
        parsed = parser.parse_args(arguments)
    except ArgumentError as error:
        raise ValueError(_as_typed(str(error))) from error
    name = parsed.command
    if name in GROUPS:
        name = f"{name} {parsed[name].command}"
    key = name.replace(" ", ".")
    own = {field.name for field in fields(COMMANDS[name].config)}
    if subparser is not None and "model" in own:
        find = COMMANDS[name].preset or partial(preset, config=COMMANDS[name].config)
        best = find(parsed[key].model, parsed[key].get("target", "negative_embedding"))
        subparser.set_defaults({setting: value for setting, value in best.items() if setting in own})
        parsed = parser.parse_args(arguments)
    settings = parsed[key].as_dict()
    settings.pop("config", None)
    return name, COMMANDS[name].config(**settings)


def _quieten_libraries() -> None:
    """Keep standard error for reneg's own lines. A user's settings of these variables stand."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


@contextmanager
def _termination_is_an_error() -> Iterator[None]:
    """SIGTERM ends what runs by a TerminatedError, and so with a line, and after what has to be tidied up."""

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 after one line on what was wrong with the input, or 1 after one on what failed."""
    _quieten_libraries()
    # Of several processes the first speaks for all, as long as nothing is wrong.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    try:
        name, config = parse(sys.argv[1:] if arguments is None else arguments)
        with _termination_is_an_error():
            COMMANDS[name].run(config)
    except (ArgumentError, ValueError, OSError) as error:
        print(f"reneg: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except (FloatingPointError, LostProcessError, VerificationError) as error:  # NaN in learning; no change by a file
        print(f"reneg: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(f"reneg: interrupted; {GO_ON}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except TerminatedError:
        told = "stopped by SIGTERM, which launchers send to the other processes when one died"
        print(f"reneg: error: {told}; {GO_ON}", file=sys.stderr)
        return EXIT_TERMINATED
    return 0


if __name__ == "__main__":  # `accelerate launch -m reneg.cli`
    sys.exit(main())
