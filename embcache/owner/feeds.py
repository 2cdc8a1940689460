"""Feeds of changed rows, for readers that keep rows in memory of their own: never older than the applied position.

Order, and why it is enough. All of it is on the loop, but for what readers do:
1. A piece of updates is committed to the store; then one step replaces its rows in the arena and tells each feed
   (applier.py). A reader begins with no rows and takes rows from the arena alone, so what it took before it was told of
   a change is told of, and what it takes later is the new row.
2. A reader gets what it was told in numbered bundles, one at a time, and acknowledges each as it asks for the next: no
   lookup of its own that starts from then on finds an older row of these ids.
3. A position is published once every feed has acknowledged all that was told up to it; positions in their order.
   Changes of tables wait in the same line. They are not told: version numbers are never used again.
4. A feed that keeps the others waiting for ACK_S, breaks the rules, or whose link ends is revoked: the word in its
   link's use ring is 0 before any further position is published. Its reader looks at the word at each lookup.
Invariant: whoever reads position P in the arena, and then finds its feed valid, holds no row older than P.
For when P was published, each feed had acknowledged P, or was opened after P was told and so began with nothing older,
or was revoked. The word of a revoked one was stored before P, both with release order; position and word are loaded in
this order, both with acquire order. So who sees that P sees 0 as well, or the number of a later feed, and never the
revoked one's: numbers are never used again.

Without feeds positions are published at once, and nothing is told, kept or counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from embcache.errors import EmbcacheError, MalformedRequest, NotReady
from embcache.host.ring import UseRing
from embcache.owner.flight import Ids, Rows
from embcache.owner.threads import log

ACK_S = 2.0  # how long a feed may keep everybody's positions waiting
_TICKS = 8  # the parts in which that is counted: time in which the loop itself stood still is nobody's fault
BUNDLE_BYTES = 4 << 20
UNACKED_BYTES = 16 << 20  # of a feed; beyond it the applier waits
_CHANGE_BYTES = 1 << 10  # what a change is counted for beside its arrays, so that small ones are bounded too


@dataclass(frozen=True, slots=True)
class Told:
    """Rows of a version as they are now: distinct ids u64 [n], rows u8 [n, row_bytes] as in memory, None if removed.

    `sequence` numbers all that is told, `tick` is when that was.
    """

    sequence: int
    tick: int
    version: int
    ids: Ids
    rows: Rows | None

    @property
    def nbytes(self) -> int:
        """About what it takes to keep and to send."""
        return _CHANGE_BYTES + self.ids.nbytes + (0 if self.rows is None else self.rows.nbytes)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a feed sends at once, in order; each bundle's number is one more than the last one's, the first is 1."""

    number: int
    changes: Sequence[Told]


class Feed:
    """What one reader was told and has not acknowledged. Made by Feeds.open, ended by Feeds.revoke."""

    def __init__(self, number: int, ring: UseRing) -> None:
        self.number = number
        self.sent = 0  # the number of the last bundle
        self.unacked_bytes = 0
        self.lost: EmbcacheError | None = None
        self._ring = ring
        self._line: deque[Told] = deque()
        self._flight: list[Told] = []
        self._poll: asyncio.Future[None] | None = None
        ring.publish_feed(number)

    @property
    def oldest(self) -> Told | None:
        """The first of what is not acknowledged."""
        return self._flight[0] if self._flight else self._line[0] if self._line else None

    def tell(self, told: Told) -> None:
        """Put a change in line."""
        self._line.append(told)
        self.unacked_bytes += told.nbytes
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(None)

    def acknowledge(self, number: int) -> None:
        """Bundle `number` was taken. MalformedRequest where it is not the one that is due."""
        if self._poll is not None:
            raise MalformedRequest(f"feed {self.number} was asked twice at once: one call waits for its next bundle")
        if number != self.sent:
            raise MalformedRequest(
                f"feed {self.number} was asked for its next bundle with `acked` {number}; the last one it sent is "
                f"{self.sent}, which has to be acknowledged first"
            )
        self.unacked_bytes -= sum(told.nbytes for told in self._flight)
        self._flight = []

    async def next(self) -> Bundle:
        """The next bundle, once there is something to tell; what lost the feed, when it is lost before."""
        if not self._line and self.lost is None:
            self._poll = asyncio.get_running_loop().create_future()
            try:
                await self._poll
            finally:
                self._poll = None
        if self.lost is not None:
            raise self.lost
        nbytes = 0
        while self._line and (nbytes == 0 or nbytes + self._line[0].nbytes <= BUNDLE_BYTES):
            nbytes += self._line[0].nbytes
            self._flight.append(self._line.popleft())
        self.sent += 1
        return Bundle(self.sent, self._flight)

    def end(self, lost: EmbcacheError) -> None:
        """Its reader's rows are worth nothing from here on."""
        self._ring.publish_feed(0)
        self.lost = lost
        self._line.clear()
        self._flight = []
        self.unacked_bytes = 0
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(None)


