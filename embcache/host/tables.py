"""HostTables: which regions stand where in the arena, and the directory by which readers find them.

Invariant: a directory entry changes between an odd and an even stamp, after the region it will name is
ready and before the one that it named is given back. An entry's number stays a version's own while the
version lives, whatever becomes of its region.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from embcache.host import layout
from embcache.host.arena import Arena
from embcache.host.huge import HugePages
from embcache.host.memory import HUGE_PAGE
from embcache.host.table import HostTable, Region
from embcache.host.writer import write_entry

FILL = 0.9  # of a table's slots that its rows may take, so that all of them find a way, most in their first set
LEAST_SETS = 2
_ABSENT_SHARE = 64  # one byte in this many is for absent marks


class NoRoomError(Exception):
    """The arena has no entry, or not enough memory, for one more table version."""


@dataclass(frozen=True)
class Held:
    """A version in the arena: its number, its directory entry and its table."""

    version: int
    entry: int
    table: HostTable


def region_bytes(row_bytes: int, rows: int) -> int:
    """Bytes that a region needs in which `rows` rows find a place."""
    slots = rows / FILL + 4 * rows**0.5  # the fewer sets there are, the more unevenly they fill
    sets = max(LEAST_SETS, math.ceil(slots / layout.WAYS))
    return region_bytes_of(row_bytes, sets)


def least_bytes(row_bytes: int) -> int:
    """Bytes of the smallest region that rows of so many bytes can have."""
    return region_bytes_of(row_bytes, LEAST_SETS)


def bytes_within(row_bytes: int, size: int) -> int:
    """Bytes of the largest region that takes at most `size`, or of the smallest there is; it fits itself exactly."""
    return region_bytes_of(row_bytes, _sets_within(row_bytes, size))


def _absent_sets(sets: int, stride: int) -> int:
    return max(LEAST_SETS, layout.slots_of(sets, stride) // _ABSENT_SHARE // layout.SET_BYTES)


def region_bytes_of(row_bytes: int, sets: int) -> int:
    """Bytes of a region of so many sets."""
    stride = layout.stride_of(row_bytes)
    absent = _absent_sets(sets, stride) * layout.SET_BYTES
    size = sets * layout.SET_BYTES + layout.slots_of(sets, stride) + absent
    return -(-size // layout.PAGE) * layout.PAGE


def _sets_within(row_bytes: int, size: int) -> int:
    slots = layout.WAYS * layout.stride_of(row_bytes)
    sets = int(size / (layout.SET_BYTES + slots + slots / _ABSENT_SHARE)) + 1  # absent sets are whole ones
    while sets > LEAST_SETS and region_bytes_of(row_bytes, sets) > size:
        sets -= 1
    return max(LEAST_SETS, sets)


class HostTables:
    """All tables of one arena; the owner's, from one thread."""

    def __init__(self, arena: Arena, *, huge_pages: bool = True) -> None:
        """huge_pages: whether to ask the system for some (huge.py)."""
        self.arena = arena
        self.huge = HugePages(arena.bytes, arena.capacity if huge_pages else 0)
        self._held: dict[int, Held] = {}
        self._free_entries = list(range(layout.MAX_REGIONS - 1, -1, -1))
        # Begin and size of every region in the file, the one being moved away from included.
        self._taken: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Bytes of all regions."""
        return sum(self._taken.values())

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def get(self, version: int) -> Held | None:
        return self._held.get(version)

    def add(self, version: int, row_bytes: int, size: int) -> Held:
        """Make an empty region of at most `size` bytes (and of a few sets at least) and let readers find it."""
        if version in self._held:
            raise ValueError(f"version {version} is in the arena already")
        if not self._free_entries:
            raise NoRoomError(f"the arena holds {layout.MAX_REGIONS} table versions and has no entry for another")
        table = self._new_table(row_bytes, size)
        held = Held(version, self._free_entries.pop(), table)
        self._held[version] = held
        self._name(held)
        return held

    def remove(self, version: int) -> None:
        """Take a version out: readers find it gone, then its memory is given back."""
        held = self._held.pop(version)
        write_entry(self._entry_address(held.entry), np.zeros(layout.ENTRY_WORDS, np.uint64))
        self._free_entries.append(held.entry)
        self._free(held.table.region)

    @contextmanager
    def resizing(self, version: int, size: int) -> Iterator[tuple[HostTable, HostTable]]:
        """(old, new) table of a version whose region is to take `size` bytes. The body moves rows over.

        Readers use the old one until the body ends, then the new one. Nothing else may be put into either
        meanwhile, nor the version be removed.
        """
        held = self._held[version]
        table = self._new_table(held.table.row_bytes, size)
        try:
            yield held.table, table
        except BaseException:
            self._free(table.region)
            raise
        old, self._held[version] = held.table, Held(version, held.entry, table)
        self._name(self._held[version])
        self._free(old.region)

    def _new_table(self, row_bytes: int, size: int) -> HostTable:
        sets = _sets_within(row_bytes, size)
        size = region_bytes_of(row_bytes, sets)
        region = Region(self._find_space(size), size, sets, row_bytes, _absent_sets(sets, layout.stride_of(row_bytes)))
        self._taken[region.begin] = region.size
        self.huge.want(region.begin, region.size)
        return HostTable(self.arena, region)

    def _find_space(self, size: int) -> int:
        align = HUGE_PAGE if size >= HUGE_PAGE else layout.PAGE
        begin = -(-layout.HEAP // align) * align
        for taken in sorted(self._taken):
            if taken - begin >= size:
                return begin
            begin = -(-(taken + self._taken[taken]) // align) * align
        if self.arena.bytes.size - begin < size:
            raise NoRoomError(f"the arena's file has no {size} bytes in one piece")
        return begin

    def _free(self, region: Region) -> None:
        del self._taken[region.begin]
        self.huge.forget(region.begin, region.size)
        self.arena.give_back(region.begin, region.size)

    def _entry_address(self, entry: int) -> int:
        return self.arena.address + layout.DIRECTORY + entry * layout.ENTRY_BYTES

    def _name(self, held: Held) -> None:
        region = held.table.region
        fields = (
            *(held.version, region.begin, region.sets, region.first_slot, region.stride),
            *(region.absent, region.absent_sets),
        )
        write_entry(self._entry_address(held.entry), np.array(fields, np.uint64))
