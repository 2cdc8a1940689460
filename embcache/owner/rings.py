"""The rings in which readers note which slots they hit: one for each link, emptied on a timer. Runs on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import numpy as np

from embcache.host.ring import UseRing
from embcache.owner.memory import Memory
from embcache.owner.threads import log

# So often that a row which was hit is known to be, before those that come in the meantime push it out: cold reads bring
# about a thousand rows in that time.
DRAIN_S = 0.005
SILENT_S = 0.02  # while nobody looks up anything


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
            self._count([ring])
            self._rings.discard(ring)

    def drain(self) -> bool:
        """Counts what all readers noted since the last time; -> whether that was anything."""
        return self._count(ring for ring in self._rings if not ring.silent)

    async def watch(self) -> None:
        """Drains every DRAIN_S seconds for as long as it runs."""
        pause = DRAIN_S
        while True:
            await asyncio.sleep(pause)
            pause = DRAIN_S if self.drain() else SILENT_S

    def _count(self, rings: Iterable[UseRing]) -> bool:
        """All together, so that what each table costs it costs once, however many readers there are."""
        words = [ring.drain() for ring in rings]
        try:
            if words:
                self._memory.count_use(words[0] if len(words) == 1 else np.concatenate(words))
        except Exception:  # what readers tell is a help, and nothing depends on it
            log.exception("what readers told of use could not be counted")
        return bool(words)
