"""Writing where it is safe: folders proven writable, files that appear whole or not at all."""

import json
import os
import tempfile
from pathlib import Path


def make_output_dir(path: Path, *, flag: str = "--output_dir") -> None:
    """Make a folder, and prove that it can be written, before any work is spent.

    Raises:
        OSError: it cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path, prefix=".write-test.")
    except OSError as error:
        raise OSError(f"{flag} {path} cannot be written ({error.strerror}); give another folder") from error
    os.close(handle)
    Path(name).unlink()


def write_atomically(path: Path, write) -> None:
    """Call `write(temporary)` and move the file into place: readers see the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


SETTINGS = "settings.json"


def keep_settings(folder: Path, settings: dict, *, flag: str = "--output_dir") -> None:
    """Write a folder's settings.json, or compare with what is there, so that no results of others are mixed in.

    Raises:
        ValueError: the folder was made with other settings.
    """
    settings, path = json.loads(json.dumps(settings, default=str)), folder / SETTINGS
    if not path.is_file():
        text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return
    then = json.loads(path.read_text(encoding="utf-8"))
    different = [name for name in settings.keys() | then.keys() if settings.get(name) != then.get(name)]
    if different:
        name = min(different)
        raise ValueError(
            f"{flag} {folder} was made with {name} {then.get(name)!r}, and not {settings.get(name)!r}; "
            f"choose another {flag}"
        )
