"""Damage on disk and after crashes: a row that cannot be trusted is never served, and nothing else is lost with it."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embcache_storage.rocks import RocksOptions, RocksStore
from embcache_storage.store import ABSENT, DAMAGED, FOUND, StoreCorrupt, StoreError, StoreTimeout
from tests.storage.support import EDGE_IDS, assert_holds, fill, random_ids, rows_of, run_until, scan_all

IDS = random_ids(4000)
ROW_BYTES = 64
SMALL_FILES = RocksOptions(sst_bytes=64 << 10)


def make(path: Path) -> list[Path]:
    """A closed store with IDS in version 1 and EDGE_IDS in version 2; returns the files of version 1."""
    store = RocksStore(path, SMALL_FILES)
    fill(store, 1, IDS, ROW_BYTES)
    files = sorted(path.glob("*.sst"))
    fill(store, 2, EDGE_IDS, ROW_BYTES)
    store.close()
    return files


def flip(file: Path, at: int, bit: int = 0) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ (1 << bit)]))


def records_of(log: bytes) -> list[int]:
    """Offsets of the log's records: checksum u32, length u16, type u8, payload; none crosses a block of 32 KiB."""
    offsets = []
    at = 0
    while at + 7 <= len(log):
        if 32_768 - at % 32_768 < 7:
            at += 32_768 - at % 32_768
            continue
        offsets.append(at)
        at += 7 + int.from_bytes(log[at + 4 : at + 6], "little")
    return offsets


def check_rows(store: RocksStore) -> int:
    """Every row of version 1 is sound or said to be damaged, all others are sound; returns the damaged ones."""
    rows, state = store.read(1, ROW_BYTES, IDS)
    sound = state == FOUND
    assert np.all(sound | (state == DAMAGED)), "a row was taken for absent"
    np.testing.assert_array_equal(rows, rows_of(IDS, ROW_BYTES) * sound[:, None])
    assert_holds(store, 2, EDGE_IDS, ROW_BYTES)
    return int(np.sum(~sound))


def test_a_flipped_bit_of_a_running_store_costs_the_rows_of_its_block(tmp_path: Path) -> None:
    files = make(tmp_path)
    store = RocksStore(tmp_path, SMALL_FILES)
    flip(files[0], 20_000)
    damaged = check_rows(store)
    assert 0 < damaged <= 1 + 1024 // ROW_BYTES
    bad = IDS[store.read(1, ROW_BYTES, IDS)[1] == DAMAGED]
    before = int(bad[0]) - 1
    with pytest.raises(StoreCorrupt, match="cannot be read"):
        scan_all(store, 1, ROW_BYTES)
    with pytest.raises(StoreCorrupt, match=f"from id {before} on"):
        store.scan(1, ROW_BYTES, before, 10)
    following = IDS[bad[-1] < IDS][:10]
    assert store.scan(1, ROW_BYTES, int(following[0]), 10)[0].tolist() == following.tolist()
    store.close()


def test_a_row_that_does_not_match_its_checksum_is_damaged(tmp_path: Path) -> None:
    """Blocks have checksums too, but a row may be damaged before it ever gets into a block."""
    store = RocksStore(tmp_path)
    fill(store, 1, EDGE_IDS, 16)
    handle = store._families._families[1].handle
    cell = bytearray(handle.get(int(EDGE_IDS[3]).to_bytes(8, "big")))
    cell[11] ^= 4
    handle[int(EDGE_IDS[3]).to_bytes(8, "big")] = bytes(cell)
    handle[int(EDGE_IDS[5]).to_bytes(8, "big")] = handle.get(int(EDGE_IDS[4]).to_bytes(8, "big"))
    rows, state = store.read(1, 16, EDGE_IDS)
    assert np.flatnonzero(state == DAMAGED).tolist() == [3, 5]
    assert not rows[[3, 5]].any()
    with pytest.raises(StoreCorrupt, match=f"id {EDGE_IDS[3]} is damaged") as caught:
        store.scan(1, 16, 0, 100)
    assert caught.value.ids == (EDGE_IDS[3], EDGE_IDS[5])
    store.close()


