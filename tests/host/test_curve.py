"""Curves of misses: against an LRU stack that is kept in full, and against the misses of LRU caches."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.host import curve as curves
from embcache.host.arena import Arena
from embcache.host.curve import EDGES, Curve
from embcache.host.ring import WORDS
from embcache.host.sweep import SAMPLE
from embcache.host.tables import Held, HostTables
from embcache_client.results import WARM
from tests.host.reader import Reader, is_sampled

Ids = NDArray[np.uint64]
ROW = 8


def stack_distances(ids: Ids) -> list[int | None]:
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


def missed_by_lru(ids: Ids, entries: int) -> Ids:
    """The accesses that an LRU cache of so many ids does not answer, in their order."""
    cache: OrderedDict[int, None] = OrderedDict()
    missed = []
    for each in ids.tolist():
        if each in cache:
            cache.move_to_end(each)
            continue
        missed.append(each)
        cache[each] = None
        if len(cache) > entries:
            cache.popitem(last=False)
    return np.array(missed, np.uint64)


def is_followed(identifier: int, share: float) -> bool:
    """By the first half of its hash: Murmur3's finaliser, in whole numbers."""
    h = identifier
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        h = (h ^ h >> 33) * factor % 2**64
    return (h ^ h >> 33) >> 32 < int(share * 2**32)


def zipf_ids(count: int, distinct: int, seed: int) -> Ids:
    return (np.random.default_rng(seed).zipf(1.1, count) % distinct).astype(np.uint64)


def expected_misses(ids: Ids, share: float) -> NDArray[np.float64]:
    """What `points` is to say of all these accesses: by the stack of those that are followed."""
    followed = np.array([each for each in ids.tolist() if is_followed(each, share)], np.uint64)
    distances = stack_distances(followed)
    more = ids.size * share - followed.size  # accesses, to ids that are asked for again at once
    kept = [sum(each is None or each >= edge for each in distances) for edge in EDGES.tolist()]
    near = sum(each is not None and each < EDGES[0] for each in distances)
    new = sum(each is None for each in distances)
    if near + more < 0:  # as if there were none
        return np.array([len(followed) - near, *kept]) / share
    assert new <= kept[-1]
    return np.array([len(followed) + more, *kept]) / share


def test_misses_are_those_of_an_lru_cache_where_all_ids_are_followed() -> None:
    ids = (np.random.default_rng(1).zipf(1.2, 30_000) % 1500).astype(np.uint64)
    curve = Curve(1500, most=1)
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
            assert expected == missed_by_lru(ids, int(rows[place])).size


def test_a_sample_of_the_ids_is_enough(real_data: Path) -> None:
    ids = np.load(real_data / "scarab_recs_trace.npz")["ids"].astype(np.uint64)[:300_000]
    distinct = np.unique(ids).size
    curve = Curve(distinct)
    curve.missed(ids)
    assert curve.followed < 0.1 * ids.size
    rows, missed = curve.points()
    for entries in (500, 5_000, 30_000):
        assert np.interp(entries, rows, missed) == pytest.approx(missed_by_lru(ids, entries).size, rel=0.06)


def new_table(slots: int, curve: Curve) -> tuple[HostTables, Held]:
    tables = HostTables(Arena.create(1 << 22))
    held = tables.add(1, ROW, slots * (ROW + 10))
    held.table.curve = curve
    return tables, held


def ask(reader: Reader, held: Held, ids: Ids) -> int:
    """A lookup, what the owner hears of its hits, and what it puts in for its misses; -> how many were hit."""
    _, status, left = reader.lookup(held, ids)
    held.table.count_use(reader.ring.drain())
    held.table.insert(ids[left], np.zeros((left.size, ROW), np.uint8))
    assert (status[left] != WARM).all()
    return ids.size - left.size


def resized(tables: HostTables, factor: float) -> Held:
    held = tables.get(1)
    assert held is not None
    with tables.resizing(1, int(held.table.region.size * factor)) as (old, new):
        new.take_over(old, 0, old.region.sets)
    new.curve = old.curve
    again = tables.get(1)
    assert again is not None
    assert again.table is new
    return again


def test_all_hits_of_followed_ids_are_followed_in_full_tables_of_any_size() -> None:
    """Most of them are known by their slot alone, those in second sets by their tag; no other one is followed.

    One id a lookup, so that hits and misses are heard in the order in which ids were asked for.
    """
    curve = Curve(6000, most=0.1)
    assert curve.share == 0.1
    tables, held = new_table(2000, curve)
    ids, reader, hits = zipf_ids(6000, 6000, seed=2), Reader(tables.arena), 0
    for factor, piece in zip((1.7, 0.4, 0.9, 1.0), np.array_split(ids, 4), strict=True):
        hits += sum(ask(reader, held, piece[i : i + 1]) for i in range(piece.size))
        held.table.check()
        held = resized(tables, factor)
    assert 0.3 * ids.size < hits < 0.9 * ids.size
    reader.lookup(held, ids)
    assert (reader.ring.drain() >> np.uint64(52) > 0).mean() > 0.05, "rows in second sets"
    assert curve.accesses == ids.size
    assert curve.followed == sum(is_followed(each, 0.1) for each in ids.tolist())
    rows, missed = curve.points()
    np.testing.assert_allclose(missed, expected_misses(ids, 0.1))
    assert rows.tolist() == [0, *(EDGES / 0.1).tolist()]