class Feeds:
    """All feeds of an owner, and the positions that wait for them. Every method runs on the loop."""

    def __init__(self) -> None:
        self._live: dict[int, Feed] = {}
        self._last_number = 0
        self._told = 0
        self._tick = 0
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._moved = asyncio.Event()
        self._closed = False
        self.revoked = 0

    def __len__(self) -> int:
        return len(self._live)

    @property
    def unacked_bytes(self) -> int:
        """What was told and not acknowledged, of all feeds together."""
        return sum(feed.unacked_bytes for feed in self._live.values())

    def open(self, ring: UseRing) -> Feed:
        """A new feed, told of all that is applied from now on, for the reader whose link has this ring. NotReady."""
        if self._closed:
            raise NotReady("the owner is stopping", {"retry_after_ms": 1000})
        self._last_number += 1
        feed = self._live[self._last_number] = Feed(self._last_number, ring)
        return feed

    def acknowledge(self, feed: Feed, number: int) -> None:
        """A feed's reader has taken bundle `number`, see Feed.acknowledge; who breaks the rules loses the feed."""
        if feed.lost is not None:
            raise feed.lost
        try:
            feed.acknowledge(number)
        except MalformedRequest as error:
            self.revoke(feed, error)
            raise
        self._go_on()

    def revoke(self, feed: Feed, lost: EmbcacheError) -> None:
        """End a feed for its reader's fault."""
        if feed.lost is None:
            self.revoked += 1
            log.warning("a reader's feed of changed rows was revoked: %s", lost.message)
            self.end(feed, lost)

    def end(self, feed: Feed, lost: EmbcacheError) -> None:
        """End a feed; a second time does nothing. Its word is 0 before the positions that waited for it go out."""
        if feed.lost is None:
            feed.end(lost)
            del self._live[feed.number]
            self._go_on()

    def close(self) -> None:
        """End all feeds and open no more."""
        self._closed = True
        for feed in list(self._live.values()):
            self.end(feed, NotReady("the owner stops", {"retry_after_ms": 1000}))

    # --- for the applier -----------------------------------------------------------------------------------------

    def tell(self, version: int, ids: Ids, rows: Rows | None) -> None:
        """Rows of ids u64 [n] of a version were replaced in the arena in this step: rows u8 [n, row_bytes], None if
        removed. Of repeated ids the last one counts. Arrays are kept as they are.
        """
        if self._live and len(ids):
            for some_ids, some_rows in _pieces(*_distinct(ids, rows)):
                self._told += 1
                told = Told(self._told, self._tick, version, some_ids, some_rows)
                for feed in self._live.values():
                    feed.tell(told)

    def when_acked(self, then: Callable[[], None]) -> None:
        """Call `then` once all that was told so far is acknowledged by every feed, at once where it is; in order."""
        self._waiting.append((self._told, then))
        self._go_on()

    async def room(self) -> None:
        """Until more may be told."""
        while any(feed.unacked_bytes >= UNACKED_BYTES for feed in self._live.values()):
            self._moved.clear()
            await self._moved.wait()

    async def watch(self) -> None:
        """Looks at all feeds, _TICKS times in ACK_S, for as long as it runs."""
        while True:
            await asyncio.sleep(ACK_S / _TICKS)
            self.look()

    def look(self) -> None:
        """Revoke the feeds that have kept the others waiting for _TICKS looks."""
        self._tick += 1
        for feed in list(self._live.values()):
            oldest = feed.oldest
            if oldest is not None and self._tick - oldest.tick > _TICKS:
                self.revoke(feed, NotReady(f"its reader did not acknowledge changed rows within {ACK_S:g} s"))

    def _go_on(self) -> None:
        """Something was acknowledged, or nothing waits for a feed any more."""
        oldest = [feed.oldest for feed in self._live.values()]
        acked = min((told.sequence - 1 for told in oldest if told is not None), default=self._told)
        while self._waiting and self._waiting[0][0] <= acked:
            self._waiting.popleft()[1]()
        self._moved.set()


def _distinct(ids: Ids, rows: Rows | None) -> tuple[Ids, Rows | None]:
    """The ids without repeats, in order; of one that is repeated the last place counts."""
    own, last = np.unique(ids[::-1], return_index=True)
    if len(own) == len(ids):
        return ids, rows
    places = np.sort(len(ids) - 1 - last)
    return ids[places], None if rows is None else rows[places]


def _pieces(ids: Ids, rows: Rows | None) -> Iterator[tuple[Ids, Rows | None]]:
    """The same in pieces that each fit into a bundle."""
    each = 8 + (0 if rows is None else rows.shape[1])
    step = max(1, (BUNDLE_BYTES - _CHANGE_BYTES) // each)
    for begin in range(0, len(ids), step):
        part = slice(begin, begin + step)
        yield ids[part], None if rows is None else rows[part]
