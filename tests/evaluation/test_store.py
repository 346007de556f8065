"""Shards: whole or absent, whatever the batch size, and keys that tell contents apart."""

import numpy as np
import pytest

from reneg.evaluation.store import Shards, content_key, fingerprint


def fill(store, batch_size, stop=None):
    for count, rows in enumerate(store.missing(batch_size)):
        if count == stop:
            return
        store.write(rows.start, np.array([[row, row * row] for row in rows]))


def test_rows_come_back_in_any_order(tmp_path):
    store = Shards(tmp_path, 10)
    fill(store, 4)
    assert store.read([7, 0, 3])[:, 1].tolist() == [49, 0, 9]


@pytest.mark.parametrize("stop", range(4))
def test_what_is_missing_is_found_again_with_another_batch_size(tmp_path, stop):
    fill(Shards(tmp_path, 10), 3, stop)
    again = Shards(tmp_path, 10)
    assert len(again) == min(3 * stop, 10)
    fill(again, 4)
    (tmp_path / "0000003-0003.npy").unlink(missing_ok=True)
    last = Shards(tmp_path, 10)
    fill(last, 2)
    assert Shards(tmp_path, 10).read(range(10))[:, 1].tolist() == [row * row for row in range(10)]
    assert list(last.missing(2)) == []


def test_a_part_of_a_file_is_never_a_shard(tmp_path):
    (tmp_path / ".0000000-0004.npy.k3j2h1").write_bytes(b"half")
    assert len(Shards(tmp_path, 10)) == 0


def test_a_damaged_shard_is_named(tmp_path):
    store = Shards(tmp_path, 4)
    fill(store, 4)
    (tmp_path / "0000000-0004.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"0000000-0004.npy is damaged .*delete it"):
        store.read([0])


def test_keys_and_fingerprints(tmp_path):
    assert content_key({"a": 1, "b": [2]}) == content_key({"b": [2], "a": 1}) != content_key({"a": 1, "b": [3]})
    for name in ("one", "two"):
        (tmp_path / name / "part").mkdir(parents=True)
        (tmp_path / name / "part" / "weights").write_text("same")
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    (tmp_path / "two" / "part" / "weights").write_text("other")
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")
    assert fingerprint("owner/name") == "owner/name"