@pytest.mark.parametrize(("distinct", "share"), [(3000, 0.01), (400_000, 2048 / 400_000)])
def test_which_ids_are_followed_is_said_by_their_hashes(distinct: int, share: float) -> None:
    ids, curve = zipf_ids(60_000, distinct, seed=3), Curve(distinct)
    curve.missed(ids)
    assert curve.share == share
    np.testing.assert_allclose(curve.points()[1], expected_misses(ids, share))


def test_words_that_cannot_be_are_passed_over() -> None:
    _, held = new_table(2000, Curve(300, most=1))
    ids = np.arange(300, dtype=np.uint64)
    held.table.insert(ids, np.zeros((300, ROW), np.uint8))
    curve, slots = held.table.curve, held.table.region.slots
    assert curve is not None
    nonsense = np.array([2**64 - 1, 10**9, slots, slots + 1, slots + (1 << 52), slots + 2**63], np.uint64)
    free = np.setdiff1d(np.arange(slots), np.flatnonzero(occupied(held)))
    held.table.count_use(np.concatenate([nonsense, free.astype(np.uint64)]))
    assert curve.followed == 300
    held.table.check()


def occupied(held: Held) -> NDArray[np.bool_]:
    region = held.table.region
    heads = held.table._arena.bytes[region.begin : region.begin + region.sets * 64].view(np.uint64).reshape(-1, 8)
    return np.asarray(heads[:, :1] >> np.arange(1, 8, dtype=np.uint64) & np.uint64(1) == 1).ravel()


def test_hits_of_which_a_sample_is_told_count_as_all() -> None:
    """Else a busy service would seem to miss most of what it is asked for."""
    curve = Curve(4000)
    tables, held = new_table(6000, curve)
    ids, reader = np.arange(4000, dtype=np.uint64), Reader(tables.arena)
    ask(reader, held, ids)
    times = 60  # not so many that the ring is full
    for tick in range(times):
        reader.lookup(held, ids, tick)
    told = reader.ring.drain()
    assert told.size < WORDS
    assert is_sampled(told).mean() > 0.1
    held.table.count_use(told)
    hits = (~is_sampled(told)).sum() + SAMPLE * is_sampled(told).sum()
    assert curve.accesses == ids.size + hits
    assert hits == pytest.approx(times * ids.size, rel=0.02)
    _, missed = curve.points()
    assert missed[0] == pytest.approx(curve.accesses, rel=0.01)
    assert missed[-1] == pytest.approx(ids.size, rel=0.15)


def test_behind_another_tier_the_curve_is_that_of_what_reaches_this_one() -> None:
    """What a tier above answers is read from disk with no size of this one, and pushes nothing out of it.

    So with memory for so many rows this tier misses what the curve of the accesses that reach it says. That of all
    accesses would promise what the tier above has saved already.
    """
    ids = zipf_ids(40_000, 2000, seed=4)
    reaching = missed_by_lru(ids, 200)
    of_these, of_all = Curve(2000, most=1), Curve(2000, most=1)
    of_these.missed(reaching)
    of_all.missed(ids)
    (rows, missed), (_, of_all_missed) = of_these.points(), of_all.points()
    for place in np.flatnonzero((rows >= 50) & (rows < 1500))[::5]:
        entries = int(rows[place])
        assert missed[place] == missed_by_lru(reaching, entries).size
    few, more = np.searchsorted(rows, (20, 150))
    gained, seeming = missed[few] - missed[more], of_all_missed[few] - of_all_missed[more]
    assert 0 < gained < 0.2 * seeming


def test_what_was_counted_fades() -> None:
    curve = Curve(100, most=1)
    ids = np.arange(100, dtype=np.uint64)
    for _ in range(5):
        curve.missed(ids)
    before = curve.points()[1]
    curve.fade()
    np.testing.assert_allclose(curve.points()[1], before / 2)


def test_more_ids_than_it_was_made_for_are_noticed() -> None:
    curve = Curve(100, most=1)
    ids = np.arange(3 * curves.MOST, dtype=np.uint64)
    curve.missed(ids[: curves.MOST - 1])
    assert not curve.overfull
    curve.missed(ids)
    curve.missed(ids)
    assert curve.overfull
    assert curve.accesses == 2 * ids.size + curves.MOST - 1
    assert Curve(10**9).share < 1e-5
