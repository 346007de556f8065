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

    def words() -> Iterator[str]:
        given = iter(arguments)
        for argument in given:
            flag, equals, value = argument.partition("=")
            if flag != "--config" or not (equals or (value := next(given, ""))):
                yield argument
                continue
            by_name = value == "paper" and arguments[0] == "learn"
            require(by_name or Path(value).is_file(), f"--config {value}: no such file; name a YAML file of settings")
            yield from ("--config", str(PAPER) if by_name else value)

    return list(words())


def complete_rewards(arguments: Sequence[str]) -> list[str]:
    """Several `--reward VALUE` -> one list."""
    others, rewards, left = list[str](), list[str](), iter(arguments)
    for argument in left:
        flag, equals, value = argument.partition("=")
        if flag == "--reward" and (equals or (value := next(left, None)) is not None):
            rewards.append(value)
        else:
            others.append(argument)
    return [*others, "--reward", rewards[0] if len(rewards) == 1 else json.dumps(rewards)] if rewards else others


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
