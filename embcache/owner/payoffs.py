"""Memory goes where it pays: which accesses are followed, and when the arena is divided anew by them. Runs on the loop.

Nothing is followed, or moved, while all versions have room for all their rows. Shares that the settings fix are nobody
else's, and are never changed. What was counted fades, so that shares follow what is asked for within minutes.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from embcache.host.curve import Curve
from embcache.host.tables import region_bytes
from embcache.owner.gains import Payoff, next_step
from embcache.owner.memory import Memory
from embcache.owner.threads import log

EVERY_S = 30.0
FADE_EVERY = 10  # looks, after which what was counted weighs half
ENOUGH = 2000  # accesses that are followed, over all versions, before anything is moved
_POINTS = 24  # of a curve that is told


class Payoffs:
    """Looks after the shares of one owner's memory."""

    def __init__(self, memory: Memory, *, move: bool) -> None:
        """move: whether shares follow the curves; otherwise they are only told."""
        self._memory = memory
        self._move = move
        self._looks = 0

    async def watch(self) -> None:
        """Looks every EVERY_S seconds for as long as it runs."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                self.look()
            except Exception:
                log.exception("shares of memory could not be looked at")

    def look(self) -> bool:
        """Follow the versions that want memory, and take a step where it is worth it; -> whether one is taken."""
        memory = self._memory
        if not memory.is_short:
            memory.follow_none()
            return False
        memory.follow()
        self._looks += 1
        if self._looks % FADE_EVERY == 0:
            for curve in memory.curves.values():
                curve.fade()
        enough = sum(curve.followed for curve in memory.curves.values()) >= ENOUGH
        if not self._move or not enough or not memory.is_settled:
            return False
        sizes = {held.version: held.table.region.size for held in memory.tables if held.version in memory.wants}
        payoffs = {v: self._payoff(v, curve) for v, curve in memory.curves.items() if not memory.wants[v].is_fixed}
        goals = next_step(sizes, memory.wants, payoffs, memory.capacity)
        if goals is not None:
            memory.aim(goals)
        return goals is not None

    def told(self, version: int) -> dict[str, Any] | None:
        """What is known of a version's misses; None where nothing is, such as while all rows fit.

        {"accesses": that the owner heard of, "bytes": that it has now, "now": the part of them that is missed with
        these, "if_doubled": with twice as many, "curve": [[bytes, part missed], ...]}. docs/protocol.md says more.
        """
        curve, held = self._memory.curves.get(version), self._memory.tables.get(version)
        if curve is None or held is None or not curve.followed:
            return None
        payoff, size = self._payoff(version, curve), held.table.region.size
        accesses = max(float(payoff.missed[0]), 1.0)
        places = np.unique(np.linspace(0, len(payoff.nbytes) - 1, _POINTS).astype(np.int64)).tolist()
        return {
            "accesses": curve.accesses,
            "bytes": size,
            "now": payoff.at(size) / accesses,
            "if_doubled": payoff.at(2 * size) / accesses,
            "curve": [[int(payoff.nbytes[place]), float(payoff.missed[place]) / accesses] for place in places],
        }

    def _payoff(self, version: int, curve: Curve) -> Payoff:
        rows, missed = curve.points()
        held = self._memory.tables.get(version)
        assert held is not None
        # A region's size is in proportion to its rows, but for a few.
        bytes_a_row = region_bytes(held.table.row_bytes, 1 << 20) / (1 << 20)
        return Payoff(rows * bytes_a_row, missed)
