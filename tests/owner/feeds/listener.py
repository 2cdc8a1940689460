"""A reader with a feed, step by step, and what tests make of what it hears."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from embcache.host.ring import UseRing
from embcache.local.link import Reply
from embcache.owner.committer import Receipt
from embcache.spec import TableSpec
from tests.owner.support import WAIT, Ids, OwnerThread, Rows, some_ids

IDS = some_ids(60)
HALF = TableSpec(name="half", dim=3, dtype="f16", add=True)  # rows of 6 bytes, of 12 on disk
Watch = Callable[[int], None]
Changes = list[tuple[int, Ids, Rows | None]]


class Listener:
    """A reader with a feed, step by step."""

    def __init__(self, owner: OwnerThread) -> None:
        self.link = owner.link()
        self.ring = UseRing(self.link.ring_fd)
        self.open()

    def open(self) -> None:
        self.number = int(self.link.call("feed_open").result(WAIT).meta["feed"])
        self.taken = 0

    @property
    def valid(self) -> bool:
        return self.ring.feed == self.number

    def ask(self) -> Future[Reply]:
        """Acknowledge what was taken."""
        return self.link.call("feed_next", {"feed": self.number, "acked": self.taken})

    def take(self, asked: Future[Reply] | None = None) -> Changes:
        """The changes of the next bundle, or of one that was asked for."""
        meta, payload = (asked or self.ask()).result(WAIT)
        self.taken += 1
        assert meta["number"] == self.taken
        data, at, changes = bytes(payload), 0, []
        for version, n, row_bytes in meta["changes"]:
            ids = np.frombuffer(data[at : at + 8 * n], np.uint64)
            at += 8 * n
            found = np.frombuffer(data[at : at + n * row_bytes], np.uint8).reshape(n, row_bytes)
            at += n * row_bytes + -(n * row_bytes) % 8
            changes.append((int(version), ids, found if row_bytes else None))
            assert len(np.unique(ids)) == n
        assert at == len(data)
        return changes


def told(owner: OwnerThread, push: Future[Receipt]) -> int:
    """Waits until a push is in the arena and with the feeds -> its position."""
    position = push.result(WAIT).position
    assert owner.when(lambda: owner.owner.parts.intake.applier._cursor.position >= position)
    return position


def published(owner: OwnerThread, position: int) -> None:
    """Waits until a position is published."""
    assert owner.when(lambda: owner.arena.position == position)


def plain(changes: Changes) -> list[tuple[int, list[int], Any]]:
    """Changes of f32 rows as lists."""
    return [(v, ids.tolist(), None if r is None else r.view(np.float32).tolist()) for v, ids, r in changes]
