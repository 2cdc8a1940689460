"""Which batches of a producer the service has set aside, as far as it said so; whoever pushes is told once of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from embcache_client.updates import ProducerState, UpdateReply

log = logging.getLogger("embcache_client")

OnQuarantine = Callable[[Sequence[int]], object]


class Aside:
    """positions: of the newest batches that are set aside, ascending; count: of all that are."""

    def __init__(self, producer: str, told: OnQuarantine | None) -> None:
        """`told` is called with positions that were not there before; what it raises is logged."""
        self.positions: tuple[int, ...] = ()
        self.count = 0
        self._producer = producer
        self._told = told
        self._history = ""
        self._newest = 0  # of those that were told

    def take(self, answer: ProducerState | UpdateReply) -> None:
        """What the service says now. Positions compare within one history. By one thread at a time."""
        if answer.history != self._history:
            self._history, self._newest = answer.history, 0
        self.positions, self.count = answer.quarantined, answer.quarantined_count
        new = [position for position in self.positions if position > self._newest]
        if not new:
            return
        self._newest = new[-1]
        log.warning(
            "the service has set aside %s of producer %s, at %s %s, since a row would be over its table's max_norm: no "
            "row is changed by that until somebody releases it (embcache quarantine)",
            "batches" if len(new) > 1 else "a batch",
            self._producer,
            "positions" if len(new) > 1 else "position",
            ", ".join(map(str, new)),
        )
        if self._told is not None:
            try:
                self._told(new)
            except Exception:
                log.exception("what was to be told of batches that are set aside failed")
