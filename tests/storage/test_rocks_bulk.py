"""Bulk loads: rows in order become one version, at once or not at all, whatever happens on the way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache_storage.rocks import RocksOptions, RocksStore
from embcache_storage.store import BulkLoad, StoreError, VersionExists, VersionGone
from tests.storage.support import EDGE_IDS, assert_holds, fill, random_ids, rows_of, run_until, scan_all

SMALL_FILES = RocksOptions(sst_bytes=64 << 10)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksStore]:
    store = RocksStore(tmp_path / "data", SMALL_FILES)
    yield store
    store.close()


def files_of(store: RocksStore) -> list[str]:
    return sorted(str(file.relative_to(store.path)) for file in store.path.rglob("*.sst"))


def staged(store: RocksStore) -> list[Path]:
    return list(store.path.glob("staging/*"))


def test_rows_go_into_several_files(store: RocksStore) -> None:
    ids = random_ids(5000)
    fill(store, 1, ids, 64)
    assert len(files_of(store)) > 3
    assert_holds(store, 1, ids, 64)
    np.testing.assert_array_equal(scan_all(store, 1, 64)[0], ids)


def test_nothing_is_seen_before_the_commit(store: RocksStore) -> None:
    load: BulkLoad = store.bulk(1, 16)
    load.add(EDGE_IDS, rows_of(EDGE_IDS, 16))
    assert load.rows == len(EDGE_IDS)
    assert store.versions() == []
    with pytest.raises(VersionGone):
        store.read(1, 16, EDGE_IDS)
    assert load.commit() == len(EDGE_IDS)
    assert store.versions() == [1]
    assert_holds(store, 1, EDGE_IDS, 16)
    assert not staged(store)


def test_a_load_of_no_rows_makes_an_empty_version(store: RocksStore) -> None:
    with store.bulk(1, 16) as load:
        load.add(np.empty(0, np.uint64), np.empty((0, 16), np.uint8))
        assert load.commit() == 0
    assert (store.versions(), store.count(1)) == ([1], 0)


def test_an_aborted_load_leaves_nothing(store: RocksStore) -> None:
    ids = random_ids(5000)
    load = store.bulk(1, 64)
    load.add(ids, rows_of(ids, 64))
    assert staged(store)
    load.abort()
    load.abort()
    assert (store.versions(), staged(store), files_of(store)) == ([], [], [])
    fill(store, 1, ids, 64)
    assert_holds(store, 1, ids, 64)


def test_the_end_of_the_block_aborts_what_was_not_committed(store: RocksStore) -> None:
    with store.bulk(1, 16) as load:
        load.add(EDGE_IDS, rows_of(EDGE_IDS, 16))
    assert (store.versions(), staged(store)) == ([], [])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1, 2], [2, 3], "id 2 comes after id 2"),
        ([1, 9], [3, 4], "id 3 comes after id 9"),
        ([], [1, 5, 4], "id 4, at index 2, comes after id 5"),
        ([], [1, 1], "id 1, at index 1, comes after id 1"),
        ([2**64 - 1], [0], "id 0 comes after id 18446744073709551615"),
    ],
)
def test_ids_out_of_order_are_named(store: RocksStore, first: list[int], second: list[int], message: str) -> None:
    load = store.bulk(1, 8)
    ids = np.array(first, np.uint64)
    load.add(ids, rows_of(ids, 8))
    ids = np.array(second, np.uint64)
    with pytest.raises(ValueError, match=message):
        load.add(ids, rows_of(ids, 8))
    with pytest.raises(StoreError, match="failed; begin another"):
        load.commit()
    load.abort()
    assert (store.versions(), staged(store)) == ([], [])


def test_wrong_shapes_are_refused(store: RocksStore) -> None:
    rows = rows_of(EDGE_IDS, 16)
    wrong: list[tuple[Any, Any]] = [
        (EDGE_IDS, rows[:-1]),
        (EDGE_IDS, rows[:, :-1]),
        (EDGE_IDS, rows.astype(np.int8)),
        (EDGE_IDS.astype(np.int64), rows),
    ]
    for ids, wrong_rows in wrong:
        with store.bulk(1, 16) as load, pytest.raises(ValueError, match="must be uint"):
            load.add(ids, wrong_rows)


def test_two_loads_of_one_version(store: RocksStore) -> None:
    first, second = store.bulk(1, 16), store.bulk(1, 16)
    first.add(EDGE_IDS, rows_of(EDGE_IDS, 16))
    second.add(EDGE_IDS, rows_of(EDGE_IDS, 16, salt=1))
    first.commit()
    with pytest.raises(VersionExists):
        second.commit()
    second.abort()
    assert_holds(store, 1, EDGE_IDS, 16)
    assert not staged(store)


def test_loads_go_on_beside_each_other(store: RocksStore) -> None:
    ids = random_ids(4000)
    loads = {version: store.bulk(version, 32) for version in (1, 2, 3)}
    for start in range(0, len(ids), 500):
        for version, load in loads.items():
            load.add(ids[start : start + 500], rows_of(ids[start : start + 500], 32, salt=version))
    for load in loads.values():
        load.commit()
    for version in loads:
        np.testing.assert_array_equal(store.read(version, 32, ids)[0], rows_of(ids, 32, salt=version))


KILLED_IN_A_LOAD = """
import numpy as np
from embcache_storage.rocks import RocksOptions, RocksStore
from embcache_storage.store import Change
from tests.storage.support import EDGE_IDS, fill, random_ids, rows_of
store = RocksStore(path, RocksOptions(sst_bytes=64 << 10))
fill(store, 1, EDGE_IDS, 64)
store.commit([Change(1, EDGE_IDS[:3], rows_of(EDGE_IDS[:3], 64))])
load = store.bulk(2, 64)
ids = random_ids(20_000)
for start in range(0, len(ids), 1000):
    load.add(ids[start:start + 1000], rows_of(ids[start:start + 1000], 64))
    print(f"added {start}", flush=True)
