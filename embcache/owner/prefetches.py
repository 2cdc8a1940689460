"""Prefetches: rows of ids that somebody says will be asked for are read into the arena before. Runs on the loop.

A prefetch is a hint, answered at once. One task does what waits, a piece at a time (bring.py), so lookups never stand
in line behind more. What is lost, with the owner or for want of memory, lookups read themselves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from embcache.errors import MalformedRequest, Overloaded
from embcache.owner.arguments import U32, get, is_integer
from embcache.owner.bring import Bringer
from embcache.owner.flight import Ids
from embcache.owner.server import Answer
from embcache.owner.threads import log

MAX_WAITING_IDS: Final = 4 << 20


class Prefetches:
    """Those of one owner. `rows` counts the ones that were brought."""

    def __init__(self, bringer: Bringer) -> None:
        self._bringer = bringer
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
        return {"queued": self._queue(parts, ids)}, ()

    async def watch(self) -> None:
        """Brings what is asked for, for as long as it runs."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._line:
                version, ids = self._line.popleft()
                try:
                    brought = await self._bringer.bring(version, ids)
                    self.rows += brought.read if brought is not None else 0
                except Exception:
                    log.exception("some rows of version %d were not prefetched", version)
                self.waiting -= ids.size

    def _queue(self, parts: Sequence[tuple[int, int]], ids: Ids) -> int:
        begin = queued = 0
        for version, count in parts:
            pieces = list(self._bringer.pieces(version, ids[begin : begin + count]))
            begin += count
            self._line.extend((version, piece) for piece in pieces)
            queued += sum(piece.size for piece in pieces)
        self.waiting += queued
        self._arrived.set()
        return queued


def _is_part(part: object) -> bool:
    return isinstance(part, list) and len(part) == 2 and all(is_integer(number, 0, U32) for number in part)
