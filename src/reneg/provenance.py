"""Which version of the code made something."""

import subprocess
from functools import lru_cache
from pathlib import Path

from reneg import __version__


@lru_cache
def code_version() -> str:
    """`version`, or `version@commit` in a git checkout of this package, with `+changes` when files were edited."""
    package = Path(__file__).parent
    root = _git(package, "rev-parse", "--show-toplevel")
    # A package installed inside another project's checkout must not take that project's commit.
    if root is None or Path(root) / "src" / "reneg" != package.resolve():
        return __version__
    commit = _git(package, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return __version__
    changes = "+changes" if _git(package, "status", "--porcelain", "--untracked-files=no", ".") else ""
    return f"{__version__}@{commit}{changes}"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
