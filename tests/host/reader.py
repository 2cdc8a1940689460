"""A reader of the arena for tests: encoded rows in and out, by segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embcache.host import probe
from embcache.host.arena import Arena
from embcache.host.memory import address_of
from embcache.host.ring import MASK, private_ring
from embcache.host.segment import LEFT, SEGMENT_COLUMNS
from embcache.host.tables import Held


class Asked:
    """A segment with its arrays, which begin as 0xEE, and a list of places: by `listed` those, else all of them."""

    def __init__(
        self,
        entry: int,
        version: int,
        row_bytes: int,
        ids: NDArray[np.uint64],
        listed: NDArray[np.integer] | None = None,
    ) -> None:
        self.ids = ids
        self.rows = np.full((ids.size, row_bytes), 0xEE, np.uint8)
        self.status = np.full(ids.size, 0xEE, np.uint8)
        self.default = np.full(row_bytes, 0xDD, np.uint8)
        self.misses = np.full(max(ids.size, 1), -1, np.int32)
        places = np.arange(ids.size) if listed is None else listed
        self.misses[: places.size] = places
        self.segment = np.array(
            [
                *(entry, version, row_bytes, address_of(self.default), ids.size),
                *(address_of(array) for array in (ids, self.rows, self.status, self.misses)),
                *(places.size, 0),
            ],
            np.int64,
        )

    @property
    def left(self) -> NDArray[np.int32]:
        """The places that the segment lists."""
        return self.misses[: self.segment[LEFT]]


class Reader:
    """Looks up encoded rows as bytes: a table of f32 is as wide as its bytes, whatever they mean."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.ring = private_ring()

    def lookup(
        self, held: Held, ids: NDArray[np.uint64], tick: int = 0
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]:
        """(rows u8 [n, row_bytes], status u8 [n], places of the ids left i32 [m])."""
        return self.lookup_region(held.entry, held.version, held.table.row_bytes, ids, tick)

    def lookup_region(
        self, entry: int, version: int, row_bytes: int, ids: NDArray[np.uint64], tick: int = 0
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]:
        """The same by directory entry and version number, as another process knows them."""
        rows = np.full((ids.size, row_bytes), 0xEE, np.uint8)
        status = np.full(ids.size, 0xEE, np.uint8)
        misses = np.full(max(ids.size, 1), -1, np.int32)
        default = np.zeros(row_bytes, np.uint8)
        segments = np.zeros((1, SEGMENT_COLUMNS), np.int64)
        segments[0, :LEFT] = (
            *(entry, version, row_bytes, address_of(default)),
            *(ids.size, address_of(ids), address_of(rows), address_of(status), address_of(misses)),
        )
        left = probe.probe(self.arena.address, segments, self.ring.address, MASK, np.uint64(tick))
        return rows, status, misses[:left]

    def probe_listed(self, asked: Sequence[Asked], tick: int = 0) -> int:
        """Look for the ids that the segments list; -> how many are left of all."""
        segments = np.array([each.segment for each in asked], np.int64).reshape(len(asked), SEGMENT_COLUMNS)
        left = probe.probe_listed(self.arena.address, segments, self.ring.address, MASK, np.uint64(tick))
        for each, segment in zip(asked, segments, strict=True):
            each.segment[:] = segment
        return left


def entries_of(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The directory entries in a ring's words, u64 [n]: their bits 42 to 51."""
    return words >> np.uint64(42) & np.uint64(1023)


def slots_of(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The slots in them: bits 0 to 41."""
    return words & np.uint64((1 << 42) - 1)


def is_sampled(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each stands for others that were not told: bit 63."""
    return np.asarray(words >> np.uint64(63) == 1)
