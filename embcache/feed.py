"""A reader's feed of changed rows: for who keeps rows in memory of its own, beside the arena (owner/feeds.py).

A reader's lookup goes in this order: it reads the arena's position; it asks whether the feed is `valid`; only then it
looks into rows of its own. What it finds there is not older than that position. In return the reader keeps to this:
- It begins with no rows when the feed was opened, and takes rows from the arena alone, never from a reply of the owner.
- Rows that it takes are in one order with the changes that it is told: one that it took before a change came is
  overtaken by it.
- It asks for the next bundle once no lookup of its own that starts from then on can find what the last one overtakes.
  Until then nobody sees the position that the changes belong to. A reader that takes longer than a second or two is
  revoked: its feed is lost, and the others go on.
"""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from embcache.attachment import Attachment
from embcache.errors import EmbcacheError, NotReady
from embcache.local.frames import padded
from embcache.local.link import Reply

OPEN_TIMEOUT_S = 10.0


class FeedLost(NotReady):
    """The feed was revoked, or its owner is gone: the reader's rows are worth nothing. Empty them and open another."""


class Change(NamedTuple):
    """What rows of a table version are now: distinct ids u64 [n]; rows u8 [n, row_bytes] as in memory, None if removed.

    The arrays look into the reply as it was received: nothing was copied, and they keep it.
    """

    version: int
    ids: NDArray[np.uint64]
    rows: NDArray[np.uint8] | None


class Bundle(NamedTuple):
    """What changed since the last bundle, in order: of an id that stands in several changes the last one counts."""

    number: int
    changes: list[Change]


class Feed:
    """Made by `open`. `valid` is for all threads, `next` for one at a time."""

    def __init__(self, attachment: Attachment, number: int) -> None:
        """Use `open`."""
        self.attachment = attachment
        self.number = number
        self._lost = False

    @classmethod
    def open(cls, attachment: Attachment) -> Self:
        """Hear of everything that is applied from now on. A feed that the attachment has already is lost. FeedLost."""
        try:
            reply = attachment.link.call("feed_open").result(OPEN_TIMEOUT_S)
        except (EmbcacheError, TimeoutError) as error:
            raise _lost(error) from error
        return cls(attachment, int(reply.meta["feed"]))

    @property
    def valid(self) -> bool:
        """Whether rows that were kept true by this feed are as new as the position that was read before this call."""
        return self.attachment.ring.feed == self.number and not self._lost and not self.attachment.link.closed

    def next(self, acked: int) -> Future[Bundle]:
        """Acknowledge bundle `acked`, the last one that came (0 before the first), and ask for the next.

        The future is done, by the link's thread, once something has changed. It fails with FeedLost. Whoever asks
        twice at once, or cancels it, loses the feed.
        """
        future: Future[Bundle] = Future()
        reply = self.attachment.link.call("feed_next", {"feed": self.number, "acked": acked})
        reply.add_done_callback(partial(self._take, future))
        return future

    def close(self) -> None:
        """Hear no more, so that nobody waits for this reader; a call of `next` that waits fails. Waits for nothing."""
        self._lost = True
        self.attachment.link.call("feed_close", {"feed": self.number})

    def _take(self, future: Future[Bundle], reply: Future[Reply]) -> None:
        if not future.set_running_or_notify_cancel():
            self._lost = True  # nobody knows what was in it
            return
        try:
            future.set_result(_bundle(reply.result()))
        except Exception as error:  # whatever it is: without this bundle the next ones are worth nothing
            self._lost = True
            future.set_exception(_lost(error))


def _bundle(reply: Reply) -> Bundle:
    changes, at = [], 0
    for version, n, row_bytes in reply.meta["changes"]:
        ids = np.frombuffer(reply.payload, np.uint64, n, at)
        at += ids.nbytes
        rows = None
        if row_bytes:
            rows = np.frombuffer(reply.payload, np.uint8, n * row_bytes, at).reshape(n, row_bytes)
            at += padded(rows.nbytes)
        changes.append(Change(version, ids, rows))
    return Bundle(int(reply.meta["number"]), changes)


def _lost(error: Exception) -> FeedLost:
    return FeedLost(f"the feed of changed rows is lost: {error or 'the owner did not answer in time'}")
