"""Results without the folders of the machine that made them."""

import json
import re
from pathlib import Path
from typing import Any

ABSOLUTE = re.compile(r"(?<![\w.])/(?:[^/\s=]+/)+(?=[^/\s=]+/[^/\s=]+)")
"""What of a path tells the machine: all but its last two parts."""


def portable(value: Any) -> Any:
    """A JSON value with short paths."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    return ABSOLUTE.sub("", value) if isinstance(value, str) else value


def write_results(path: Path, results: dict) -> None:
    """A result file as it is committed."""
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
