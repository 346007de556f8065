"""The package as it ships: its names, version, size, imports and console script."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import reneg

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "reneg"
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if path.stem != "__main__"
]
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "matplotlib"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def test_exported_names_are_sorted():
    assert list(reneg.__all__) == sorted(reneg.__all__)


def test_exported_names_are_complete():
    for name in reneg.__all__:
        assert hasattr(reneg, name), f"reneg.__all__ names {name}, which does not exist"
    public = {
        name
        for name, value in vars(reneg).items()
        if not name.startswith("_") and not inspect.ismodule(value) and inspect.getmodule(value) is not None
    }
    assert public <= set(reneg.__all__)


def test_version_is_the_changelogs_newest():
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert reneg.__version__ == newest[1]


def test_version_is_the_citations():
    assert f"\nversion: {reneg.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_import_is_light():
    code = f"import sys, reneg; print(*({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_console_script_shows_help_without_heavy_imports():
    script = Path(sysconfig.get_path("scripts")) / "reneg"
    command = [sys.executable, "-X", "importtime", str(script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for subcommand in ("learn", "generate", "evaluate", "inspect", "convert", "merge"):
        assert subcommand in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert imported & HEAVY == set()


@pytest.mark.parametrize("module", MODULES)
def test_module_imports(module: str):
    importlib.import_module(module)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_are_short(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{path.name}:{node.lineno} {node.name} has {lines} lines"
