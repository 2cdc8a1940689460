"""Prefetches: rows of ids that somebody says will be asked for are read into the arena before. Runs on the loop.

A prefetch is a hint, answered at once. One task does what waits, a piece at a time, through the reads of lookups
(reads.py), which go beside it: so an update that comes meanwhile overtakes what is read, and a lookup of the same ids
joins. It stands in line for one piece only, whoever else reads. What is lost, with the owner or for want of memory,
lookups read themselves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from embcache.errors import MalformedRequest, Overloaded
from embcache.owner.arguments import U32, get, is_integer
from embcache.owner.flight import Ids
from embcache.owner.memory import Memory
from embcache.owner.reads import Part, Reads
from embcache.owner.server import Answer
from embcache.owner.tables import Tables
from embcache.owner.threads import log

PIECE_IDS: Final = 1024
MAX_WAITING_IDS: Final = 4 << 20
_BUSY_S: Final = 0.05


class Prefetches:
    """Those of one owner. `rows` counts the ones that were brought."""

    def __init__(self, memory: Memory, reads: Reads, tables: Tables) -> None:
        self._memory = memory
        self._reads = reads
        self._tables = tables
        self._line: deque[tuple[int, Ids]] = deque()
        self._arrived = asyncio.Event()
        self.waiting = 0  # ids
        self.rows = 0

    async def prefetch(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"parts": [[version, n], ...]}, ids u64 of all parts -> {"queued": ids that will be looked after}.

        Overloaded where too many wait: nothing of it is done.
        """
        parts = get(meta, "parts", list)
        if not all(_is_part(part) for part in parts) or 8 * sum(n for _, n in parts) != payload.nbytes:
            raise MalformedRequest("the parts of a prefetch are [version, n], followed by n u64 ids of each")
        ids = np.frombuffer(payload, np.uint64).copy()  # the payload is the link's
        if self.waiting + ids.size > MAX_WAITING_IDS:
            raise Overloaded(f"{self.waiting:,} ids wait for their rows already", {"retry_after_ms": 200})
        self._queue(parts, ids)
        return {"queued": ids.size}, ()

    async def watch(self) -> None:
        """Brings what is asked for, for as long as it runs."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._line:
                version, ids = self._line.popleft()
                try:
                    await self._bring(version, ids)
                except Overloaded:  # by lookups, which go first
                    self._line.appendleft((version, ids))
                    await asyncio.sleep(_BUSY_S)
                    continue
                except Exception:
                    log.exception("some rows of version %d were not prefetched", version)
                self.waiting -= ids.size

    def _queue(self, parts: Sequence[tuple[int, int]], ids: Ids) -> None:
        begin = 0
        for version, count in parts:
            mine = ids[begin : begin + count]
            begin += count
            self._line.extend((version, mine[at : at + PIECE_IDS]) for at in range(0, count, PIECE_IDS))
        self.waiting += ids.size
        self._arrived.set()

    async def _bring(self, number: int, ids: Ids) -> None:
        """Read the rows of those ids that the arena lacks."""
        await self._memory.settled()
        version, there = self._tables.find(number), self._memory.read(number, ids)
        if version is None or there is None:
            return
        missing = np.unique(ids[~there[1]])
        if missing.size:
            await self._reads.read([Part(number, version.row_bytes, missing)])
            self.rows += missing.size


def _is_part(part: object) -> bool:
    return isinstance(part, list) and len(part) == 2 and all(is_integer(number, 0, U32) for number in part)
