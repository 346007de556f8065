from pathlib import Path

import pytest

from reneg.files import make_output_dir, write_atomically


def test_an_output_folder_is_proven_writable_and_left_clean(tmp_path):
    make_output_dir(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    before = path.read_bytes()

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_write_makes_folders_and_a_file_that_others_may_read(tmp_path: Path):
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, lambda temporary: temporary.write_text("whole"))
    assert path.read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]
