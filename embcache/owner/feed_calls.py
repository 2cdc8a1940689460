"""The calls of a link about its feed of changed rows: what they take, checked, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embcache.errors import MalformedRequest, NotReady
from embcache.host.ring import UseRing
from embcache.local import frames
from embcache.owner.arguments import U64, integer
from embcache.owner.feeds import Feed, Feeds
from embcache.owner.server import Answer


class FeedCalls:
    """Answers the calls of one link, which has one feed at a time; see operations.py."""

    def __init__(self, feeds: Feeds, ring: UseRing) -> None:
        """`ring` is the link's own."""
        self._feeds = feeds
        self._ring = ring
        self._feed: Feed | None = None

    async def open(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{} -> {"feed": its number, never 0}, which stands in the link's ring for as long as the feed is valid.

        A feed that the link has already ends.
        """
        self._end("another one was opened on its link")
        self._feed = self._feeds.open(self._ring)
        return {"feed": self._feed.number}, ()

    async def next(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"feed", "acked": the last bundle's number, 0 before the first} -> once there is something to tell
        {"number", "changes": [[version, n, row_bytes], ...]}, for each change ids u64 [n], distinct, and rows as in
        memory u8 [n, row_bytes], padded to 8 bytes; row_bytes is 0 where the rows were removed.

        Changes are in order: of an id that stands in several, the last counts. `acked` says that no lookup of this
        reader that starts now finds an older row of that bundle's ids. NotReady once the feed is lost.
        """
        feed = self._asked(meta)
        try:
            acked = integer(meta, "acked", U64)
        except MalformedRequest as error:
            self._feeds.revoke(feed, error)
            raise
        self._feeds.acknowledge(feed, acked)
        bundle = await feed.next()
        shapes: list[list[int]] = []
        pieces: list[frames.Buffer] = []
        for told in bundle.changes:
            shapes.append([told.version, len(told.ids), 0 if told.rows is None else told.rows.shape[1]])
            pieces.append(told.ids)
            if told.rows is not None:
                pieces += [told.rows, frames.padding(told.rows.nbytes)]
        return {"number": bundle.number, "changes": shapes}, pieces

    async def close(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"feed"} -> {}: its reader needs it no more."""
        self._feeds.end(self._asked(meta), NotReady("the feed was closed by its reader"))
        return {}, ()

    def link_ended(self) -> None:
        """Nobody is there any more to tell."""
        self._end("its link ended")

    def _asked(self, meta: Mapping[str, Any]) -> Feed:
        number = integer(meta, "feed", U64)
        if self._feed is None or number != self._feed.number:
            raise NotReady(f"feed {number} is not open on this link, or not any more: open another")
        return self._feed

    def _end(self, reason: str) -> None:
        if self._feed is not None:
            self._feeds.end(self._feed, NotReady(f"the feed has ended: {reason}"))
