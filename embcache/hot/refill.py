"""Filling an empty hot tier with what is in use: a thread that asks the owner for the ids in the warm arena, those of
most use first, tables in turn, and hands them on, page by page, to the hot tier's writer.

What is of the warm tier's main queue begins in that of the hot tier, with as many hits. It waits for the rows that a
warm start brings back. It stops where a share of the room is taken: the rest is for what lookups ask for meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from embcache.errors import EmbcacheError
from embcache.gpu.pools import Pool
from embcache.host.eviction import MAIN, MOST_HITS, MOST_USE
from embcache.pending import TIMEOUT_S

if TYPE_CHECKING:
    from embcache.attachment import Attachment
    from embcache.hot.filling import HandOn
    from embcache.views import TableView

log = logging.getLogger("embcache.hot")

PAGE_IDS: Final = 4096
SHARE: Final = 0.75  # of a pool's places: its sets fill unevenly
_LATER_S: Final = 0.25
_LOOK_S: Final = 0.1  # how long one wait for the writer takes at most, before it is looked whether to stop


class Refill:
    """Runs at once, until there is nothing more in use, no more room, or `stop`."""

    def __init__(self, attachment: Attachment, tables: Sequence[tuple[TableView, Pool]], hand_on: HandOn) -> None:
        """Each table with the pool that its rows stand in."""
        self._attachment = attachment
        self._tables = tables
        self._room = {pool.index: int(pool.ways * SHARE) for _, pool in tables}
        self._hand_on = hand_on
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="embcache-refill", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Hand on nothing more. Waits for nothing."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            brought = sum(
                self._bring_up(view, pool, use) for use in range(int(MOST_USE), 0, -1) for view, pool in self._tables
            )
        except EmbcacheError as error:  # the owner is gone
            log.info("no more rows in use are brought up: %s", error)
            return
        if brought:
            log.info("%d rows in use were brought up from the warm tier", brought)

    def _bring_up(self, view: TableView, pool: Pool, use: int) -> int:
        """Bring up what of a table is in use so much -> how many rows were handed on."""
        first: int | None = 0
        brought = 0
        while first is not None and self._room[pool.index] > 0 and not self._stopped.is_set():
            meta = {"version": view.number, "use": use, "set": first}
            told = self._attachment.link.call("in_use", meta).result(TIMEOUT_S)
            if told.meta["later"]:
                self._stopped.wait(_LATER_S)
                continue
            ids = np.frombuffer(told.payload, np.uint64)[: self._room[pool.index]]
            for begin in range(0, ids.size, PAGE_IDS):
                self._hand_on_one(view, ids[begin : begin + PAGE_IDS], use)
            self._room[pool.index] -= ids.size
            brought += ids.size
            first = told.meta["next"]
        return brought

    def _hand_on_one(self, view: TableView, ids: NDArray[np.uint64], use: int) -> None:
        if self._stopped.is_set():
            return
        handed_on = threading.Event()
        self._hand_on(view, ids, handed_on.set, use=use & int(MOST_HITS) if use & int(MAIN) else None)
        while not handed_on.wait(_LOOK_S) and not self._stopped.is_set():
            pass
