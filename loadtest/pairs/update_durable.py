"""update-durable: rows that are safe from power loss, against a Redis that syncs its log before it answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from embcache_client import Client
from embcache_client.call import MAX_REPLY_BYTES, Call, Endpoint, RetryPolicy
from embcache_client.transport import Transport
from embcache_client.updates import ASSIGN, Change, decode_producer, decode_update_reply, encode_update
from embcache_client.wire import MEDIA_TYPE
from loadtest.pairs.base import Outcome, Pair, enter_peer
from loadtest.pairs.progress import wait_applied
from loadtest.peers.redis_server import keys_of, redis_with_rows
from loadtest.records import Goal
from loadtest.served import served
from loadtest.slices import alternate
from loadtest.workloads import F32s, U64s, random_ids, rows_from_ids

ROWS, DIM, BATCH_IDS, PRODUCERS, BATCHES_EACH = 262_144, 64, 4096, 4, 4
TABLE = "rows"
_RETRY = RetryPolicy(attempts=1000, cap_s=0.2)
_EMPTY_MAP = b"\x80"


class _Producer:
    """Pushes assigns of rows that are encoded before the clock runs."""

    def __init__(self, url: str, number: int) -> None:
        self._name = f"producer-{number}"
        self._transport = Transport(Endpoint(url, None, 120.0, _RETRY, MAX_REPLY_BYTES))
        opening = Call("POST", f"/v1/producers/{self._name}", lambda r: decode_producer(r.body), _EMPTY_MAP, MEDIA_TYPE)
        state = self._transport.run(opening)
        self._epoch, self._seq = state.epoch, state.last_seq
        self._bodies: list[bytes] = []
        self.position = state.position

    def prepare(self, ids: U64s, rows: F32s) -> None:
        self._seq += 1
        self._bodies.append(encode_update(self._name, self._epoch, self._seq, None, [Change(TABLE, ASSIGN, ids, rows)]))

    def push(self) -> None:
        """Push what was prepared; a batch counts once it is answered."""
        for body in self._bodies:
            call = Call("POST", "/v1/updates", lambda r: decode_update_reply(r.body), body, MEDIA_TYPE)
            self.position = self._transport.run(call).position
        self._bodies.clear()

    def close(self) -> None:
        self._transport.close()


def measure(rounds: int) -> Outcome:
    """Both sides have four threads with a connection each; ours is asked for more once all is applied."""
    rng = np.random.default_rng(9)
    ids = random_ids(ROWS, rng)
    rows = rows_from_ids(ids, DIM)

    def batch() -> tuple[U64s, F32s]:
        chosen = rng.choice(ROWS, BATCH_IDS, replace=False)
        return ids[chosen], rows[chosen]

    with ExitStack() as stack:
        service = stack.enter_context(served("256MiB"))
        redis, absent = enter_peer(stack, redis_with_rows(ids[:1], rows[:1], durable=True))
        with Client(service.url) as client:
            client.create_table({"name": TABLE, "dim": DIM})
        producers = [_Producer(service.url, number) for number in range(PRODUCERS)]
        for producer in producers:
            stack.callback(producer.close)

        def ours() -> float:
            for producer in producers:
                for _ in range(BATCHES_EACH):
                    producer.prepare(*batch())
            rate = _rate([producer.push for producer in producers])
            wait_applied(service.url, max(producer.position for producer in producers))
            return rate

        def theirs() -> float:
            return _rate([_set_all(redis, [batch() for _ in range(BATCHES_EACH)]) for _ in range(PRODUCERS)])

        figures = alternate(ours, theirs if redis is not None else None, rounds)
    return Outcome(*figures, absent=absent)


def _set_all(redis: Any, batches: Sequence[tuple[U64s, F32s]]) -> Callable[[], None]:
    """Pipelined SETs of batches, whose commands are made before the clock runs as far as redis-py allows."""
    made = [list(zip(keys_of(ids), (row.tobytes() for row in rows), strict=True)) for ids, rows in batches]

    def push() -> None:
        for pairs in made:
            pipeline = redis.pipeline(transaction=False)
            for key, value in pairs:
                pipeline.set(key, value)
            pipeline.execute()

    return push


def _rate(pushes: Sequence[Callable[[], None]]) -> float:
    """Millions of rows a second over all threads."""
    threads = [threading.Thread(target=push) for push in pushes]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return PRODUCERS * BATCHES_EACH * BATCH_IDS / (time.perf_counter() - began) / 1e6


PAIR = Pair(
    name="update-durable",
    what="Rows of 64 x f32 that are acknowledged durable: assigns in batches of 4,096 from four producers, 64 MiB a "
    "burst, over TCP loopback, against redis-py with hiredis: pipelined SETs of the same rows, 4,096 a pipeline, from "
    "four threads, to a redis-server with appendonly yes and appendfsync always.",
    unit="M rows/s",
    peer="Redis SET",
    goal=Goal(">=", 5),
    measure=measure,
)
