"""A HostTable by itself: an arena, one table in it, and a reader. Shared by the pairs that measure it bare."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache.host import probe
from embcache.host.arena import Arena
from embcache.host.memory import address_of
from embcache.host.ring import MASK, private_ring
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
from embcache.host.tables import HostTables, region_bytes
from embcache_client.results import WARM
from loadtest.pairs.lines import on_lines
from loadtest.workloads import F32s, U64s

INSERT_ROWS = 65_536
TABLE_VERSION = 1


class BareTable:
    """A table of f32 rows [n, dim] in an arena of its own. size: bytes of its region; by default room for `rows`."""

    def __init__(self, ids: U64s, rows: F32s, size: int | None = None) -> None:
        self.row_bytes = rows.shape[1] * 4
        size = region_bytes(self.row_bytes, len(ids)) if size is None else size
        self.arena = Arena.create(size)
        tables = HostTables(self.arena)
        self.held = tables.add(TABLE_VERSION, self.row_bytes, size)
        tables.huge.wait()
        for start in range(0, len(ids), INSERT_ROWS):
            piece = slice(start, start + INSERT_ROWS)
            encoded = np.ascontiguousarray(rows[piece], "<f4").view(np.uint8)
            self.held.table.insert(ids[piece], encoded)


class Reader:
    """Looks up `count` ids at a time in a BareTable, as a front does: one kernel call, rows and status written out.

    rows: f32 [count, dim], status: u8 [count] of the last lookup; written anew by each.
    """

    def __init__(self, table: BareTable, count: int) -> None:
        dim = table.row_bytes // 4
        self.rows = on_lines(count, dim)  # as a reply's rows are
        self.status = np.zeros(count, np.uint8)
        self._table = table
        self.ring = private_ring()
        self._ring_address = self.ring.address
        self._default: NDArray[Any] = np.zeros(dim, np.float32)
        self._misses = np.zeros(count, np.int32)
        self._tick = 0
        self._segments = np.zeros((1, SEGMENT_COLUMNS), np.int64)
        columns = {
            ENTRY: table.held.entry,
            VERSION: TABLE_VERSION,
            ROW_BYTES: table.row_bytes,
            DEFAULT_ROW: address_of(self._default),
            COUNT: count,
            OUT: address_of(self.rows),
            STATUS: address_of(self.status),
            MISSES: address_of(self._misses),
        }
        for column, value in columns.items():
            self._segments[0, column] = value

    def lookup(self, ids: U64s) -> int:
        """Look up ids u64[count]; -> how many the table does not hold."""
        self._tick += 1
        self._segments[0, IDS] = address_of(ids)
        tick = np.uint64(self._tick)
        return int(probe.probe(self._table.arena.address, self._segments, self._ring_address, MASK, tick))


def held_ids(table: BareTable, ids: U64s) -> U64s:
    """Those of `ids` that found a place: the few that did not are not asked for."""
    reader = Reader(table, len(ids))
    reader.lookup(ids)
    held: U64s = ids[reader.status == WARM]
    return held
