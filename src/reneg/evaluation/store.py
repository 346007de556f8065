"""Arrays on disk in shards, so that an interrupted evaluation continues where it stopped.

Everything is kept under a key: a hash of all that determines the content. Other settings get another key, and never
mix with what is there. A shard appears whole or not at all.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy import ndarray

from reneg.files import write_atomically

ABSENT = -1
"""Stands for the shard of a row that is not there."""


def content_key(content: dict[str, object]) -> str:
    """A short name for what determines some content, equal only if all of it is."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def fingerprint(source: Path | str) -> str:
    """What identifies weights: the hash of a file or of a folder's files, wherever it lies; a hub id is its own."""
    folder = Path(source)
    if folder.is_file():
        return _file_hash(folder)
    if not folder.is_dir():
        return str(source)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {_file_hash(path)}\n".encode())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Shards:
    """Rows 0 … total - 1 of an array, each in one of some files named by the first row and the number of rows."""

    def __init__(self, folder: Path, total: int):
        self.folder, self.total = folder, total
        self._first = np.full(total, ABSENT, dtype=np.int32)
        self._count = np.zeros(total, dtype=np.int32)
        self.refresh()

    def refresh(self) -> None:
        """Find what is there, the shards of other processes too."""
        for path in sorted(self.folder.glob("*.npy")):
            self._register(*map(int, path.stem.split("-")))

    def _register(self, first: int, count: int) -> None:
        self._first[first : first + count] = first
        self._count[first : first + count] = count

    def _path(self, first: int, count: int) -> Path:
        return self.folder / f"{first:07d}-{count:04d}.npy"

    def __len__(self) -> int:
        """How many rows are there."""
        return int((self._first != ABSENT).sum())

    def missing(self, batch_size: int) -> Iterator[range]:
        """Runs of rows that are not there yet, none longer than the batch size."""
        first = 0
        while first < self.total:
            stop = first
            while stop < min(first + batch_size, self.total) and self._first[stop] == ABSENT:
                stop += 1
            if stop > first:
                yield range(first, stop)
            first = max(stop, first + 1)

    def write(self, first: int, rows: ndarray) -> None:
        """Store some consecutive rows."""
        path = self._path(first, len(rows))

        def save(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.save(file, rows, allow_pickle=False)

        write_atomically(path, save)
        self._register(first, len(rows))

    def read(self, rows: Sequence[int]) -> ndarray:
        """Some rows, in the order asked for.

        Raises:
            ValueError: a file is damaged.
        """
        found, open_path, shard = [], None, np.empty(0)
        for row in rows:
            first, count = int(self._first[row]), int(self._count[row])
            path = self._path(first, count)
            if path != open_path:  # one open file at a time, however many there are
                open_path, shard = path, _open(path)
            found.append(np.array(shard[row - first]))
        return np.stack(found)


def _open(path: Path) -> ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and it is made again") from error
