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

Ids stand in a hash table of MAP places, open addressing; each has a moment, the number of its last access, and a binary
indexed tree over moments counts the ids whose last access they are. When moments run out they are numbered anew.
Invariant: counts[LIVE] ids are in the map, and each is the owner of one moment, its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embcache.host.jit import inlined, kernel, part
from embcache.host.layout import SET_BYTES, WAYS
from embcache.host.machine import load_relaxed, load_u64
from embcache.host.reports import is_sampled, may_be_below, slot_of, slots_below, tags_below
from embcache.host.sets import hash_id
from embcache.host.sweep import SAMPLE

FOLLOWED = 2048  # ids, about so many
MOST_SHARE = 1 / 32  # of a table's ids: following one takes as long as some lookups
MAP = 4 * FOLLOWED  # a power of two
MOMENTS = 4 * FOLLOWED
MOST = 2 * FOLLOWED  # ids that the map takes
LIVE, NEXT, ACCESSES, FOLLOWED_ACCESSES, NEW = range(5)
_COUNTS = 5
BLOCK = 64  # reports that are looked at together
_ALL = 1 << 32

# Up to how many other ids an access has in between, for each number that is counted: exact at first, then ever rougher.
EDGES = np.unique(np.round(np.geomspace(1, MOST, 56)).astype(np.int64))
_BUCKET = np.searchsorted(EDGES, np.arange(1, MOST + 1)).astype(np.int64)


@inlined
def _before(tree, moment):
    """How many ids have their last access before a moment."""
    total, place = np.int64(0), moment
    while place > 0:
        total += tree[place]
        place -= place & -place
    return total


@inlined
def _add(tree, moment, by):
    place = moment + 1
    while place <= MOMENTS:
        tree[place] += by
        place += place & -place


@part
def _number_anew(tree, owners, moments, counts):
    """Give the ids the first moments, in their order."""
    following = 0
    for moment in range(MOMENTS):
        at = owners[moment]
        if at >= 0:
            owners[moment] = -1
            owners[following] = at
            moments[at] = following
            following += 1
    for place in range(1, MOMENTS + 1):  # each node counts the moments of as many places as its lowest bit says
        low = place - (place & -place)
        tree[place] = min(following, place) - min(following, low)
    counts[NEXT] = following


@part
def _follow(key, h, keys, moments, tree, owners, seen, counts):
    """An access to an id that is followed."""
    at = np.int64(h & np.uint64(MAP - 1))
    while moments[at] >= 0 and keys[at] != key:
        at = (at + 1) & (MAP - 1)
    if moments[at] < 0:
        if counts[LIVE] >= MOST:
            return
        counts[NEW] += 1
        counts[LIVE] += 1
        keys[at] = key
    else:
        moment = np.int64(moments[at])
        seen[_BUCKET[min(counts[LIVE] - 1 - _before(tree, moment), MOST - 1)]] += 1.0
        _add(tree, moment, -1)
        owners[moment] = -1
    moments[at] = 0  # it is in the map from here on
    if counts[NEXT] == MOMENTS:
        _number_anew(tree, owners, moments, counts)
    moment = counts[NEXT]
    moments[at], owners[moment] = moment, at
    _add(tree, moment, 1)
    counts[NEXT] += 1


@kernel
def follow_ids(ids, below, keys, moments, tree, owners, seen, counts):
    """Ids u64 [n] were asked for."""
    counts[ACCESSES] += ids.shape[0]
    for i in range(ids.shape[0]):
        h = hash_id(ids[i])
        if np.int64(h >> np.uint64(32)) < below:
            counts[FOLLOWED_ACCESSES] += 1
            _follow(np.uint64(ids[i]), h, keys, moments, tree, owners, seen, counts)


@part
def _follow_slot(region, slot, below, keys, moments, tree, owners, seen, counts):
    """A slot was hit that may hold an id which is followed."""
    index, way = slot // WAYS, slot % WAYS
    if index >= region[1]:
        return
    head = region[0] + index * SET_BYTES
    if (np.uint64(load_relaxed(head)) >> np.uint64(way + 1)) & np.uint64(1) == np.uint64(1):
        key = np.uint64(load_u64(head + 8 * (way + 1)))
        h = hash_id(key)
        if np.int64(h >> np.uint64(32)) < below:
            counts[FOLLOWED_ACCESSES] += 1
            _follow(key, h, keys, moments, tree, owners, seen, counts)


@kernel
def follow_reports(region, words, below, keys, moments, tree, owners, seen, counts):
    """Slots of a region (writer.py) were hit, words u64 [n] (reports.py).

    Nothing is read for a word that cannot be of an id which is followed, and no branch depends on one, but for a block.
    """
    slots, tags, sampled = slots_below(below, region[1]), tags_below(below), np.int64(0)
    for begin in range(0, words.shape[0], BLOCK):
        end, some = min(begin + BLOCK, words.shape[0]), np.int64(0)
        for i in range(begin, end):
            sampled += is_sampled(words[i])
            some += np.int64(may_be_below(words[i], slots, tags))
        if some > 0:
            for i in range(begin, end):
                if may_be_below(words[i], slots, tags):
                    _follow_slot(region, slot_of(words[i]), below, keys, moments, tree, owners, seen, counts)
    counts[ACCESSES] += words.shape[0] + (SAMPLE - 1) * sampled


class Curve:
    """What is known of one table version's accesses. All calls are the owner's."""

    def __init__(self, rows: int, most: float = MOST_SHARE) -> None:
        """rows: about how many ids are asked for.

        Of them FOLLOWED are followed, and at most this share.
        """
        self.rows = rows
        self.share = min(most, FOLLOWED / max(rows, 1))
        self._seen = np.zeros(len(EDGES), np.float64)
        self._counts = np.zeros(_COUNTS, np.int64)
        self._state = (
            np.int64(max(self.share * _ALL, 1)),
            np.zeros(MAP, np.uint64),
            np.full(MAP, -1, np.int32),
            np.zeros(MOMENTS + 1, np.int32),
            np.full(MOMENTS, -1, np.int32),
            self._seen,
            self._counts,
        )

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._state[1:])

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
        follow_ids(ids, *self._state)

    def hit(self, region: tuple[np.int64, ...], words: NDArray[np.uint64]) -> None:
        """Readers hit slots of the table's region (a tuple of addresses, see writer.py): words u64 [n] (reports.py)."""
        follow_reports(region, words, *self._state)

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
