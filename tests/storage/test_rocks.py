"""RocksStore as a RowStore: versions, rows, scans, meta values, and who may do what when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xxhash
from rocksdict import Options, Rdict

from embcache_storage.rocks import RocksOptions, RocksStore
from embcache_storage.store import (
    ABSENT,
    FOUND,
    Change,
    RowStore,
    StoreClosed,
    StoreLocked,
    VersionExists,
    VersionGone,
)
from tests.storage.support import EDGE_IDS, assert_holds, fill, hammer, random_ids, rows_of, scan_all


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksStore]:
    store = RocksStore(tmp_path / "data")
    yield store
    store.close()


def reopened(store: RocksStore) -> RocksStore:
    store.close()
    return RocksStore(store.path)


def test_it_is_a_row_store(store: RocksStore) -> None:
    seam: RowStore = store
    assert seam.versions() == []


# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row_bytes", [1, 9, 64, 256, 5000])
@pytest.mark.parametrize("threads", [1, 5])
def test_rows_are_found_whatever_their_width_and_the_threads(tmp_path: Path, row_bytes: int, threads: int) -> None:
    ids = random_ids(3000)
    store = RocksStore(tmp_path, RocksOptions(threads=threads))
    fill(store, 1, ids, row_bytes)
    assert_holds(store, 1, ids, row_bytes)
    store.close()


def test_absent_ids_among_present_ones(store: RocksStore) -> None:
    ids = random_ids(2000)
    fill(store, 1, ids[::2], 16)
    rows, state = store.read(1, 16, ids)
    np.testing.assert_array_equal(state, np.where(np.arange(2000) % 2, ABSENT, FOUND))
    np.testing.assert_array_equal(rows, rows_of(ids, 16) * (state == FOUND)[:, None])


def test_ids_in_any_order_and_repeated(store: RocksStore) -> None:
    ids = random_ids(1000)
    fill(store, 1, ids, 16)
    asked = np.random.default_rng(1).choice(ids, 3000)
    rows, state = store.read(1, 16, asked)
    assert np.all(state == FOUND)
    np.testing.assert_array_equal(rows, rows_of(asked, 16))


def test_no_ids_at_all(store: RocksStore) -> None:
    store.create(1, 16)
    rows, state = store.read(1, 16, np.empty(0, np.uint64))
    assert (rows.shape, state.shape) == ((0, 16), (0,))


def test_arrays_as_they_come_out_of_a_message(store: RocksStore) -> None:
    fill(store, 1, EDGE_IDS, 16)
    payload = b"x" + EDGE_IDS.tobytes()
    unaligned = np.frombuffer(payload, np.uint64, offset=1)
    assert_holds(store, 1, unaligned, 16)
    assert_holds(store, 1, np.repeat(EDGE_IDS, 2)[::2], 16)


def test_edge_ids(store: RocksStore) -> None:
    fill(store, 1, EDGE_IDS, 16)
    assert_holds(store, 1, EDGE_IDS, 16)
    np.testing.assert_array_equal(scan_all(store, 1, 16, limit=2)[0], EDGE_IDS)


def test_rows_wider_than_a_thread_reads_at_once(store: RocksStore) -> None:
    ids = random_ids(40)
    fill(store, 1, ids, 1 << 18)
    assert_holds(store, 1, ids, 1 << 18)


def test_a_row_of_another_width_than_asked_for_is_damaged(store: RocksStore) -> None:
    fill(store, 1, EDGE_IDS, 16)
    rows, state = store.read(1, 24, EDGE_IDS)
    assert not rows.any()
    assert set(state.tolist()) == {2}


# --- versions ---------------------------------------------------------------------------------------------------


def test_versions_keep_their_rows_apart(store: RocksStore) -> None:
    store.create(1, 16)
    store.create(4_294_967_295, 16)
    store.commit([Change(1, EDGE_IDS, rows_of(EDGE_IDS, 16))])
    assert store.versions() == [1, 4_294_967_295]
    assert_holds(store, 1, EDGE_IDS, 16)
    assert not store.read(4_294_967_295, 16, EDGE_IDS)[1].any()


def test_versions_outlive_a_restart_known_to_anybody_or_not(store: RocksStore) -> None:
    fill(store, 3, EDGE_IDS, 16)
    store.create(1, 16)
    store = reopened(store)
    assert store.versions() == [1, 3]
    assert_holds(store, 3, EDGE_IDS, 16)
    store.close()


def test_a_version_is_created_once(store: RocksStore) -> None:
    store.create(1, 16)
    with pytest.raises(VersionExists, match="version 1 exists"):
        store.create(1, 16)
    with pytest.raises(VersionExists):
        store.bulk(1, 16)


def test_a_dropped_version_is_gone(store: RocksStore) -> None:
    fill(store, 1, EDGE_IDS, 16)
    fill(store, 2, EDGE_IDS, 16)
    store.drop(1)
    ids, rows = EDGE_IDS, rows_of(EDGE_IDS, 16)
    calls = (
        lambda: store.read(1, 16, ids),
        lambda: store.commit([Change(1, ids, rows)]),
        lambda: store.scan(1, 16, 0, 10),
        lambda: store.count(1),
        lambda: store.disk_bytes(1),
        lambda: store.drop(1),
    )
    for call in calls:
        with pytest.raises(VersionGone, match="version 1 does not exist"):
            call()
    store.commit([Change(2, ids, rows)])
    assert_holds(store, 2, EDGE_IDS, 16)
    store = reopened(store)
    assert store.versions() == [2]
    store.close()


def test_a_drop_while_reads_run_harms_nobody(store: RocksStore) -> None:
    ids = random_ids(5000)
    store.create(0, 64)
    for version in range(1, 6):
        fill(store, version, ids, 64)
        with hammer(partial(assert_holds, store, version, ids, 64), VersionGone):
            store.drop(version)
        store.commit([Change(0, EDGE_IDS, rows_of(EDGE_IDS, 64))])
    assert_holds(store, 0, EDGE_IDS, 64)


def test_a_drop_while_writes_and_scans_run_leaves_the_others_writable(store: RocksStore) -> None:
    ids = random_ids(200)
    rows = rows_of(ids, 64)
    store.create(0, 64)
    for version in range(1, 6):
        store.create(version, 64)
        writes, scans = partial(store.commit, [Change(version, ids, rows)]), partial(store.scan, version, 64, 0, 100)
        with hammer(writes, VersionGone), hammer(scans, VersionGone):
            store.drop(version)
        store.commit([Change(0, ids, rows)])
    store = reopened(store)
    assert store.versions() == [0]
    assert_holds(store, 0, ids, 64)
    store.close()


# --- writing and scanning ---------------------------------------------------------------------------------------


def test_written_rows_replace_older_ones(store: RocksStore) -> None:
    fill(store, 1, EDGE_IDS, 16)
    store.commit([Change(1, EDGE_IDS[:2], rows_of(EDGE_IDS[:2], 16, salt=1))])
    rows, _ = store.read(1, 16, EDGE_IDS)
    np.testing.assert_array_equal(rows[:2], rows_of(EDGE_IDS[:2], 16, salt=1))
    np.testing.assert_array_equal(rows[2:], rows_of(EDGE_IDS[2:], 16))


def test_of_repeated_ids_in_a_write_the_last_stays(store: RocksStore) -> None:
    store.create(1, 1)
    store.commit([Change(1, np.array([5, 5, 5], np.uint64), np.array([[1], [2], [3]], np.uint8))])
    assert store.read(1, 1, np.array([5], np.uint64))[0].tolist() == [[3]]


def test_a_scan_pages_through_all_rows_in_order(store: RocksStore) -> None:
    ids = random_ids(3000)
    store.create(1, 24)
    order = np.random.default_rng(2).permutation(3000)
    store.commit([Change(1, ids[order], rows_of(ids[order], 24))])
    scanned, rows = scan_all(store, 1, 24)
    np.testing.assert_array_equal(scanned, ids)
    np.testing.assert_array_equal(rows, rows_of(ids, 24))


def test_a_scan_starts_where_it_is_told(store: RocksStore) -> None:
    ids = np.array([10, 20, 30], np.uint64)
    fill(store, 1, ids, 8)
    assert store.scan(1, 8, 20, 10)[0].tolist() == [20, 30]
    assert store.scan(1, 8, 21, 1)[0].tolist() == [30]
    assert store.scan(1, 8, 31, 10)[0].tolist() == []
    assert store.scan(1, 8, 0, 0)[0].tolist() == []
    assert store.scan(1, 8, 2**64 - 1, 10)[1].shape == (0, 8)


# --- counts, meta values, memory --------------------------------------------------------------------------------


def test_counts_are_exact_after_a_bulk_load_and_a_restart(store: RocksStore) -> None:
    ids = random_ids(4321)
    fill(store, 1, ids, 16)
    store.create(2, 16)
    assert (store.count(1), store.count(2)) == (4321, 0)
    assert store.disk_bytes(1) > 4321 * 24
    assert store.disk_bytes(2) == 0
    store = reopened(store)
    assert (store.count(1), store.count(2)) == (4321, 0)


def test_counts_follow_writes(store: RocksStore) -> None:
    fill(store, 1, EDGE_IDS, 16)
    ids = random_ids(4321)
    store.commit([Change(1, ids, rows_of(ids, 16))])
    assert store.count(1) == 4321 + len(EDGE_IDS)
    store = reopened(store)
    assert store.count(1) == 4321 + len(EDGE_IDS)
    store.close()


def test_meta_values(store: RocksStore) -> None:
    assert store.get_meta("catalogue") is None
    store.put_meta("catalogue", b"one")
    store.put_meta("catalogue", b"two")
    store.put_meta("", b"")
    store = reopened(store)
    assert (store.get_meta("catalogue"), store.get_meta(""), store.get_meta("n:1")) == (b"two", b"", None)
    store.close()


def test_memory_is_told_by_use(tmp_path: Path) -> None:
    store = RocksStore(tmp_path, RocksOptions(block_cache=8 << 20))
    ids = random_ids(3000)
    fill(store, 1, ids, 64)
    store.read(1, 64, ids)
    store.commit([Change(1, ids, rows_of(ids, 64))])
    memory = store.memory()
    assert memory["block_cache"] > 3000 * 64
    assert memory["write_buffers"] > 3000 * 64
    assert memory["index_and_filters"] > 0
    store.close()


# --- opening and closing ----------------------------------------------------------------------------------------


def test_a_second_opener_is_told_so(store: RocksStore) -> None:
    with pytest.raises(StoreLocked, match="has it open"):
        RocksStore(store.path)
    store.create(1, 16)  # there is a log now, which a child would recover
    with pytest.raises(StoreLocked, match="has it open"):
        RocksStore(store.path)
    fill(store, 2, EDGE_IDS, 16)
    assert_holds(store, 2, EDGE_IDS, 16)


def test_a_closed_store_says_so(store: RocksStore) -> None:
    ids = random_ids(2000)
    fill(store, 1, ids, 16)
    assert_holds(store, 1, ids, 16)
    load = store.bulk(2, 16)
    store.close()
    store.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("embcache-rocks")]
    for call in (store.versions, store.memory, lambda: store.read(1, 16, EDGE_IDS), lambda: store.put_meta("a", b"")):
        with pytest.raises(StoreClosed, match="was closed"):
            call()
    load.add(EDGE_IDS, rows_of(EDGE_IDS, 16))
    with pytest.raises(StoreClosed):
        load.commit()
    load.abort()


def test_closing_waits_for_reads(store: RocksStore) -> None:
    ids = random_ids(5000)
    fill(store, 1, ids, 64)
    with hammer(partial(assert_holds, store, 1, ids, 64), StoreClosed):
        store.close()
    RocksStore(store.path).close()


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_what_lies_in_the_database_is_what_the_module_says(tmp_path: Path, compression: str) -> None:
    store = RocksStore(tmp_path, RocksOptions(compression=compression))  # type: ignore[arg-type]
    fill(store, 7, EDGE_IDS, 20)
    store.put_meta("catalogue", b"x")
    store.close()
    assert sorted(Rdict.list_cf(str(tmp_path))) == ["default", "log", "v7"]
    plain = Rdict(str(tmp_path), Options(raw_mode=True))
    expected = {
        int(id_).to_bytes(8, "big"): xxhash.xxh64_digest(bytes(row), seed=int(id_))[::-1] + bytes(row)
        for id_, row in zip(EDGE_IDS, rows_of(EDGE_IDS, 20), strict=True)
    }
    family = plain.get_column_family("v7")
    assert dict(family.items()) == expected
    assert dict(plain.items()) == {b"m:catalogue": b"x", b"n:7": b"9"}
    family.close()
    plain.close()


def test_other_column_families_are_left_alone(tmp_path: Path) -> None:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    plain = Rdict(str(tmp_path), options)
    for name in ("log", "v01", "v"):
        plain.create_column_family(name, Options(raw_mode=True)).close()
    plain.close()
    store = RocksStore(tmp_path)
    assert store.versions() == []
    store.create(1, 16)
    store = reopened(store)
    assert store.versions() == [1]
    store.close()


def test_a_commit_puts_removes_and_notes_all_at_once(store: RocksStore) -> None:
    ids = random_ids(100)
    for version in (1, 2):
        store.create(version, 16)
    store.commit([Change(1, ids, rows_of(ids, 16)), Change(2, ids, rows_of(ids, 16, salt=1))], {"cursor": b"1"})
    store.commit([Change(1, ids[:50], None), Change(2, ids[50:], None), Change(2, ids[60:61], rows_of(ids[60:61], 16))])
    store.commit([], {"cursor": b"2", "other": b""})
    for again in (False, True):
        store = reopened(store) if again else store
        assert (store.read(1, 16, ids)[1] == np.where(np.arange(100) < 50, ABSENT, FOUND)).all()
        rows, state = store.read(2, 16, ids)
        np.testing.assert_array_equal(rows[:50], rows_of(ids[:50], 16, salt=1))
        assert np.flatnonzero(state[50:] == FOUND).tolist() == [10]
        np.testing.assert_array_equal(rows[60], rows_of(ids[60:61], 16)[0])
        assert (store.get_meta("cursor"), store.get_meta("other")) == (b"2", b"")


def test_a_commit_to_a_version_that_is_gone_changes_nothing(store: RocksStore) -> None:
    ids = random_ids(10)
    store.create(1, 16)
    store.put_meta("cursor", b"1")
    with pytest.raises(VersionGone):
        store.commit([Change(1, ids, rows_of(ids, 16)), Change(2, ids, rows_of(ids, 16))], {"cursor": b"2"})
    assert (store.read(1, 16, ids)[1] == ABSENT).all()
    assert store.get_meta("cursor") == b"1"
