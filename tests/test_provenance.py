import subprocess
from pathlib import Path

import pytest

from reneg import __version__, provenance
from reneg.provenance import code_version


@pytest.fixture(autouse=True)
def fresh() -> None:
    code_version.cache_clear()


def test_names_the_version() -> None:
    assert code_version().startswith(__version__)


def test_names_the_commit_of_its_own_checkout_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "reneg"
    package.mkdir(parents=True)
    (package / "provenance.py").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout[:12]
    assert code_version() == f"{__version__}@{commit}"
    (package / "provenance.py").write_text("edited")
    code_version.cache_clear()
    assert code_version() == f"{__version__}@{commit}+changes"
    # Installed into an environment inside another project's checkout.
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "lib" / "reneg" / "provenance.py"))
    (tmp_path / "lib" / "reneg").mkdir(parents=True)
    code_version.cache_clear()
    assert code_version() == __version__


def test_does_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_version() == __version__
