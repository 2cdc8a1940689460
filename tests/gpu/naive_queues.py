"""A table of the hot tier as it should behave, of lists and dicts: which rows stay, and which of them leave when.

Its queues are lists in which the oldest row stands first, where the kernels compare times. It knows no digests, slots,
or launches; what comes in at once comes in one after the other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from embcache.gpu.layout import WAYS

GHOSTS, MOST_USE, USE_TO_STAY, SMALL_WAYS = 62, 3, 2, 3
_MASK = 2**64 - 1

Key = tuple[int, int]  # table version, id


def mixed(key: Key) -> int:
    version, identifier = key
    h = identifier ^ (version * 0x9E3779B97F4A7C15 & _MASK)
    for _ in range(2):
        h = (h ^ h >> 32) * 0xD6E8FEB86659FD93 & _MASK
    return h ^ h >> 32


def set_of(key: Key, sets: int) -> int:
    return (mixed(key) >> 32) * sets >> 32


def fingerprint(key: Key) -> int:
    return mixed(key) >> 8 & 0xFFFF | 1


@dataclass
class Row:
    key: Key
    use: int = 0
    pinned: bool = False


@dataclass
class NaiveSet:
    small: list[Row] = field(default_factory=list)
    main: list[Row] = field(default_factory=list)
    ghosts: deque[int] = field(default_factory=lambda: deque([0] * GHOSTS, GHOSTS))

    def row(self, key: Key) -> Row | None:
        return next((row for row in self.small + self.main if row.key == key), None)

    def remove(self, key: Key) -> None:
        self.small = [row for row in self.small if row.key != key]
        self.main = [row for row in self.main if row.key != key]

    def room(self) -> bool:
        """Make room for one more row; -> whether there is some."""
        if len(self.small) + len(self.main) < WAYS:
            return True
        while True:
            small = [row for row in self.small if not row.pinned]
            main = [row for row in self.main if not row.pinned]
            if not small and not main:
                return False
            if not main or len(small) > SMALL_WAYS:
                row = small[0]
                self.small.remove(row)
                spared, row.use = row.use >= USE_TO_STAY, 0
            else:
                row = main[0]
                self.main.remove(row)
                spared, row.use = row.use > 0, row.use - 1
            if not spared:
                self.ghosts.append(fingerprint(row.key))
                return True
            self.main.append(row)


class NaiveQueues:
    """Sets of ways. Where it says nothing of an id, that is not in."""

    def __init__(self, sets: int) -> None:
        self.sets = [NaiveSet() for _ in range(sets)]

    def of(self, key: Key) -> NaiveSet:
        return self.sets[set_of(key, len(self.sets))]

    def held(self) -> dict[Key, int]:
        """The use of each row."""
        return {row.key: row.use for each in self.sets for row in each.small + each.main}

    def hit(self, key: Key) -> None:
        row = self.of(key).row(key)
        if row is not None:
            row.use = min(MOST_USE, row.use + 1)

    def insert(self, key: Key, *, keep: bool = False, pinned: bool = False, use: int | None = None) -> None:
        here, row = self.of(key), self.of(key).row(key)
        if row is not None:
            if keep:
                self.hit(key)
            else:
                row.use, row.pinned = use or 0, pinned
            return
        back = fingerprint(key) in here.ghosts
        ghosts = [0 if ghost == fingerprint(key) else ghost for ghost in here.ghosts]
        before, here.ghosts = here.ghosts, deque(ghosts, GHOSTS)
        if not here.room():
            here.ghosts = before
            return
        queue = here.main if back or use is not None else here.small
        queue.append(Row(key, use or 0, pinned))

    def delete(self, key: Key) -> None:
        self.of(key).remove(key)
