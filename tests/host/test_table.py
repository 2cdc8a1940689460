"""HostTable against a plain dict: what is put in is found, unless it was pushed out, and never anything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embcache.host.arena import Arena
from embcache.host.eviction import MAIN
from embcache.host.segment import MISSING, WARM
from embcache.host.tables import HostTables, NoRoomError, bytes_within, least_bytes, region_bytes, region_bytes_of
from tests.host.reader import Reader, entries_of, slots_of

EDGE_IDS = np.array([0, 1, 2**63, 2**64 - 1, 2**64 - 2], np.uint64)


def rows_of(ids: NDArray[np.uint64], row_bytes: int, salt: int = 0) -> NDArray[np.uint8]:
    """Rows u8 [n, row_bytes] that say whose they are in every byte."""
    seeds = (ids * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt))[:, None]
    columns = np.arange(row_bytes, dtype=np.uint64)[None, :]
    return np.ascontiguousarray(((seeds >> (columns % np.uint64(56))) + columns).astype(np.uint8))


def random_ids(count: int, seed: int = 1) -> NDArray[np.uint64]:
    ids = np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)
    return np.unique(np.concatenate([EDGE_IDS, ids]))


@pytest.mark.parametrize("row_bytes", [4, 12, 40, 64, 136, 256])
def test_rows_come_back_as_they_went_in(row_bytes: int) -> None:
    tables = HostTables(Arena.create(1 << 24))
    ids = random_ids(2000)
    held = tables.add(7, row_bytes, region_bytes(row_bytes, ids.size))
    rows = rows_of(ids, row_bytes)
    held.table.insert(ids, rows)
    assert len(held.table) == ids.size
    found, status, left = Reader(tables.arena).lookup(held, ids)
    assert not left.size
    assert (status == WARM).all()
    np.testing.assert_array_equal(found, rows)
    held.table.check()


def test_an_id_that_was_never_put_in_is_left_for_the_owner() -> None:
    tables = HostTables(Arena.create(1 << 22))
    held = tables.add(1, 16, 1 << 16)
    held.table.insert(EDGE_IDS[:2], rows_of(EDGE_IDS[:2], 16))
    _, _, left = Reader(tables.arena).lookup(held, EDGE_IDS)
    np.testing.assert_array_equal(left, [2, 3, 4])


def test_a_row_put_in_again_takes_the_place_of_the_older_one() -> None:
    tables = HostTables(Arena.create(1 << 22))
    ids = random_ids(300)
    held = tables.add(1, 32, region_bytes(32, ids.size))
    held.table.insert(ids, rows_of(ids, 32))
    held.table.insert(ids, rows_of(ids, 32, salt=5))
    assert len(held.table) == ids.size
    found, _, _ = Reader(tables.arena).lookup(held, ids)
    np.testing.assert_array_equal(found, rows_of(ids, 32, salt=5))
    held.table.check()


def test_a_row_is_replaced_where_it_is_and_none_comes_in() -> None:
    tables = HostTables(Arena.create(1 << 22))
    ids = random_ids(300)
    there, marked, unknown = ids[:100], ids[100:200], ids[200:]
    held = tables.add(1, 32, region_bytes(32, ids.size))
    held.table.insert(there, rows_of(there, 32))
    held.table.mark_absent(marked)
    held.table.replace(ids, rows_of(ids, 32, salt=5))
    assert len(held.table) == there.size
    found, status, left = Reader(tables.arena).lookup(held, ids)
    np.testing.assert_array_equal(found[:100], rows_of(there, 32, salt=5))
    assert (status[:100] == WARM).all()
    np.testing.assert_array_equal(ids[left], np.concatenate([marked, unknown]))  # no mark says that they are absent
    assert held.table.stats().replaced == there.size
    held.table.check()


def test_what_is_put_into_a_full_table_is_stored_or_counted_as_pushed_out() -> None:
    tables = HostTables(Arena.create(1 << 22))
    held = tables.add(1, 64, 1 << 18)
    ids = random_ids(30_000)
    held.table.insert(ids, rows_of(ids, 64))
    stats = held.table.stats()
    assert stats.evicted > 0
    assert stats.inserted == ids.size
    assert stats.rows == ids.size - stats.evicted
    found, status, left = Reader(tables.arena).lookup(held, ids)
    assert ids.size - left.size == stats.rows
    there = np.setdiff1d(np.arange(ids.size), left)
    np.testing.assert_array_equal(found[there], rows_of(ids[there], 64))
    assert (status[there] == WARM).all()
    held.table.check()


@pytest.mark.parametrize("count", [10, 1000, 100_000])
def test_a_table_takes_all_rows_that_it_was_made_for(count: int) -> None:
    tables = HostTables(Arena.create(1 << 26))
    ids = random_ids(count)
    held = tables.add(1, 64, region_bytes(64, ids.size))
    held.table.insert(ids, rows_of(ids, 64))
    assert held.table.stats().evicted == 0


def test_a_table_fills_to_95_percent_without_losing_a_row() -> None:
    tables = HostTables(Arena.create(1 << 26))
    held = tables.add(1, 64, 1 << 23)
    ids = random_ids(held.table.region.slots * 95 // 100)
    held.table.insert(ids, rows_of(ids, 64))
    assert held.table.stats().evicted == 0
    held.table.check()


def test_rows_in_use_stay_while_rows_seen_once_pass_through() -> None:
    tables = HostTables(Arena.create(1 << 22))
    held = tables.add(1, 64, 1 << 18)
    used = random_ids(held.table.region.slots // 3)
    held.table.insert(used, rows_of(used, 64))
    reader = Reader(tables.arena)
    for _ in range(2):
        reader.lookup(held, used)
        told = reader.ring.drain()
        assert (entries_of(told) == held.entry).all()
        assert np.unique(slots_of(told)).size == told.size == used.size
        held.table.count_use(told)
    passing = np.setdiff1d(random_ids(held.table.region.slots * 2, seed=9), used)
    held.table.insert(passing, rows_of(passing, 64))
    _, _, left = reader.lookup(held, used)
    assert left.size < used.size * 0.1
    held.table.check()


def test_rows_that_come_back_take_free_places_alone_and_bring_their_use() -> None:
    tables = HostTables(Arena.create(1 << 22))
    held = tables.add(1, 64, 1 << 18)
    slots = held.table.region.slots
    some, others = np.split(np.setdiff1d(random_ids(3 * slots, seed=4), EDGE_IDS), [slots // 2])
    held.table.mark_absent(some[:9])
    held.table.restore(some, rows_of(some, 64), 2)
    ids, use = held.table.held(0, held.table.region.sets)
    assert set(ids.tolist()) == set(some.tolist())
    assert (use == 2 | MAIN).all()
    held.table.insert(some[:5], rows_of(some[:5], 64))
    held.table.restore(some[:9], rows_of(some[:9], 64, salt=1), 1)
    ids, use = held.table.held(0, held.table.region.sets)
    assert (use == 2 | MAIN).all(), "what is there keeps the use that it has"
    held.table.restore(others, rows_of(others, 64), 3)
    assert held.table.stats().evicted == 0
    assert slots * 0.95 < len(held.table) <= slots
    found, status, left = Reader(tables.arena).lookup(held, some)
    assert not left.size
    assert (status == WARM).all()
    np.testing.assert_array_equal(found[9:], rows_of(some[9:], 64))
    np.testing.assert_array_equal(found[:9], rows_of(some[:9], 64, salt=1))
    held.table.check()


def test_absent_ids_are_answered_until_a_row_comes() -> None:
    tables = HostTables(Arena.create(1 << 22))
    held = tables.add(1, 16, 1 << 18)
    held.table.mark_absent(EDGE_IDS)
    reader = Reader(tables.arena)
    found, status, left = reader.lookup(held, EDGE_IDS)
    assert not left.size
    assert (status == MISSING).all()
    assert not found.any()
    held.table.insert(EDGE_IDS[:1], rows_of(EDGE_IDS[:1], 16))
    found, status, _ = reader.lookup(held, EDGE_IDS)
    assert status.tolist() == [WARM, MISSING, MISSING, MISSING, MISSING]
    held.table.mark_absent(EDGE_IDS[:1])  # late news about an id that has a row
    _, status, _ = reader.lookup(held, EDGE_IDS[:1])
    assert status.tolist() == [WARM]
    held.table.check()


def test_deleted_rows_are_gone_and_the_rest_stays() -> None:
    tables = HostTables(Arena.create(1 << 22))
    ids = random_ids(3000)
    held = tables.add(1, 24, region_bytes(24, ids.size))
    held.table.insert(ids, rows_of(ids, 24))
    held.table.delete(ids[::3])
    found, _, left = Reader(tables.arena).lookup(held, ids)
    np.testing.assert_array_equal(left, np.arange(0, ids.size, 3))
    kept = np.setdiff1d(np.arange(ids.size), left)
    np.testing.assert_array_equal(found[kept], rows_of(ids[kept], 24))
    held.table.check()


def test_versions_do_not_see_each_others_rows() -> None:
    tables = HostTables(Arena.create(1 << 22))
    first, second = tables.add(1, 16, 1 << 16), tables.add(2, 16, 1 << 16)
    first.table.insert(EDGE_IDS, rows_of(EDGE_IDS, 16))
    _, _, left = Reader(tables.arena).lookup(second, EDGE_IDS)
    assert left.size == EDGE_IDS.size


def test_a_removed_version_answers_nobody_and_gives_its_memory_back() -> None:
    tables = HostTables(Arena.create(1 << 22))
    held = tables.add(1, 16, 1 << 16)
    held.table.insert(EDGE_IDS, rows_of(EDGE_IDS, 16))
    used = tables.used
    tables.remove(1)
    assert tables.used < used
    _, _, left = Reader(tables.arena).lookup(held, EDGE_IDS)
    assert left.size == EDGE_IDS.size
    again = tables.add(2, 16, 1 << 16)
    assert again.entry == held.entry  # the entry is used again, by another version
    _, _, left = Reader(tables.arena).lookup(held, EDGE_IDS)
    assert left.size == EDGE_IDS.size
    again.table.check()


def test_resizing_keeps_rows_and_their_use() -> None:
    tables = HostTables(Arena.create(1 << 24))
    ids = random_ids(5000)
    held = tables.add(1, 64, region_bytes(64, ids.size))
    held.table.insert(ids, rows_of(ids, 64))
    with tables.resizing(1, region_bytes(64, 2 * ids.size)) as (old, new):
        for first_set in range(0, old.region.sets, 50):
            new.take_over(old, first_set, 50)
    now = tables.get(1)
    assert now is not None
    assert now.entry == held.entry
    assert now.table.region.slots > held.table.region.slots
    found, _, left = Reader(tables.arena).lookup(now, ids)
    assert left.size <= ids.size * 0.005
    kept = np.setdiff1d(np.arange(ids.size), left)
    np.testing.assert_array_equal(found[kept], rows_of(ids[kept], 64))
    now.table.check()


def test_the_writer_reads_what_readers_find() -> None:
    tables = HostTables(Arena.create(1 << 22))
    held = tables.add(1, 24, 1 << 16)
    ids = np.random.default_rng(5).integers(0, 2**64, 2 * held.table.region.slots, dtype=np.uint64)
    held.table.insert(ids, rows_of(ids, 24))
    asked = np.concatenate([ids[::-3], ids[:7] + np.uint64(1), EDGE_IDS])
    rows, found = held.table.read(asked)
    expected, _, left = Reader(tables.arena).lookup(held, asked)
    assert 0.2 < found.mean() < 0.9
    np.testing.assert_array_equal(np.flatnonzero(~found), left)
    np.testing.assert_array_equal(rows[found], expected[found])


def test_a_failed_resize_leaves_the_old_region() -> None:
    tables = HostTables(Arena.create(1 << 24))
    held = tables.add(1, 64, 1 << 16)
    used = tables.used
    with pytest.raises(KeyboardInterrupt), tables.resizing(1, 1 << 18):
        raise KeyboardInterrupt
    assert tables.get(1) == held
    assert tables.used == used


def test_rows_of_the_wrong_shape_are_refused() -> None:
    held = HostTables(Arena.create(1 << 22)).add(1, 16, 1 << 16)
    with pytest.raises(ValueError, match=r"u8 \[5, 16\]"):
        held.table.insert(EDGE_IDS, rows_of(EDGE_IDS, 24))


def test_the_directory_has_an_end() -> None:
    tables = HostTables(Arena.create(1 << 26))
    for version in range(1, 1025):
        tables.add(version, 4, 4096)
    with pytest.raises(NoRoomError, match="1024"):
        tables.add(1025, 4, 4096)


@given(row_bytes=st.integers(4, 5000), sets=st.integers(2, 5000), less=st.integers(0, 4096))
@example(row_bytes=564, sets=4, less=0)  # whose rows and absent marks end with the page
def test_a_region_is_the_largest_that_takes_so_many_bytes(row_bytes: int, sets: int, less: int) -> None:
    size = region_bytes_of(row_bytes, sets)
    assert bytes_within(row_bytes, size) == size
    counts = range(max(2, sets - 150), sets + 1)  # a page has room for 34 at most
    within = [other for count in counts if (other := region_bytes_of(row_bytes, count)) <= size - less]
    assert bytes_within(row_bytes, size - less) == max(within, default=least_bytes(row_bytes))


@pytest.mark.parametrize(("row_bytes", "more"), [(256, 1 / 30), (32, 1 / 5), (8, 1 / 2)])
def test_the_owners_notes_take_what_the_settings_say(row_bytes: int, more: float) -> None:
    table = HostTables(Arena.create(1 << 22)).add(1, row_bytes, 1 << 20).table
    beside = table.stats().bytes - table.region.size
    assert beside == pytest.approx(64 * table.region.slots / 7, rel=0.01)
    assert beside / table.region.size == pytest.approx(more, rel=0.1)
