"""IdIndex: feature IDs numbered as they come, all ids of a call side by side. Imports NumPy alone."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]

FIRST_CAPACITY: Final = 1024
_HASH: Final = np.uint64(0x9E3779B97F4A7C15)


class IdIndex:
    """id -> slot, slots counting up from 0: open addressing with linear probing. An id that came never goes."""

    def __init__(self) -> None:
        self.used = 0
        self.ids = np.zeros(0, np.uint64)  # [capacity], by slot
        self._cells = np.zeros(0, np.int64)  # [a power of two, at least 2 * capacity]: a slot, or negative

    @property
    def memory_bytes(self) -> int:
        return self.ids.nbytes + self._cells.nbytes

    def slots_of(self, ids: NDArray[np.uint64]) -> Slots:
        """int64 [n]: the slots of ids, new ones for those without."""
        if self.used + len(ids) > len(self.ids):
            self._grow(max(2 * len(self.ids), self.used + len(ids), FIRST_CAPACITY))
        slots = np.empty(len(ids), np.int64)
        waiting, at = np.arange(len(ids)), self._home(ids)
        while len(waiting):
            self._claim(ids, waiting, at)
            found = self._cells[at]
            hit = self.ids[found] == ids[waiting]
            slots[waiting[hit]] = found[hit]
            waiting, at = waiting[~hit], self._next(at[~hit])
        return slots

    def known_slots(self, ids: NDArray[np.uint64]) -> Slots:
        """int64 [m]: the slots of those of the ids that have one."""
        known: list[Slots] = []
        if self.used:
            at = self._home(ids)
            while len(ids):
                found = self._cells[at]
                hit = (found >= 0) & (self.ids[found] == ids)
                known.append(found[hit])
                on = (found >= 0) & ~hit  # behind an empty cell it cannot stand
                ids, at = ids[on], self._next(at[on])
        return np.concatenate(known) if known else np.zeros(0, np.int64)

    def _claim(self, ids: NDArray[np.uint64], waiting: Slots, at: Slots) -> None:
        """Gives each empty one of the cells `at` a new slot, for one of the ids that came to it."""
        empty = self._cells[at] < 0
        if not empty.any():
            return
        cells, claims = at[empty], -1 - waiting[empty]
        self._cells[cells] = claims
        won = self._cells[cells] == claims
        winners = waiting[empty][won]
        slots = np.arange(self.used, self.used + len(winners))
        self.ids[slots] = ids[winners]
        self._cells[cells[won]] = slots
        self.used += len(winners)

    def _grow(self, capacity: int) -> None:
        self.ids = grown(self.ids, capacity)
        self._cells = np.full(1 << (2 * capacity - 1).bit_length(), -1, np.int64)
        slots = np.arange(self.used)
        at = self._home(self.ids[: self.used])
        while len(slots):
            empty = self._cells[at] < 0
            self._cells[at[empty]] = slots[empty]
            placed = self._cells[at] == slots
            slots, at = slots[~placed], self._next(at[~placed])

    def _home(self, ids: NDArray[np.uint64]) -> Slots:
        bits = len(self._cells).bit_length() - 1
        return (((ids ^ (ids >> np.uint64(32))) * _HASH) >> np.uint64(64 - bits)).astype(np.int64)

    def _next(self, at: Slots) -> Slots:
        return (at + 1) & (len(self._cells) - 1)


def grown(array: NDArray[Any], capacity: int) -> NDArray[Any]:
    """The array with zeros behind, [capacity, ...]."""
    longer = np.zeros((capacity, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer
