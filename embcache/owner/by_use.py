"""Which ids a version has in memory, by how much each is in use: a slice of its sets in each step of the loop."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embcache.host.eviction import MOST_USE
from embcache.owner.flight import Ids
from embcache.owner.memory import Memory, breathe

LIST_SETS = 4096  # whose ids are listed in one step of the loop
CLASSES = int(MOST_USE) + 1

# Ids u64 [n], and how much their rows are in use, u8 [n] (host/table.py).
InUse = tuple[Ids, NDArray[np.uint8]]


@dataclass(slots=True)
class Listed:
    """The ids u64 [n] of each use, the most first, in pieces. whole: False where the region went meanwhile."""

    pieces: list[list[Ids]] = field(default_factory=lambda: [[] for _ in range(CLASSES)])
    whole: bool = True

    @property
    def ids(self) -> int:
        """How many there are."""
        return sum(some.size for some in itertools.chain(*self.pieces))

    def joined(self) -> InUse:
        """All ids, those of most use first, each use's ascending, which reads the disk in order. Takes a while."""
        counts = [sum(some.size for some in pieces) for pieces in self.pieces]
        use = np.repeat(np.arange(CLASSES, dtype=np.uint8)[::-1], counts)
        ordered = [np.sort(np.concatenate([np.empty(0, np.uint64), *pieces])) for pieces in self.pieces]
        return np.concatenate(ordered), use


async def by_use(memory: Memory, version: int) -> Listed:
    """The ids that a version has in memory. Where it gets another region meanwhile, those that were seen until then."""
    listed = Listed()
    first = memory.tables.get(version)
    for begin in range(0, first.table.region.sets if first else 0, LIST_SETS):
        held = memory.tables.get(version)
        if held is None or first is None or held.table is not first.table:
            listed.whole = False
            return listed
        ids, use = held.table.held(begin, LIST_SETS)
        for place, some in enumerate(listed.pieces):
            some.append(ids[use == CLASSES - 1 - place])
        await breathe()
    return listed
