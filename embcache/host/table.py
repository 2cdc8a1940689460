"""HostTable: the rows of one table version in the arena, as the owner sees them.

Calls are the owner's, from one thread. Readers find the region by its directory entry alone (probe.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embcache.host import eviction, layout, writer
from embcache.host.arena import Arena
from embcache.host.curve import Curve
from embcache.host.memory import address_of

Ids = NDArray[np.uint64]
Rows = NDArray[np.uint8]

_PROBLEMS = (
    "sets whose stamp was left odd",
    "ids in a set that is not theirs",
    "ids that stand twice",
    "spill counts that are wrong",
    "ids with both a row and an absent mark",
    "use noted for empty ways",
    "rows too many or too few counted in the small queue",
)
_ROOM_TO_MOVE = 0.98  # fuller than this, moving rows about is work for little


@dataclass(frozen=True)
class Region:
    """Where a table version's sets stand in the arena: byte offsets and counts, before any address."""

    begin: int
    size: int
    sets: int
    row_bytes: int
    absent_sets: int

    @property
    def stride(self) -> int:
        return layout.stride_of(self.row_bytes)

    @property
    def slots(self) -> int:
        return self.sets * layout.WAYS

    @property
    def first_slot(self) -> int:
        """Where rows begin: after the heads, on a cache line."""
        return self.begin + self.sets * layout.SET_BYTES

    @property
    def absent(self) -> int:
        return self.first_slot + layout.slots_of(self.sets, self.stride)


@dataclass(frozen=True)
class TableStats:
    """Counts of a HostTable since it was made. `bytes` is all it takes, arena and the owner's own memory."""

    rows: int = 0
    slots: int = 0
    bytes: int = 0
    inserted: int = 0
    replaced: int = 0
    evicted: int = 0
    marked_absent: int = 0