load.commit()
print("committed", flush=True)
input()
"""


@pytest.mark.parametrize("start", [0, 15_000])
def test_a_process_killed_in_a_load_leaves_nothing_of_it(tmp_path: Path, start: int) -> None:
    run_until(f"added {start}", KILLED_IN_A_LOAD, tmp_path)
    assert list(tmp_path.glob("staging/*"))
    store = RocksStore(tmp_path, SMALL_FILES)
    assert store.versions() == [1]
    assert_holds(store, 1, EDGE_IDS, 64)
    assert not staged(store)
    assert len(files_of(store)) <= 6  # of version 1 and of meta values; the load had 18 after 15,000 rows
    ids = random_ids(3000)
    fill(store, 2, ids, 64)
    assert_holds(store, 2, ids, 64)
    store.close()


def test_a_process_killed_after_a_commit_leaves_all_of_it(tmp_path: Path) -> None:
    run_until("committed", KILLED_IN_A_LOAD, tmp_path)
    store = RocksStore(tmp_path, SMALL_FILES)
    assert store.versions() == [1, 2]
    assert_holds(store, 2, random_ids(20_000), 64)
    assert store.count(2) == 20_000
    store.close()


FULL_DISK = """
import sys
import time
import numpy as np
from pathlib import Path
from embcache_storage.rocks import RocksOptions, RocksStore
from embcache_storage.store import Change, StoreFull
from tests.storage.support import assert_holds, fill, random_ids, rows_of
# RocksDB writes again once there is room for all that it may keep in memory, so let that be little.
store = RocksStore(Path(sys.argv[1]), RocksOptions(write_buffer=1 << 20))
ids = random_ids(2000)
fill(store, 1, ids, 256)
many = random_ids(200_000)
try:
    fill(store, 2, many, 256)
except StoreFull as error:
    print(error)
assert store.versions() == [1], store.versions()
assert_holds(store, 1, ids, 256)
fill(store, 2, ids, 256)
ballast = Path(sys.argv[1]) / "ballast"
refused = 0
with ballast.open("wb", 0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
for call in (
    lambda: store.commit([Change(2, ids, rows_of(ids, 256, salt=1))]),
    lambda: store.put_meta("catalogue", bytes(100_000)),
    lambda: store.create(3, 256),
):
    try:
        call()
    except StoreFull:
        refused += 1
assert_holds(store, 2, ids, 256)
assert store.get_meta("catalogue") is None
assert store.versions() == [1, 2], store.versions()
ballast.unlink()
began = time.monotonic()
while True:
    try:
        store.commit([Change(2, ids, rows_of(ids, 256))])
        break
    except StoreFull:
        assert time.monotonic() - began < 30, "the store does not notice that there is room again"
        time.sleep(0.05)
print("writes again after", time.monotonic() - began, "s")
store.put_meta("catalogue", b"new")
store.create(4, 256)
assert_holds(store, 2, ids, 256)
store.close()
store = RocksStore(Path(sys.argv[1]))
assert_holds(store, 2, ids, 256)
assert set(store.versions()) - {3} == {1, 2, 4}, store.versions()  # 3 may have come to be, empty
assert (store.get_meta("catalogue"), refused) == (b"new", 3), refused
store.close()
print("fine")
"""


def test_a_full_disk_costs_the_call_and_nothing_else(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=24m none {tmp_path} && exec {sys.executable} -c '{FULL_DISK}' {tmp_path}/data"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system of its own here: {done.stderr.strip()}")
    assert done.stdout.rstrip().endswith("fine"), done.stderr
    assert "No space left" in done.stdout
