"""Curve: how many accesses a table would miss with more or less memory, from a sample of its ids. The owner's.

Of the ids whose hash is below a threshold all accesses that the owner hears of are followed: what is missed, and what
readers say they hit. For each the number of other such ids that were asked for since its last one is the least number
of entries with which an LRU cache would have held it (Mattson et al., 1970); divided by the share of ids that is
followed, it is that of the whole table (SHARDS: Waldspurger et al., FAST 2015; with its correction of the count for ids
that are asked for much more or less than others). Eviction here is not LRU's, but its curve bends where theirs does.

What the accesses are. Those that reach the warm tier. A row that a hot tier answers is not read from disk with any
share of warm memory, nor does it push another row out of it: the owner hears nothing of it, as the arena, which keeps a
row that moved up only for as long as it is asked for below. So the arena is a cache of what the tiers above it leave,
and the curve that says what it would miss is that of the same accesses; one of all would promise again what the hot
tier saves. When a hot tier is lost its accesses reach this one, and the curve is theirs as what was counted fades.

What is followed is decided without a look at memory. Ids stand first in the set that the high half of their hash picks,
in proportion: so the slot that was hit says whether the hash may be below the threshold, which is one of the high half,
in a region of any size. Of an id in its second set the slot says nothing; there the reader adds a part of the hash
(sweep.py). Only the few slots that pass are read, and the id there decides. A word that was written before its region
was resized is taken for a hit of whoever stands there now: those of a few milliseconds, once a region is moved.

Ids stand in a hash table of MAP places, open addressing; each has a moment, the number of its last access. When moments
run out they are numbered anew. How many ids have a later one is counted by spans, and within one by the moment.
Invariants: counts[LIVE] ids are in the map, and each is the owner of one moment, its own; taken[s] moments of the s-th
span have an owner.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embcache.host.jit import inlined, kernel, part
from embcache.host.layout import SET_BYTES, WAYS
from embcache.host.machine import load_i32, load_i64, load_relaxed, load_u64, store_i32, store_i64, store_u64
from embcache.host.memory import address_of
from embcache.host.reports import is_sampled, may_be_below, slot_of, slots_below, tags_below
from embcache.host.sets import hash_id
from embcache.host.sweep import SAMPLE

FOLLOWED = 2048  # ids, about so many
MOST_SHARE = 0.01  # of a table's ids: following one takes as long as some lookups
MAP = 4 * FOLLOWED  # a power of two
MOMENTS = 4 * FOLLOWED
SPAN = 64  # moments that are counted together
MOST = 2 * FOLLOWED  # ids that the map takes
LIVE, NEXT, ACCESSES, FOLLOWED_ACCESSES, NEW = range(5)
_COUNTS = 5
BLOCK = 64  # reports that are looked at together
_ALL = 1 << 32

# Up to how many other ids an access has in between, for each number that is counted: exact at first, then ever rougher.
EDGES = np.unique(np.round(np.geomspace(1, MOST, 56)).astype(np.int64))
_BUCKET = np.searchsorted(EDGES, np.arange(1, MOST + 1)).astype(np.int64)


# Where parts of a curve's memory stand, from its address on: Numba would count references to arrays at every call.
_KEYS = 0
_MOMENTS = _KEYS + 8 * MAP
_OWNERS = _MOMENTS + 4 * MAP
_TAKEN = _OWNERS + 4 * MOMENTS
_COUNTED = _TAKEN + 4 * (MOMENTS // SPAN)
_BYTES = _COUNTED + 8 * _COUNTS


@inlined
def _count(state, what, by):
    at = state + _COUNTED + 8 * what
    store_i64(at, load_i64(at) + by)


@inlined
def _counted(state, what):
    return load_i64(state + _COUNTED + 8 * what)


@inlined
def _take(state, moment, by):
    """A moment has an owner from now on (1), or none (-1)."""
    at = state + _TAKEN + 4 * (moment // SPAN)
    store_i32(at, np.int32(load_i32(at) + by))


@inlined
def _before(state, moment):
    """How many ids have their last access before a moment."""
    span, total = moment // SPAN, np.int64(0)
    for i in range(span):
        total += np.int64(load_i32(state + _TAKEN + 4 * i))
    for i in range(span * SPAN, moment):
        total += np.int64(load_i32(state + _OWNERS + 4 * i) >= 0)
    return total


@part
def _number_anew(state):
    """Give the ids the first moments, in their order."""
    following = np.int64(0)
    for moment in range(MOMENTS):
        at = load_i32(state + _OWNERS + 4 * moment)
        if at >= 0:
            store_i32(state + _OWNERS + 4 * moment, np.int32(-1))
            store_i32(state + _OWNERS + 4 * following, np.int32(at))
            store_i32(state + _MOMENTS + 4 * np.int64(at), np.int32(following))
            following += 1
    for span in range(MOMENTS // SPAN):
        store_i32(state + _TAKEN + 4 * span, np.int32(min(max(following - span * SPAN, 0), SPAN)))
    store_i64(state + _COUNTED + 8 * NEXT, following)


@part
def _follow(key, h, state):
    """An access to an id that is followed; -> how many others were asked for since its last one, -1 for the first."""
    at = np.int64(h & np.uint64(MAP - 1))
    while load_i32(state + _MOMENTS + 4 * at) >= 0 and np.uint64(load_u64(state + _KEYS + 8 * at)) != key:
        at = (at + 1) & (MAP - 1)
    moment, others = np.int64(load_i32(state + _MOMENTS + 4 * at)), np.int64(-1)
    if moment < 0:
        if _counted(state, LIVE) >= MOST:
            return others
        _count(state, NEW, 1)
        _count(state, LIVE, 1)
        store_u64(state + _KEYS + 8 * at, key)
    else:
        others = _counted(state, LIVE) - 1 - _before(state, moment)
        _take(state, moment, -1)
        store_i32(state + _OWNERS + 4 * moment, np.int32(-1))
    if _counted(state, NEXT) == MOMENTS:
        _number_anew(state)
    moment = _counted(state, NEXT)
    store_i32(state + _MOMENTS + 4 * at, np.int32(moment))
    store_i32(state + _OWNERS + 4 * moment, np.int32(at))
    _take(state, moment, 1)
    _count(state, NEXT, 1)
    return others


@kernel
def follow_ids(ids, below, state, seen):
    """Ids u64 [n] were asked for."""
    _count(state, ACCESSES, ids.shape[0])
    for i in range(ids.shape[0]):
        h = hash_id(ids[i])
        if np.int64(h >> np.uint64(32)) < below:
            _count(state, FOLLOWED_ACCESSES, 1)
            others = _follow(np.uint64(ids[i]), h, state)
            if others >= 0:
                seen[_BUCKET[min(others, MOST - 1)]] += 1.0


@kernel
def follow_reports(region, words, below, state, seen):
    """Slots of a region (writer.py) were hit, words u64 [n] (reports.py).

    Nothing is read for a word that cannot be of an id which is followed, and no branch depends on one, but for a block.
    """
    slots, tags, sampled = slots_below(below, region[1]), tags_below(below), np.int64(0)
    for begin in range(0, words.shape[0], BLOCK):
        end, some = min(begin + BLOCK, words.shape[0]), np.int64(0)
        for i in range(begin, end):
            sampled += is_sampled(words[i])
            some += np.int64(may_be_below(words[i], slots, tags))
        if some == 0:
            continue
        for i in range(begin, end):
            slot = slot_of(words[i])
            if not may_be_below(words[i], slots, tags) or slot >= region[1] * WAYS:
                continue
            head, way = region[0] + slot // WAYS * SET_BYTES, slot % WAYS
            if (np.uint64(load_relaxed(head)) >> np.uint64(way + 1)) & np.uint64(1) == np.uint64(0):
                continue
            key = np.uint64(load_u64(head + 8 * (way + 1)))
            h = hash_id(key)
            if np.int64(h >> np.uint64(32)) < below:
                _count(state, FOLLOWED_ACCESSES, 1)
                others = _follow(key, h, state)
                if others >= 0:
                    seen[_BUCKET[min(others, MOST - 1)]] += 1.0
    _count(state, ACCESSES, words.shape[0] + (SAMPLE - 1) * sampled)


class Curve:
    """What is known of one table version's accesses. All calls are the owner's."""

    def __init__(self, rows: int, most: float = MOST_SHARE) -> None:
        """rows: about how many ids are asked for.

        Of them FOLLOWED are followed, and at most this share.
        """
        self.rows = rows
        self.share = min(most, FOLLOWED / max(rows, 1))
        self._below = np.int64(max(self.share * _ALL, 1))
        self._seen = np.zeros(len(EDGES), np.float64)
        self._memory = np.zeros(_BYTES, np.uint8)
        self._memory[_MOMENTS:_TAKEN] = 0xFF  # no place is taken, and no moment has an owner
        self._counts = self._memory[_COUNTED:].view(np.int64)
        self._state = np.int64(address_of(self._memory))

    @property
    def nbytes(self) -> int:
        return self._memory.nbytes + self._seen.nbytes

    @property
    def accesses(self) -> int:
        """All that were heard of, but for what has faded."""
        return int(self._counts[ACCESSES])

    @property
    def followed(self) -> int:
        """Accesses that the curve is made of, but for what has faded."""
        return int(self._counts[FOLLOWED_ACCESSES])

    @property
    def overfull(self) -> bool:
        """Whether far more ids are asked for than it was made for: a new one should take its place."""
        return int(self._counts[LIVE]) >= MOST

    def missed(self, ids: NDArray[np.uint64]) -> None:
        """Ids u64 [n] were asked for that are not in memory."""
        follow_ids(ids, self._below, self._state, self._seen)

    def hit(self, region: tuple[np.int64, ...], words: NDArray[np.uint64]) -> None:
        """Readers hit slots of the table's region (a tuple of addresses, see writer.py): words u64 [n] (reports.py)."""
        follow_reports(region, words, self._below, self._state, self._seen)

    def fade(self) -> None:
        """Let what was counted so far weigh half as much."""
        self._seen *= 0.5
        self._counts[ACCESSES:] //= 2

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How many of the accesses heard of would have been missed, f64 [n], with memory for so many rows, f64 [n].

        Rows ascend from 0, misses do not ascend. Ids that were asked for once are missed with any memory.
        """
        expected = self.accesses * self.share  # had all ids been asked for as often as those that are followed
        seen = self._seen.copy()
        seen[0] = max(seen[0] + expected - self.followed, 0.0)
        missed = float(self._counts[NEW]) + seen.sum() - np.concatenate(([0.0], np.cumsum(seen)))
        return np.concatenate(([0.0], EDGES / self.share)), np.maximum(missed, 0.0) / self.share