class HostTable:
    """Rows of `row_bytes` bytes by feature ID, in a region of the arena that the caller set aside and zeroed."""

    def __init__(self, arena: Arena, region: Region) -> None:
        self.region = region
        self.curve: Curve | None = None  # what is to hear of accesses
        self._arena = arena  # keeps the mapping alive: the addresses below point into it
        self._noted = eviction.new_notes(region.sets)
        self._notes = np.int64(address_of(self._noted))
        self._absent_hand = np.zeros(region.absent_sets, np.uint8)
        self._counters = np.zeros(writer.COUNTERS, np.int64)
        self._counters[writer.MOVE_BELOW] = int(region.slots * _ROOM_TO_MOVE)
        eviction.set_up(self._counters, region.slots)
        self._place = tuple(
            np.int64(value)
            for value in (
                arena.address + region.begin,
                region.sets,
                arena.address + region.first_slot,
                region.stride,
                region.row_bytes,
                arena.address + region.absent,
                region.absent_sets,
            )
        )

    @property
    def row_bytes(self) -> int:
        return self.region.row_bytes

    def __len__(self) -> int:
        return int(self._counters[writer.HELD])

    def insert(self, ids: Ids, rows: Rows) -> None:
        """Put encoded rows u8 [n, row_bytes] in that were missed; they replace older selves, and push out rows that are
        not in use."""
        self._check_rows(ids, rows)
        if self.curve is not None:
            self.curve.missed(ids)
        writer.insert_rows(self._place, ids, address_of(rows), self.row_bytes, self._notes, self._counters)

    def restore(self, ids: Ids, rows: Rows, use: int) -> None:
        """Put encoded rows u8 [n, row_bytes] in again that had so much use; none leaves for them, some may not fit."""
        self._check_rows(ids, rows)
        place, at, first_use = self._place, address_of(rows), np.uint8(use & eviction.MOST_USE)
        writer.restore_rows(place, ids, at, self.row_bytes, first_use, self._notes, self._counters)

    def replace(self, ids: Ids, rows: Rows) -> None:
        """Write encoded rows u8 [n, row_bytes] over those that are here. Ids that are not stay out, unmarked."""
        self._check_rows(ids, rows)
        writer.replace_rows(self._place, ids, address_of(rows), self.row_bytes, self._counters)

    def read(self, ids: Ids) -> tuple[Rows, NDArray[np.bool_]]:
        """Rows u8 [n, row_bytes] as they are here, and which of the ids are; no use is noted. For the writer alone."""
        rows, found = np.empty((ids.size, self.row_bytes), np.uint8), np.empty(ids.size, np.bool_)
        writer.read_rows(self._place, ids, address_of(rows), self.row_bytes, found)
        return rows, found

    def held(self, first_set: int, sets: int) -> tuple[Ids, NDArray[np.uint8]]:
        """The ids u64 [n] that stand in some sets, and how much each is in use, u8 [n] up to MOST_USE.

        For the writer alone.
        """
        end = min(first_set + sets, self.region.sets)
        begin = self.region.begin + first_set * layout.SET_BYTES
        lines = self._arena.bytes[begin : self.region.begin + end * layout.SET_BYTES]
        heads = lines.view(np.uint64).reshape(-1, 1 + layout.WAYS)
        taken = (heads[:, :1] >> np.arange(1, 1 + layout.WAYS, dtype=np.uint64)) & np.uint64(1) == 1
        return heads[:, 1:][taken], self._noted[first_set:end, : layout.WAYS][taken]

    def delete(self, ids: Ids) -> None:
        """Take rows out of memory; ids that are not there are passed over."""
        writer.delete_rows(self._place, ids, self._notes, self._counters)

    def mark_absent(self, ids: Ids) -> None:
        """Remember that these ids have no row, until one is put in. An id that has a row here is passed over."""
        writer.mark_absent(self._place, ids, self._absent_hand, self._counters)

    def count_use(self, words: NDArray[np.uint64]) -> None:
        """Note what readers hit, words u64 [n] of this region (reports.py)."""
        writer.count_use(self._place, self._notes, words)
        if self.curve is not None:
            self.curve.hit(self._place, words)

    def set_use(self, ids: Ids, use: NDArray[np.uint8]) -> None:
        """Take rows to be in use as they were elsewhere: u8 [n], as `held` tells it. Ids that are not here stay out."""
        writer.set_use(self._place, ids, use & eviction.MOST_USE, self._notes, self._counters)

    def take_over(self, old: HostTable, first_set: int, sets: int) -> None:
        """Put in the rows of some sets of an older region of the same table, with their use."""
        end = min(first_set + sets, old.region.sets)
        of_old, of_new = (old._notes, old._counters), (self._notes, self._counters)
        writer.move_sets(old._place, self._place, first_set, end, *of_old, *of_new)

    def _check_rows(self, ids: Ids, rows: Rows) -> None:
        if rows.shape != (ids.size, self.row_bytes) or not rows.flags.c_contiguous:
            raise ValueError(f"rows must be u8 [{ids.size}, {self.row_bytes}], C-contiguous; these are {rows.shape}")

    def stats(self) -> TableStats:
        counters = self._counters
        return TableStats(
            rows=len(self),
            slots=self.region.slots,
            bytes=self.region.size + self._noted.nbytes + self._absent_hand.nbytes,
            inserted=int(counters[writer.INSERTED]),
            replaced=int(counters[writer.REPLACED]),
            evicted=int(counters[writer.EVICTED]),
            marked_absent=int(counters[writer.MARKED]),
        )

    def check(self) -> None:
        """Audit every invariant of the table; AssertionError says which one is broken and how often."""
        problems = np.zeros(len(_PROBLEMS), np.int64)
        held = int(writer.audit(self._place, self._notes, self._counters, problems))
        found = [f"{count} {what}" for count, what in zip(problems, _PROBLEMS, strict=True) if count]
        if held != len(self):
            found.append(f"{held} rows held where {len(self)} are counted")
        if found:
            raise AssertionError("; ".join(found))
