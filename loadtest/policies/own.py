"""The warm tier's table on a trace: looked up by the readers' kernels, filled by what they miss, told what they hit.

As in a service, but for the clock: what was hit is heard after each lookup, where an owner reads the rings every 5 ms.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from embcache.host import probe
from embcache.host.arena import Arena
from embcache.host.layout import LINE, PAGE, WAYS
from embcache.host.memory import address_of
from embcache.host.ring import MASK, WORDS, private_ring
from embcache.host.segment import (
    COUNT,
    DEFAULT_ROW,
    ENTRY,
    IDS,
    MISSES,
    OUT,
    ROW_BYTES,
    SEGMENT_COLUMNS,
    STATUS,
    VERSION,
)
from embcache.host.sweep import RING_HEARD
from embcache.host.table import HostTable
from embcache.host.tables import HostTables, region_bytes_of
from embcache.host.writer import publish
from loadtest.workloads import Lookups, U64s

_VERSION: Final = 1
_ROW: Final = (PAGE - LINE) // WAYS
"""Bytes of a row, so that a set takes a page: then a region can have any number of sets."""


def rows_near(rows: int) -> int:
    """How many places a table has that is to hold about so many rows: whole sets, two at least."""
    return max(2, round(rows / WAYS)) * WAYS


class OwnCache:
    """A table with so many places (`rows_near`) that is filled by what it misses.

    busy: whether the reader is taken to hit more than its owner can hear, so that one hit in 32 is told.
    """

    def __init__(self, places: int, most_ids: int, *, busy: bool = False) -> None:
        """most_ids: of one lookup."""
        size = region_bytes_of(_ROW, places // WAYS)
        tables = HostTables(Arena.create(size), huge_pages=False)
        held = tables.add(_VERSION, _ROW, size)
        self.table: HostTable = held.table
        assert self.table.region.slots == places
        self._arena, self._ring, self._busy, self._tick = tables.arena, private_ring(), busy, 0
        self._out, self._default = np.zeros((most_ids, _ROW), np.uint8), np.zeros(_ROW, np.uint8)
        self._status, self._misses = np.zeros(most_ids, np.uint8), np.zeros(most_ids, np.int32)
        self._segments = np.zeros((1, SEGMENT_COLUMNS), np.int64)
        columns = {
            ENTRY: held.entry,
            VERSION: _VERSION,
            ROW_BYTES: _ROW,
            DEFAULT_ROW: address_of(self._default),
            OUT: address_of(self._out),
            STATUS: address_of(self._status),
            MISSES: address_of(self._misses),
        }
        for column, value in columns.items():
            self._segments[0, column] = value

    def look_up(self, ids: U64s) -> int:
        """Look up ids u64 [n], hear what was hit, put in what was not; -> how many rows had to be read."""
        missed = ids[self._missed(ids)]
        if len(missed) > 1:
            missed = missed[np.sort(np.unique(missed, return_index=True)[1])]
        if len(missed):
            self.table.insert(missed, self._out[: len(missed)])
        return len(missed)

    def _missed(self, ids: U64s) -> NDArray[np.int32]:
        self._tick += 1
        self._segments[0, COUNT], self._segments[0, IDS] = len(ids), address_of(ids)
        if self._busy:  # all but half of what the ring holds is unheard
            publish(self._ring.address + RING_HEARD, np.uint64((probe.read_word(self._ring.address) - WORDS) % 2**64))
        left = probe.probe(self._arena.address, self._segments, self._ring.address, MASK, np.uint64(self._tick))
        if not self._ring.silent:
            self.table.count_use(self._ring.drain())
        return self._misses[:left]


def rows_read(lookups: Lookups, places: int, *, busy: bool = False) -> int:
    """How many rows are read for all these lookups by a table with so many places; it is audited at the end."""
    most = int(np.diff(lookups.starts).max())
    cache = OwnCache(places, most, busy=busy)
    read = sum(cache.look_up(ids) for ids, _ in lookups)
    cache.table.check()
    return read
