"""The rows of a table of methods, as its YAML file lists them."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from reneg.analysis.methods import METHODS
from reneg.config import require


@dataclass(frozen=True)
class Row:
    """One method: a value that evaluate takes, or a command that makes one, or other rows joined."""

    name: str
    value: str | None = None
    """null, handcrafted, or a file: nothing is made."""
    command: str | None = None
    """Of METHODS, such as `learn` or `baseline dnp`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the command, above the preset's."""
    sweep: dict[str, list] = field(default_factory=dict)
    """One of the command's settings -> the values to choose from, by the monitor on the tuning prompts."""
    scales: list[float] | None = None
    """Guidance scales to choose from; none at all leaves it the one that it learned, or the common one. Not given:
    the experiment's."""
    starts_from: str | None = None
    """The row whose file is the command's `negative`."""
    parts: list[str] = field(default_factory=list)
    """The rows that are joined."""
    paper: str | None = None
    """The paper's name of the row, where it has one."""

    def needs(self) -> list[str]:
        """The rows that must be there before."""
        return [*self.parts, *([self.starts_from] if self.starts_from else [])]


def read_table(path: Path) -> dict[str, Row]:
    """Name -> row, in the order in which they are made.

    Raises:
        ValueError, OSError: the file cannot be read, or a row cannot be made; in one line.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--table {path} is no YAML file ({error})") from error
    require(isinstance(content, dict) and bool(content), f"--table {path}: must map names to rows")
    rows: dict[str, Row] = {}
    for name, given in content.items():
        where = f"--table {path}: row {name!r}"
        require(isinstance(name, str) and isinstance(given, dict), f"{where}: must map settings to values")
        allowed = {own.name for own in fields(Row)} - {"name"}
        if unknown := sorted(given.keys() - allowed):
            raise ValueError(f"{where}: {unknown[0]!r} is unknown; choose from {', '.join(sorted(allowed))}")
        rows[name] = _checked(Row(name, **given), rows, where)
    return rows


def _checked(row: Row, before: dict[str, Row], where: str) -> Row:
    made = [row.value is not None, row.command is not None, bool(row.parts)]
    require(sum(made) == 1, f"{where}: give one of value, command and parts")
    if row.command is not None and row.command not in METHODS:
        raise ValueError(f"{where}: the command {row.command!r} is unknown; choose from {', '.join(METHODS)}")
    for other in row.needs():
        require(other in before, f"{where}: needs {other!r}, which must stand above it")
    require(len(row.sweep) <= 1, f"{where}: a sweep is over one setting, and not over {', '.join(row.sweep)}")
    return row


def chosen_rows(table: dict[str, Row], names: list[str]) -> dict[str, Row]:
    """Some rows of a table, and those that they need, in the table's order; all if none is named.

    Raises:
        ValueError: a name is not in the table.
    """
    if unknown := [name for name in names if name not in table]:
        raise ValueError(f"--rows: {unknown[0]!r} is unknown; choose from {', '.join(table)}")
    wanted = set(names or table)
    for name in list(table)[::-1]:  # what a row needs stands above it
        if name in wanted:
            wanted |= set(table[name].needs())
    return {name: row for name, row in table.items() if name in wanted}
