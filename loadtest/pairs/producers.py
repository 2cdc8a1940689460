"""Producers that push updates over HTTP. Shared by the pairs that do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np

from embcache_client.call import MAX_REPLY_BYTES, Call, Endpoint, RetryPolicy
from embcache_client.transport import Transport
from embcache_client.updates import ASSIGN, Change, decode_producer, decode_update_reply, encode_update
from embcache_client.wire import MEDIA_TYPE
from loadtest.workloads import F32s, U64s

PRODUCERS = 4
Rows = tuple[U64s, F32s]
_RETRY = RetryPolicy(attempts=1000, cap_s=0.2)  # a service that has enough says so, and is asked again
_TIMEOUT_S = 120.0
_EMPTY_MAP = b"\x80"


class Producer:
    """Pushes assigns to one table, each batch until it is durable. For one thread at a time.

    `position` is that of the last batch that was answered.
    """

    def __init__(self, url: str, name: str, table: str) -> None:
        """Opens it. The client's errors."""
        self._name, self._table = name, table
        self._transport = Transport(Endpoint(url, None, _TIMEOUT_S, _RETRY, MAX_REPLY_BYTES))
        opening = Call("POST", f"/v1/producers/{name}", lambda r: decode_producer(r.body), _EMPTY_MAP, MEDIA_TYPE)
        state = self._transport.run(opening)
        self._epoch, self._seq = state.epoch, state.last_seq
        self.position = state.position

    def encode(self, batch: Rows) -> bytes:
        """The next batch: ids u64 [n] and rows f32 [n, dim]. What is encoded has to be pushed, in order."""
        self._seq += 1
        return encode_update(self._name, self._epoch, self._seq, None, [Change(self._table, ASSIGN, *batch)])

    def push(self, body: bytes) -> int:
        """Returns once what `encode` gave is durable; -> its position."""
        call = Call("POST", "/v1/updates", lambda r: decode_update_reply(r.body), body, MEDIA_TYPE)
        self.position = self._transport.run(call).position
        return self.position

    def close(self) -> None:
        self._transport.close()


@contextmanager
def producers_of(url: str, table: str, count: int = PRODUCERS) -> Iterator[list[Producer]]:
    """Producers with a connection each, closed at the end of the block."""
    with ExitStack() as stack:
        producers = [Producer(url, f"producer-{number}", table) for number in range(count)]
        for producer in producers:
            stack.callback(producer.close)
        yield producers


def batches_of(ids: U64s, rows: F32s, size: int, rng: np.random.Generator) -> Iterator[Rows]:
    """Batches of `size` distinct ids with their rows, for ever: all rows in random order, and again."""
    while True:
        order = rng.permutation(len(ids))
        for start in range(0, len(ids) - size + 1, size):
            chosen = order[start : start + size]
            yield ids[chosen], rows[chosen]


class Shared:
    """Batches that many threads take from one iterator."""

    def __init__(self, source: Iterator[Rows]) -> None:
        self._source = source
        self._lock = threading.Lock()

    def __iter__(self) -> Shared:
        return self

    def __next__(self) -> Rows:
        with self._lock:
            return next(self._source)


def at_once(calls: Sequence[Callable[[], object]]) -> None:
    """Make the calls, each in a thread of its own; raises what the first of them raised, once all have ended."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result()
