"""Warming versions before they go live: the ids that the live ones have in memory, those in use first, are read for the
new ones, which brings their rows into the arena. Runs on the loop.

Which ids are hot is what the arena knows already: each row that is there has a queue and a count of its hits, which
decide what leaves a full set (host/eviction.py). They are brought a piece at a time (bring.py), with a pause as long as
the piece took: lookups have the other half. What is not warm in time, or fails, is read when it is asked for: a switch
never waits longer, nor fails for that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embcache.host.eviction import MAIN
from embcache.host.table import HostTable
from embcache.host.tables import FILL
from embcache.owner.bring import Bringer
from embcache.owner.by_use import InUse, by_use
from embcache.owner.flight import Ids
from embcache.owner.memory import Memory
from embcache.owner.tables import Move, Tables
from embcache.owner.threads import log

_LEAST_PAUSE_S = 0.001


@dataclass(slots=True)
class Warming:
    """One version's warm-up: `ids` are those that it was to have in memory, of which `done` were looked after."""

    move: Move
    line: deque[InUse] = field(default_factory=deque)
    ids: int = 0
    done: int = 0

    def to_json(self) -> dict[str, int]:
        return {"ids": self.ids, "warmed": self.done}


class WarmUp:
    """Warms the versions of one owner."""

    def __init__(self, memory: Memory, bringer: Bringer, tables: Tables) -> None:
        self._memory = memory
        self._bringer = bringer
        self._tables = tables

    async def run(self, moves: Sequence[Move], limit_s: float) -> list[Warming]:
        """Give the new version of each move its share of memory, and warm it, for `limit_s` seconds at most.

        What is in memory is listed before: where there is not enough of it, the versions before give of theirs.
        """
        warming = [Warming(move) for move in moves]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                listed = [await self._in_use(each.move.before.number) for each in warming]
                self._tables.make_room(moves)
                await self._memory.settled()
                for each, ids in zip(warming, listed, strict=True):
                    self._line_up(each, ids)
                await self._bring_all(warming)
        self._tables.make_room(moves)  # also where there was no time
        return warming

    async def _in_use(self, number: int) -> InUse:
        """What is in memory of a version, put in order in a thread."""
        listed = await by_use(self._memory, number)
        return await asyncio.to_thread(listed.joined)

    def _line_up(self, warming: Warming, held: InUse) -> None:
        """As many of the first ids as find room, in pieces."""
        region = self._memory.region(warming.move.after.number)
        fit = 0 if region is None else int(region.region.slots * FILL)
        ids, use = held[0][:fit], held[1][:fit]
        warming.ids = len(ids)
        begin = 0
        for piece in self._bringer.pieces(warming.move.after.number, ids):
            warming.line.append((piece, use[begin : begin + piece.size]))
            begin += piece.size

    async def _bring_all(self, warming: Sequence[Warming]) -> None:
        loop = asyncio.get_running_loop()
        while busy := [each for each in warming if each.line]:
            for each in busy:
                began = loop.time()
                ids, use = each.line.popleft()
                try:
                    brought = await self._bringer.bring(each.move.after.number, ids)
                except Exception:
                    log.exception("version %s is not warmed any further", each.move.after.label)
                    return
                if brought is None:  # the version is gone
                    each.line.clear()
                    continue
                _use_goes_on(brought.region, ids, use)
                each.done += len(ids)
                await asyncio.sleep(max(loop.time() - began, _LEAST_PAUSE_S))


def _use_goes_on(region: HostTable, ids: Ids, use: NDArray[np.uint8]) -> None:
    """Take the rows that came to be in use as before, and those that were hit at all to be of the main queue.

    Otherwise those of most use, which come first, would be the first to leave.
    """
    region.set_use(ids, np.where(use > 0, use | MAIN, use))
