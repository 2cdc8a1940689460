"""A producer as the commands push with it: batch after batch, each counted once, through a service or into its data.

Opening it tells its `mark`, which its last accepted batch carried: whoever was interrupted goes on from there. A batch
whose answer was lost is sent again as it was; one that was given up on counts or does not, and the next opening, which
stands behind it in the order of all updates, tells by the mark.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from embcache import updatecalls
from embcache.cache import EmbeddingCache
from embcache.errors import NotReady
from embcache_client import updates
from embcache_client.call import MAX_REPLY_BYTES, Endpoint, RetryPolicy
from embcache_client.producer_calls import open_call, position_call, push_call
from embcache_client.transport import Transport

_TIMEOUT_S = 120.0  # for one batch, tries again included: an owner that starts anew takes some seconds
_APPLIED_S = 60.0
_ASK_S = 0.05

Ids = NDArray[np.uint64]
Rows = NDArray[np.float32]


class Push(Protocol):
    """An opened producer. Raises EmbcacheError or ClientError."""

    @property
    def mark(self) -> bytes:
        """What its last accepted batch carried; empty where there is none."""
        ...

    @property
    def set_aside(self) -> int:
        """How many of its batches are set aside, since a row would be over its table's max_norm; as told last."""
        ...

    def push(self, table: str, ids: Ids, rows: Rows | None, mark: bytes) -> None:
        """A batch: rows f32 [n, dim] for ids u64 [n], or None to remove theirs. n may be 0: the mark counts then."""
        ...

    def settle(self) -> int:
        """Wait until all that was pushed survives power loss; -> the position from which lookups see it."""
        ...


class LocalPush:
    """Into the data of a service that is not running, through an owner of our own."""

    def __init__(self, cache: EmbeddingCache, producer: str) -> None:
        self._cache = cache
        opened = cache.open_producer(producer)
        self._producer, self._epoch, self._seq = producer, opened.epoch, opened.last_seq
        self._position = opened.position
        self.mark, self.set_aside = opened.mark, opened.quarantined_count

    def push(self, table: str, ids: Ids, rows: Rows | None, mark: bytes) -> None:
        change = updatecalls.Change(table, "delete", ids)
        if rows is not None:
            encoded = np.ascontiguousarray(rows, "<f4").view(np.uint8).reshape(len(ids), 4 * rows.shape[1])
            change = updatecalls.Change(table, "assign", ids, encoded)
        self._seq += 1
        told = self._cache.update(
            self._producer, self._epoch, self._seq, [change], mark=mark, applied_within_s=_APPLIED_S
        )
        self._position, self.set_aside = told.position, told.quarantined_count

    def settle(self) -> int:
        _until(lambda: self._cache.progress().durable, self._position)
        return self._position


class RemotePush:
    """Through a running service. A context manager: closes its connection."""

    def __init__(self, endpoint: Endpoint, producer: str) -> None:
        self._transport = Transport(endpoint)
        try:
            opened = self._transport.run(open_call(producer))
        except BaseException:
            self._transport.close()
            raise
        self._producer, self._epoch, self._seq = producer, opened.epoch, opened.last_seq
        self._position = opened.position
        self.mark, self.set_aside = opened.mark, opened.quarantined_count

    @staticmethod
    def endpoint(url: str, token: str | None) -> Endpoint:
        """Where a batch is pushed to until it is answered, or for two minutes."""
        return Endpoint(url, token, _TIMEOUT_S, RetryPolicy(attempts=1000), MAX_REPLY_BYTES)

    def push(self, table: str, ids: Ids, rows: Rows | None, mark: bytes) -> None:
        change = updates.Change(table, updates.DELETE if rows is None else updates.ASSIGN, ids, rows)
        self._seq += 1
        body = updates.encode_update(self._producer, self._epoch, self._seq, mark, [change], "applied")
        told = self._transport.run(push_call(body))
        self._position, self.set_aside = told.position, told.quarantined_count

    def settle(self) -> int:
        _until(lambda: self._transport.run(position_call())[0], self._position)
        return self._position

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()


def _until(durable: Callable[[], int], position: int) -> None:
    end = time.monotonic() + _TIMEOUT_S
    while True:
        with contextlib.suppress(NotReady):  # an owner that waits for its disk may say so
            if durable() >= position:
                return
        if time.monotonic() > end:
            raise NotReady(f"position {position} was accepted, and is not durable after {_TIMEOUT_S:g} s")
        time.sleep(_ASK_S)
