"""What people type that jsonargparse does not read by itself, written as it reads it."""

import json
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from reneg.config import PAPER, require


def complete_config(arguments: Sequence[str]) -> list[str]:
    """`--config paper` of `reneg learn` -> its file.

    Raises:
        ValueError: there is no such file.
    """
    complete = list[str]()
    for argument, value in _with_values(arguments, "--config"):
        if value is None:
            complete.append(argument)
            continue
        by_name = value == "paper" and arguments[0] == "learn"
        require(by_name or Path(value).is_file(), f"--config {value}: no such file; name a YAML file of settings")
        complete += ["--config", str(PAPER) if by_name else value]
    return complete


def complete_rewards(arguments: Sequence[str]) -> list[str]:
    """Several `--reward VALUE` -> one list."""
    read = list(_with_values(arguments, "--reward"))
    others = [argument for argument, value in read if value is None]
    rewards = [value for _, value in read if value is not None]
    return [*others, "--reward", rewards[0] if len(rewards) == 1 else json.dumps(rewards)] if rewards else others


def _with_values(arguments: Sequence[str], flag: str) -> Iterator[tuple[str, str | None]]:
    """Each argument with None, but a flag with its value, which stands behind it or after an equals sign."""
    left = iter(arguments)
    for argument in left:
        name, equals, value = argument.partition("=")
        if name == flag:
            yield argument, value if equals else next(left, None)
        else:
            yield argument, None


def complete_switches(arguments: Sequence[str], switches: Collection[str], *, names_files: bool) -> list[str]:
    """`--published` alone -> `--published=true`; with `true` or `false` behind it it stays.

    Args:
        switches: the flags that are on or off.
        names_files: the command has arguments without a flag, which may follow a switch.

    Raises:
        ValueError: something else follows, and is no such argument.
    """
    complete = []
    for argument, after in zip_longest(arguments, arguments[1:], fillvalue=""):
        alone = argument in switches and after.lower() not in ("true", "false")
        wrong = alone and after and not after.startswith("-") and not names_files
        require(not wrong, f"{argument} {after}: must be true or false, or alone")
        complete.append(f"{argument}=true" if alone else argument)
    return complete
