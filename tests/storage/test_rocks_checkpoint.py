"""Copies of a database that another process writes: what a kill would have left, and nothing shared that may change."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embcache_storage import rocks_checkpoint
from embcache_storage.rocks import RocksOptions, RocksStore
from embcache_storage.rocks_checkpoint import size_of, take
from embcache_storage.store import Change, StoreCorrupt, StoreError
from tests.storage.support import EDGE_IDS, assert_holds, fill, random_ids, recovery_in_process, rows_of

IDS = random_ids(2000)
ROW_BYTES = 64
SMALL_FILES = RocksOptions(sst_bytes=64 << 10)

# Entry n of the log says n; the commit after it sets all rows of version 1 to the salt n, and a meta value to n.
WRITES = """
import itertools, numpy as np
from embcache_storage.rocks import RocksOptions, RocksStore
from embcache_storage.store import Change
from tests.storage.support import rows_of
store = RocksStore(path, RocksOptions(write_buffer=1 << 20))
store.create(1, 64)
store.create(2, 64)
ids = np.arange(200, dtype=np.uint64)
for n in itertools.count(1):
    store.log.append([b"%d" % n])
    changes = [Change(version, ids, rows_of(ids, 64, n)) for version in (1, 2)]
    store.commit(changes, {"n": b"%d" % n})
    if n % 40 == 0:
        store.flush_all()
    if n % 100 == 0:
        with store.bulk(2 + n // 100, 64) as load:
            load.add(ids, rows_of(ids, 64))
            load.commit()
    if n == 50:
        print("writing", flush=True)
"""


def quiet(what: str, done: int, total: int) -> None:
    pass


def test_each_copy_of_a_database_under_writes_is_one_instant_of_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    command = [sys.executable, "-c", f"path = {str(source)!r}\n{WRITES}"]
    ids = np.arange(200, dtype=np.uint64)
    before = 0
    with (
        recovery_in_process(),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as writer,
    ):
        assert writer.stdout is not None
        try:
            assert writer.stdout.readline() == "writing\n"
            for turn in range(5):
                copy = tmp_path / f"copy-{turn}"
                assert take(source, copy, quiet) == []
                with_store = RocksStore(copy)
                n = int(with_store.get_meta("n") or 0)
                assert with_store.log.last in (n, n + 1)
                assert n >= max(50, before), "what was there at the beginning is in the copy"
                for version in (1, 2):
                    rows, _ = with_store.read(version, 64, ids)
                    np.testing.assert_array_equal(rows, rows_of(ids, 64, n))
                assert [entry.payload for entry in with_store.log.read(n - 1, 1)] == [b"%d" % n]
                with_store.close()
                before = n
        finally:
            writer.kill()
    store = RocksStore(source)
    assert int(store.get_meta("n") or 0) >= before
    store.close()


def test_only_files_that_never_change_are_shared(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "source", SMALL_FILES)
    fill(store, 1, IDS, ROW_BYTES)
    store.commit([Change(1, EDGE_IDS, rows_of(EDGE_IDS, ROW_BYTES))])
    stranger = tmp_path / "source" / "000900.sst"  # such as one that is being written
    stranger.write_bytes(b"half a file")
    take(tmp_path / "source", tmp_path / "copy", quiet)
    shared = {path.name for path in (tmp_path / "copy").iterdir() if path.stat().st_nlink > 1}
    assert shared == {path.name for path in (tmp_path / "source").glob("*.sst")} - {stranger.name}
    assert not (tmp_path / "copy" / stranger.name).exists()
    copy = RocksStore(tmp_path / "copy", SMALL_FILES)
    for number in range(5):
        copy.commit([Change(1, IDS, rows_of(IDS, ROW_BYTES, number))])
        copy.flush_all()
    copy.close()
    assert stranger.read_bytes() == b"half a file"
    assert_holds(store, 1, IDS, ROW_BYTES)
    store.close()


def test_where_no_link_can_be_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RocksStore(tmp_path / "source", SMALL_FILES)
    fill(store, 1, IDS, ROW_BYTES)

    def no_link(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", no_link)
    told: list[tuple[str, int, int]] = []
    take(tmp_path / "source", tmp_path / "copy", lambda *at: told.append(at))
    store.close()
    assert told[-1][1] == told[-1][2] >= len(IDS) * ROW_BYTES
    assert {path.stat().st_nlink for path in (tmp_path / "copy").iterdir()} == {1}
    copy = RocksStore(tmp_path / "copy")
    assert_holds(copy, 1, IDS, ROW_BYTES)
    copy.close()


def test_a_move_to_another_file_system_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "file").write_bytes(b"content")

    def elsewhere(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(Path, "rename", elsewhere)
    rocks_checkpoint.move(tmp_path / "from", tmp_path / "to", quiet)
    assert (tmp_path / "to" / "file").read_bytes() == b"content"
    assert size_of(tmp_path / "to") == (1, 7)


def test_a_head_that_changes_meanwhile_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RocksStore(tmp_path / "source", SMALL_FILES)
    fill(store, 1, IDS, ROW_BYTES)
    copied = shutil.copyfile
    turns = iter(range(3))

    def meanwhile(source: Path, target: Path) -> None:
        copied(source, target)
        if source.suffix == ".log" and (turn := next(turns, None)) is not None:
            store.commit([Change(1, IDS[:9], rows_of(IDS[:9], ROW_BYTES))], {"turn": b"%d" % turn})
            store.flush_all()

    monkeypatch.setattr(shutil, "copyfile", meanwhile)
    take(tmp_path / "source", tmp_path / "copy", quiet)
    copy = RocksStore(tmp_path / "copy")
    assert copy.get_meta("turn") == b"2", "the copy is of after the last change that came between"
    copy.close()
    store.close()


def test_what_is_lost_or_no_database_is_told(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "source", SMALL_FILES)
    fill(store, 1, IDS, ROW_BYTES)
    store.close()
    file = sorted((tmp_path / "source").glob("*.sst"))[1]
    file.unlink()
    assert take(tmp_path / "source", tmp_path / "lost", quiet) == [file.name]
    (tmp_path / "source" / (tmp_path / "source" / "CURRENT").read_text().strip()).unlink()
    with pytest.raises(StoreCorrupt, match="MANIFEST"):
        take(tmp_path / "source", tmp_path / "headless", quiet)
    with pytest.raises(StoreError, match="holds no rows"):
        take(tmp_path, tmp_path / "none", quiet)
