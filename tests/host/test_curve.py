"""Curves of misses: against an LRU stack that is kept in full, and against the miss ratios of LRU caches."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.host import curve as curves
from embcache.host.arena import Arena
from embcache.host.curve import Curve
from embcache.host.tables import HostTables


def stack_distances(ids: NDArray[np.uint64]) -> list[int | None]:
    """Of each access how many other ids were asked for since its id was; None the first time."""
    stack: list[int] = []
    distances: list[int | None] = []
    for each in ids.tolist():
        place = stack.index(each) if each in stack else None
        distances.append(place)
        if place is not None:
            del stack[place]
        stack.insert(0, each)
    return distances


def lru_misses(ids: NDArray[np.uint64], entries: int) -> int:
    cache: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for each in ids.tolist():
        if each in cache:
            cache.move_to_end(each)
            continue
        misses += 1
        cache[each] = None
        if len(cache) > entries:
            cache.popitem(last=False)
    return misses


def test_misses_are_those_of_an_lru_cache_where_all_ids_are_followed() -> None:
    ids = (np.random.default_rng(1).zipf(1.2, 30_000) % 1500).astype(np.uint64)
    curve = Curve(1500)
    assert curve.share == 1
    for piece in np.array_split(ids, 7):  # more accesses than moments: they are numbered anew on the way
        curve.missed(piece)
    assert curve.accesses == curve.followed == ids.size > 3 * curves.MOMENTS
    rows, missed = curve.points()
    distances = stack_distances(ids)
    for place in range(len(rows)):
        expected = sum(each is None or each >= rows[place] for each in distances)
        assert missed[place] == expected
        if rows[place]:
            assert expected == lru_misses(ids, int(rows[place]))


def test_a_sample_of_the_ids_is_enough(real_data: Path) -> None:
    ids = np.load(real_data / "scarab_recs_trace.npz")["ids"].astype(np.uint64)[:300_000]
    distinct = np.unique(ids).size
    curve = Curve(distinct)
    curve.missed(ids)
    assert curve.followed < 0.1 * ids.size
    rows, missed = curve.points()
    for entries in (500, 5_000, 30_000):
        assert np.interp(entries, rows, missed) == pytest.approx(lru_misses(ids, entries), rel=0.06)


def test_hits_count_as_accesses_by_the_ids_in_their_slots() -> None:
    tables = HostTables(Arena.create(1 << 22))
    held = tables.add(1, 8, 1 << 16)
    ids = np.arange(300, dtype=np.uint64)
    held.table.insert(ids, np.zeros((300, 8), np.uint8))
    held.table.curve = Curve(300)
    nonsense = np.array([-1, 10**9, held.table.region.slots], np.int64)
    for _ in range(2):
        held.table.count_use(np.concatenate([np.arange(held.table.region.slots), nonsense]))
    assert held.table.curve.accesses == 600
    rows, missed = held.table.curve.points()
    assert missed[0] == 600
    assert missed[-1] == 300  # the first time
    assert np.interp(200, rows, missed) == 600
    held.table.insert(ids, np.zeros((300, 8), np.uint8))
    assert held.table.curve.accesses == 900


def test_what_was_counted_fades() -> None:
    curve = Curve(100)
    ids = np.arange(100, dtype=np.uint64)
    for _ in range(5):
        curve.missed(ids)
    before = curve.points()[1]
    curve.fade()
    np.testing.assert_allclose(curve.points()[1], before / 2)


def test_more_ids_than_it_was_made_for_are_noticed() -> None:
    curve = Curve(100)
    ids = np.arange(3 * curves.MOST, dtype=np.uint64)
    curve.missed(ids[: curves.MOST - 1])
    assert not curve.overfull
    curve.missed(ids)
    curve.missed(ids)
    assert curve.overfull
    assert curve.accesses == 2 * ids.size + curves.MOST - 1
    assert Curve(10**9).share < 1e-5