def test_no_flipped_bit_of_a_table_file_gives_a_wrong_row(tmp_path: Path) -> None:
    file = make(tmp_path / "whole")[0]
    size = file.stat().st_size
    places = random.Random(0)
    # Anywhere, and once more near the end, where filter, index and properties lie.
    offsets = [places.randrange(size) for _ in range(6)] + [size - 1 - places.randrange(12_000) for _ in range(12)]
    for at in [*offsets, size - 1, size - 30, size - 60]:
        broken = shutil.copytree(tmp_path / "whole", tmp_path / f"broken-{at}")
        flip(broken / file.name, at, places.randrange(8))
        store = RocksStore(broken, SMALL_FILES)
        assert check_rows(store) < len(IDS)
        store.close()
        shutil.rmtree(broken)


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _empty(file: Path) -> None:
    os.truncate(file, 0)


@pytest.mark.parametrize("harm", [_cut, _empty, Path.unlink])
def test_a_lost_table_file_costs_its_rows(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    files = make(tmp_path)
    harm(files[1])
    store = RocksStore(tmp_path, SMALL_FILES)
    assert 0 < check_rows(store) < len(IDS)
    assert store.read(1, ROW_BYTES, IDS[:5] + np.uint64(1))[1].tolist() == [ABSENT] * 5
    with pytest.raises(StoreCorrupt, match="cannot be read"):
        scan_all(store, 1, ROW_BYTES)
    # The way out: the table again, as a new version.
    fill(store, 3, IDS, ROW_BYTES)
    store.drop(1)
    store.put_meta("catalogue", b"3")
    store.close()
    store = RocksStore(tmp_path, SMALL_FILES)
    assert_holds(store, 3, IDS, ROW_BYTES)
    assert store.versions() == [2, 3]
    store.close()


def test_a_table_file_cut_under_a_running_store_costs_its_rows(tmp_path: Path) -> None:
    files = make(tmp_path)
    store = RocksStore(tmp_path, SMALL_FILES)
    _cut(files[1])
    assert 0 < check_rows(store) < len(IDS)
    store.close()


def test_a_lost_table_file_costs_its_rows_after_a_crash_too(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "running", SMALL_FILES)
    fill(store, 1, IDS, ROW_BYTES)
    files = sorted((tmp_path / "running").glob("*.sst"))
    fill(store, 2, EDGE_IDS, ROW_BYTES)
    fill(store, 3, EDGE_IDS, ROW_BYTES)
    store.put_meta("catalogue", b"known")
    store.drop(3)
    crashed = shutil.copytree(tmp_path / "running", tmp_path / "crashed")
    store.close()
    _cut(crashed / files[1].name)
    store = RocksStore(crashed, SMALL_FILES)
    assert 0 < check_rows(store) < len(IDS)
    assert (store.versions(), store.get_meta("catalogue"), store.count(1)) == ([1, 2], b"known", len(IDS))
    store.close()


# --- the head of the database -----------------------------------------------------------------------------------


def manifest_of(path: Path) -> Path:
    return path / (path / "CURRENT").read_text().strip()


@pytest.mark.parametrize("harm", [_cut, _empty, Path.unlink])
@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST"])
def test_a_database_without_its_head_is_refused_and_left_as_it_is(
    tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    make(tmp_path)
    before = {file: file.stat().st_size for file in tmp_path.glob("*.sst")}
    harm(manifest_of(tmp_path) if name == "MANIFEST" else tmp_path / "CURRENT")
    for _ in range(2):  # RocksDB itself would be at peace with what it made at the first attempt
        with pytest.raises(StoreCorrupt, match=str(tmp_path)):
            RocksStore(tmp_path)
    assert {file: file.stat().st_size for file in tmp_path.glob("*.sst")} == before


def test_no_flipped_bit_of_the_manifest_is_taken_for_an_older_state(tmp_path: Path) -> None:
    make(tmp_path / "whole")
    manifest = manifest_of(tmp_path / "whole")
    places = random.Random(0)
    headers = [start + offset for start in records_of(manifest.read_bytes()) for offset in (4, 5, 6)]
    for at in places.sample(headers, 30) + places.sample(range(manifest.stat().st_size), 10):
        broken = shutil.copytree(tmp_path / "whole", tmp_path / f"broken-{at}")
        flip(broken / manifest.name, at, places.randrange(8))
        with pytest.raises(StoreCorrupt, match=manifest.name):
            RocksStore(broken)
        shutil.rmtree(broken)


# --- the write-ahead log ----------------------------------------------------------------------------------------

KILLED_AFTER_WRITES = """
import numpy as np
from embcache_storage.rocks import RocksStore
from embcache_storage.store import Change
from tests.storage.support import rows_of
store = RocksStore(path)
store.create(1, 3000)
for id_ in range(60):
    ids = np.array([id_], np.uint64)
    store.commit([Change(1, ids, rows_of(ids, 3000))])
store.put_meta("catalogue", b"known")
print("written", flush=True)
input()
"""


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store that was killed with 60 rows in its log, ids 0 to 59, each written by itself."""
    path = tmp_path_factory.mktemp("crashed")
    run_until("written", KILLED_AFTER_WRITES, path)
    return path


def log_of(path: Path) -> Path:
    return max(path.glob("*.log"), key=lambda log: log.stat().st_size)


def test_a_killed_process_loses_nothing_that_it_wrote(crashed: Path, tmp_path: Path) -> None:
    path = shutil.copytree(crashed, tmp_path / "data")
    store = RocksStore(path)
    assert_holds(store, 1, np.arange(60, dtype=np.uint64), 3000)
    assert store.get_meta("catalogue") == b"known"
    store.close()


def test_a_log_that_breaks_off_gives_all_rows_before_the_break(crashed: Path, tmp_path: Path) -> None:
    size = log_of(crashed).stat().st_size
    for cut in (1, 20, 5000, size // 2):
        path = shutil.copytree(crashed, tmp_path / f"cut-{cut}")
        os.truncate(log_of(path), size - cut)
        store = RocksStore(path)
        ids = scan_all(store, 1, 3000)[0]
        np.testing.assert_array_equal(ids, np.arange(len(ids)))
        assert len(ids) >= (60 if cut <= 20 else 1)
        assert_holds(store, 1, ids, 3000)
        store.close()


@pytest.mark.parametrize("part", ["checksum", "length", "payload"])
def test_damage_within_the_log_is_refused(crashed: Path, tmp_path: Path, part: str) -> None:
    path = shutil.copytree(crashed, tmp_path / "data")
    log = log_of(path)
    record = records_of(log.read_bytes())[30]
    flip(log, record + {"checksum": 1, "length": 4, "payload": 50}[part])
    with pytest.raises(StoreCorrupt, match=rf"{path}.*{log.name}.*restore a backup"):
        RocksStore(path)


@pytest.mark.parametrize("back", [1, 2, 5])
def test_a_last_record_that_says_it_is_longer_is_not_taken_for_one_that_was_cut_off(
    crashed: Path, tmp_path: Path, back: int
) -> None:
    """RocksDB would open without that record and what follows, and say nothing."""
    log = log_of(crashed)
    record = records_of(log.read_bytes())[-back]
    for bit in range(16):
        path = shutil.copytree(crashed, tmp_path / f"bit-{bit}")
        flip(path / log.name, record + 4 + bit // 8, bit % 8)
        with pytest.raises(StoreCorrupt, match=rf"{log.name}.*restore a backup"):
            RocksStore(path)


@pytest.mark.parametrize("kind", [0, 5, 6, 8, 11, 130])
def test_a_record_type_that_makes_rocksdb_spin_is_refused_at_once(crashed: Path, tmp_path: Path, kind: int) -> None:
    path = shutil.copytree(crashed, tmp_path / "data")
    log = log_of(path)
    record = records_of(log.read_bytes())[30]
    with log.open("r+b") as opened:
        opened.seek(record + 6)
        opened.write(bytes([kind]))
    with pytest.raises(StoreCorrupt, match=f"{log.name} is damaged: at byte {record} is a record of type {kind}"):
        RocksStore(path)


def test_a_recovery_that_does_not_end_is_given_up(
    crashed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(crashed, tmp_path / "data")
    spinning = tmp_path / "python"
    spinning.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 1000\n")
    spinning.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(spinning))
    with pytest.raises(StoreTimeout, match=r"within 0\.5 s.*restore a backup"):
        RocksStore(path, RocksOptions(open_timeout_s=0.5))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_recovery_that_dies_says_so(crashed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shutil.copytree(crashed, tmp_path / "data")
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho out of luck >&2\nkill -9 $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(StoreError, match="ended with -9: out of luck"):
        RocksStore(path)
