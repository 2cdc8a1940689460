"""The hot tier's table on a trace, as its kernels keep it, without a device: which ids it holds, and no rows.

Compiled from plain arrays, since a device that a CPU plays takes minutes for what this does in a second. It follows
kernels/table.cu, find.cu and queues.cu step by step, and tests/gpu/test_queues.py holds it to them. What moves up is
chosen by the hot tier's own Admission. As in a service, but for the clock: what a lookup missed comes in after it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from embcache.gpu.layout import GHOSTS, MOST_USE, NOTED_TILES, SAMPLE, SMALL_WAYS, USE_TO_STAY, WAYS
from embcache.gpu.tiles import GROUP, rows_a_tile
from embcache.host.jit import kernel
from embcache.hot.admission import Admission, enough
from loadtest.workloads import Lookups, U64s

VERSION: Final = 1
_RULES: Final = np.array([GHOSTS, MOST_USE, USE_TO_STAY, SMALL_WAYS], np.int64)  # arguments, so that no cache is stale
_MAIN = 0x8000
_CLOCK = 0x7FFF
_NEXT, _NOW = GHOSTS, GHOSTS + 1  # behind the ghosts of a set
_VERSIONS = np.uint64(0x9E3779B97F4A7C15)
_FACTOR = np.uint64(0xD6E8FEB86659FD93)
_HALF, _DIGEST = np.uint64(32), np.uint64(8)


@kernel
def _mix(identifier, version):
    h = identifier ^ np.uint64(np.uint64(version) * _VERSIONS)
    h = (h ^ (h >> _HALF)) * _FACTOR
    h = (h ^ (h >> _HALF)) * _FACTOR
    return h ^ (h >> _HALF)


@kernel
def _set_of(h, sets):
    return np.int64(((h >> _HALF) * np.uint64(sets)) >> _HALF)


@kernel
def _fingerprint(h):
    return np.uint16(((h >> _DIGEST) & np.uint64(0xFFFF)) | np.uint64(1))


@kernel
def _find(ids, taken, index, identifier):
    for way in range(ids.shape[1]):
        if taken[index, way] and ids[index, way] == identifier:
            return way
    return -1


@kernel
def look_up(ids, taken, use, version, asked, tick, mask, rules, missed):
    """Look for asked u64 [n], note hits; -> how many were not found. missed u64 [n]: begins with them."""
    count = 0
    rows, now = np.empty(GROUP, np.int64), np.empty(GROUP, np.int64)
    for begin in range(0, asked.shape[0], GROUP):  # lanes of a warp, which all load before one stores
        here = min(GROUP, asked.shape[0] - begin)
        for i in range(here):
            h = _mix(asked[begin + i], version)
            index = _set_of(h, ids.shape[0])
            way = _find(ids, taken, index, asked[begin + i])
            rows[i] = -1
            if way < 0:
                missed[count] = asked[begin + i]
                count += 1
            elif (np.int64((h >> _DIGEST) & np.uint64(0xFFFFFF)) + tick) & mask == 0:
                rows[i], now[i] = index * ids.shape[1] + way, use[index, way]
        for i in range(here):
            if rows[i] >= 0 and now[i] < rules[1]:
                use[rows[i] // ids.shape[1], rows[i] % ids.shape[1]] = now[i] + 1
    return count


@kernel
def _push_out(index, taken, use, order, queues, rules):
    """The way whose row goes; rows before it are spared."""
    while True:
        best = np.array([-1, -1])
        ages = np.array([-1, -1])
        smalls = 0
        for way in range(taken.shape[1]):
            main = order[index, way] >> 15
            age = (np.int64(queues[index, _NOW]) - np.int64(order[index, way])) & _CLOCK
            smalls += 1 - main
            if age > ages[main]:
                best[main], ages[main] = way, age
        from_small = best[1] < 0 or (smalls > rules[3] and best[0] >= 0)
        way = best[0] if from_small else best[1]
        if use[index, way] < (rules[2] if from_small else 1):
            return way
        use[index, way] = 0 if from_small else use[index, way] - 1
        queues[index, _NOW] = (queues[index, _NOW] + 1) & _CLOCK
        order[index, way] = _MAIN | queues[index, _NOW]


@kernel
def insert(ids, taken, use, order, queues, version, coming, rules):
    """Let coming u64 [n] in, one after the other; they are not here."""
    for identifier in coming:
        h = _mix(identifier, version)
        index, wanted = _set_of(h, ids.shape[0]), _fingerprint(h)
        main = 0
        for ghost in range(rules[0]):
            if queues[index, ghost] == wanted:
                queues[index, ghost] = 0
                main = _MAIN
        free = -1
        for way in range(ids.shape[1]):
            if not taken[index, way]:
                free = way
        if free < 0:
            free = _push_out(index, taken, use, order, queues, rules)
            queues[index, queues[index, _NEXT]] = _fingerprint(_mix(ids[index, free], version))
            queues[index, _NEXT] = (queues[index, _NEXT] + 1) % rules[0]
        ids[index, free], taken[index, free], use[index, free] = identifier, True, 0
        queues[index, _NOW] = (queues[index, _NOW] + 1) & _CLOCK
        order[index, free] = main | queues[index, _NOW]


class HotCache:
    """Ids in sets of WAYS, as a pool of the GPU's table keeps them.

    mask: hits are noted of ids one in mask + 1 at a time; None for what a launch of that many ids notes.
    """

    def __init__(self, sets: int, *, mask: int | None = None) -> None:
        self.ids, self.taken = np.zeros((sets, WAYS), np.uint64), np.zeros((sets, WAYS), np.bool_)
        self._use, self._order = np.zeros((sets, WAYS), np.uint8), np.zeros((sets, WAYS), np.uint16)
        self._queues = np.zeros((sets, GHOSTS + 2), np.uint16)
        self._mask, self._tick = mask, 0

    def missed(self, asked: U64s) -> U64s:
        """Those of a launch's ids u64 [n] that are not here; the others are hit."""
        self._tick += 1
        mask = noted_mask(asked.size) if self._mask is None else self._mask
        missed = np.empty(asked.size, np.uint64)
        left = look_up(self.ids, self.taken, self._use, VERSION, asked, self._tick, mask, _RULES, missed)
        return missed[:left]

    def insert(self, coming: U64s) -> None:
        """Let distinct ids in that are not here."""
        insert(self.ids, self.taken, self._use, self._order, self._queues, VERSION, coming, _RULES)

    def held(self) -> U64s:
        """The ids that are here, ascending."""
        return np.sort(self.ids[self.taken])


def noted_mask(ids: int) -> int:
    """What kernels/find.cu masks the hits with, of a launch of so many ids."""
    tiles, mask = -(-ids // rows_a_tile(ids)), 0
    while mask < SAMPLE - 1 and tiles > NOTED_TILES * (mask + 1):
        mask = 2 * mask + 1
    return mask


def places_within(entries: int) -> int:
    """How many places a table has that is to hold at most so many rows: whole sets, one at least."""
    return max(1, entries // WAYS) * WAYS


def rows_missed(lookups: Lookups, places: int, *, busy: bool = False) -> int:
    """How many rows are read below a hot tier of so many places for all these lookups.

    busy: whether hits are noted as by its largest launches, one in SAMPLE.
    """
    cache, admission = HotCache(places // WAYS, mask=SAMPLE - 1 if busy else None), Admission()
    read = 0
    for ids, _ in lookups:
        missed = cache.missed(ids)
        if missed.size:
            coming = np.unique(admission.pick(VERSION, missed, enough(0)))  # all of them: nothing waits here
            cache.insert(coming)
            read += coming.size
    return read
