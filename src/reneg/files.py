"""Writing where it is safe: folders proven writable, files that appear whole or not at all."""

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
