"""The rings in which readers note which slots they hit: one for each link, emptied on a timer. Runs on the loop."""

from __future__ import annotations

import asyncio

from embcache.host.ring import UseRing
from embcache.owner.memory import Memory
from embcache.owner.threads import log

DRAIN_S = 0.02


class Rings:
    """All rings of an owner."""

    def __init__(self, memory: Memory) -> None:
        """Use is counted in `memory`."""
        self._memory = memory
        self._rings: set[UseRing] = set()

    def add(self, fd: int) -> UseRing:
        """Map a new ring; `fd` stays the caller's."""
        ring = UseRing(fd)
        self._rings.add(ring)
        return ring

    def remove(self, ring: UseRing) -> None:
        """Forget the ring of a link that has ended; what it last noted still counts."""
        if ring in self._rings:
            self._drain(ring)
            self._rings.discard(ring)

    def drain(self) -> None:
        """Counts what all readers noted since the last time."""
        for ring in list(self._rings):
            self._drain(ring)

    async def watch(self) -> None:
        """Drains every DRAIN_S seconds for as long as it runs."""
        while True:
            await asyncio.sleep(DRAIN_S)
            self.drain()

    def _drain(self, ring: UseRing) -> None:
        try:
            entries, slots = ring.drain()
            if entries.size:
                self._memory.count_use(entries, slots)
        except Exception:  # a reader can write anything into its ring, and loses it then
            log.exception("a use ring holds nonsense and is ignored from now on")
            self._rings.discard(ring)
