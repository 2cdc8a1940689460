"""A reader's hold on one owner: the link, the arena mapped read-only, the use ring, the catalogue as it was last seen.

Invariant: no arena outlives its owner for a reader. Every lookup begins with `check`: a dead arena or a lost link
answers nothing, and a catalogue older than the arena's generation is fetched anew before anything is resolved by it.
An attachment that is lost stays lost; the cache makes a new one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embcache.errors import NotReady
from embcache.host import probe
from embcache.host.arena import Arena
from embcache.host.memory import address_of
from embcache.host.ring import MASK, UseRing, private_ring
from embcache.host.segment import COUNT, LEFT, MISSING, SEGMENT_COLUMNS, WARM
from embcache.local.link import Link, Reply
from embcache.pending import Pending
from embcache.views import TableView, Views, parse_catalogue

if TYPE_CHECKING:
    from embcache.hot.tier import HotTier


class Attachment:
    """Made by `connect`. Safe for many threads."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.arena = Arena.adopt(link.arena_fd, writable=False)
        self._ring = UseRing(link.ring_fd)
        self._unheard = private_ring()  # for looks that nobody asked for
        self._ticks = itertools.count()  # a C function: one step, whatever the threads do
        self.hot: HotTier | None = None  # this process's own, if it has one
        self.views = Views(-1, "", {}, {})

    @classmethod
    def connect(cls, folder: str | Path, timeout: float) -> Attachment:
        """Join the owner of a data folder within `timeout` seconds; NotReady says why it cannot be."""
        link = Link.connect(folder, timeout)
        try:
            attachment = cls(link)
            attachment.refresh()
        except BaseException:
            link.close()
            raise
        return attachment

    @property
    def alive(self) -> bool:
        """Whether the owner is there to be asked, as far as is known."""
        return not self.link.closed and self.arena.alive

    @property
    def ring(self) -> UseRing:
        """This reader's own ring, with the word that says which feed of changed rows it may rely on (feed.py)."""
        return self._ring

    @property
    def stale(self) -> bool:
        """Whether the catalogue has changed since it was fetched."""
        return self.arena.generation != self.views.generation

    def check(self) -> None:
        """Raise NotReady when nothing may be answered from this arena any more."""
        if not self.alive:
            raise NotReady("the owner of the rows is being started again", {"retry_after_ms": 200})

    def refresh(self) -> None:
        """Fetch the catalogue; NotReady where the owner does not tell it within seconds."""
        self._ask_catalogue().result()

    async def refresh_async(self) -> None:
        """`refresh` for an event loop."""
        await self._ask_catalogue()

    def probe(self, segments: NDArray[np.int64]) -> int:
        """Look up a lookup's segments in the arena; -> how many ids are left."""
        tick = np.uint64(next(self._ticks))
        return int(probe.probe(self.arena.address, segments, self._ring.address, MASK, tick))

    def peek(self, segments: NDArray[np.int64]) -> int:
        """`probe` for whom it is no use of the rows: the owner does not hear of it."""
        tick = np.uint64(next(self._ticks))
        return int(probe.probe(self.arena.address, segments, self._unheard.address, MASK, tick))

    def probe_now(self, segments: NDArray[np.int64], generation: int, position_at: int) -> int:
        """`probe`, or -1 where the arena is dead or its catalogue of another generation.

        The position as it is before, u64 big-endian, goes to the address `position_at`.
        """
        tick = np.uint64(next(self._ticks))
        return int(
            probe.probe_now(self.arena.address, segments, self._ring.address, MASK, tick, generation, position_at)
        )

    def probe_listed(self, segments: NDArray[np.int64]) -> int:
        """`probe` for the ids alone that MISSES lists, the first LEFT of each segment."""
        tick = np.uint64(next(self._ticks))
        return int(probe.probe_listed(self.arena.address, segments, self._ring.address, MASK, tick))

    def warm_rows(self, view: TableView, ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """Those of ids u64 [n] that the arena has now, u64 [m], and their rows as stored, u8 [m, row_bytes].

        For a tier above: it is no use of the rows, since what that answers from then on is asked of nobody below.
        """
        rows, status, _ = self._looked_up(view, ids, self.peek)
        found = status == WARM
        return ids[found], rows[found]

    def split(self, view: TableView, ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """(Those of ids u64 [n] that the arena has now, those of which it knows nothing): not those without a row."""
        _, status, left = self._looked_up(view, ids, self.probe)
        return ids[status == WARM], ids[left]

    def _looked_up(
        self, view: TableView, ids: NDArray[np.uint64], look: Callable[[NDArray[np.int64]], int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]:
        """(rows u8 [n, row_bytes] as stored, status u8 [n] of WARM or MISSING, the places of ids that are left)."""
        rows, status = np.empty((ids.size, view.spec.row_bytes), np.uint8), np.empty(ids.size, np.uint8)
        misses, segments = np.empty(ids.size, np.int32), np.zeros((1, SEGMENT_COLUMNS), np.int64)
        segments[0, :COUNT] = view.columns
        segments[0, COUNT:LEFT] = (ids.size, *(address_of(array) for array in (ids, rows, status, misses)))
        left = look(segments)
        status[misses[:left]] = MISSING
        return rows, status, misses[:left]

    def close(self) -> None:
        """Leave the owner. Lookups under way fail; the mapping goes with its last user."""
        self.link.close()

    def _ask_catalogue(self) -> Pending[None]:
        self.check()
        return Pending(self.link.call("catalogue"), self._take_catalogue, state=True)

    def _take_catalogue(self, reply: Reply) -> None:
        views = parse_catalogue(reply.meta)
        if views.generation > self.views.generation:  # replies to several threads may come in any order
            self.views = views
            if self.hot is not None:
                self.hot.catalogue_changed(views)
