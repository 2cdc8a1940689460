"""Rows that nobody waits for: of some ids those that the arena lacks are read and brought in. Runs on the loop.

For whoever knows which rows will be asked for: prefetches, versions before they go live, the rows that were in memory
before a start. They are read as lookups' rows are (reads.py): an update that comes meanwhile overtakes them, a lookup
of the same ids joins, and where lookups have all that may be read at once, they go first.

The arena may be divided anew meanwhile, or the version may go. What is read while a region is moved goes nowhere, so it
is read again, for the new region.
Invariant: `bring` answers with the region that the version has in this very step of the loop, and that one was its
region in all steps since it was asked what it lacks. So all rows that were read were offered to it, and each id has its
row there or is marked absent, but for what found no room, is damaged, was overtaken by an update or was pushed out by
others since: whoever asks for these reads them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np

from embcache.errors import Overloaded
from embcache.host.table import HostTable
from embcache.owner.catalogue import Version
from embcache.owner.flight import Ids
from embcache.owner.memory import Memory
from embcache.owner.reads import Part, Reads

PIECE_IDS: Final = 1024
PIECE_BYTES: Final = 1 << 20  # of rows
_RETRY_S: Final = 0.05


class Brought(NamedTuple):
    """`region`: where the rows are. `read`: how many ids were read for it. `shared`: others waited for rows, too."""

    region: HostTable
    read: int
    shared: bool


class Bringer:
    """Brings rows for one owner."""

    def __init__(self, memory: Memory, reads: Reads, find: Callable[[int], Version | None]) -> None:
        """`find(version)` is what is known of it, None once it is gone."""
        self._memory = memory
        self._reads = reads
        self._find = find

    def pieces(self, number: int, ids: Ids) -> Iterator[Ids]:
        """The ids in pieces, each to be brought at once, so small that others go on; none: the version is gone."""
        version = self._find(number)
        if version is None:
            return
        step = max(1, min(PIECE_IDS, PIECE_BYTES // version.row_bytes))
        for begin in range(0, ids.size, step):
            yield ids[begin : begin + step]

    async def bring(self, number: int, ids: Ids, use: int | None = None) -> Brought | None:
        """Bring in the rows of ids u64 [n], in any order, repeats allowed; None: the version is gone.

        use: see reads.Part. Waits as long as regions are moved and lookups need all reads. Raises errors of the store.
        """
        while (version := self._find(number)) is not None:
            await self._memory.settled()
            region = self._memory.region(number)
            if region is None:  # it is about to go, or to be moved
                await asyncio.sleep(_RETRY_S)
                continue
            missing = np.unique(ids[~region.read(ids)[1]])
            shared = self._reads.asked
            try:
                if missing.size:
                    await self._reads.read([Part(number, version.row_bytes, missing, use)])
            except Overloaded:
                await asyncio.sleep(_RETRY_S)
                continue
            if self._memory.region(number) is region:
                return Brought(region, missing.size, shared or self._reads.asked)
        return None
