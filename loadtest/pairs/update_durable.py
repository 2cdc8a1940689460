"""update-durable: rows that are safe from power loss, against a Redis that syncs its log before it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice

import numpy as np

from embcache_client import Client
from loadtest.pairs.base import Outcome, Pair, enter_peer
from loadtest.pairs.producers import PRODUCERS, Producer, at_once, batches_of, producers_of
from loadtest.pairs.progress import progress_of
from loadtest.peers.redis_server import redis_with_rows
from loadtest.peers.redis_sets import pipelined_sets
from loadtest.records import Goal
from loadtest.served import served
from loadtest.slices import alternate
from loadtest.workloads import random_ids, rows_from_ids

ROWS, DIM, BATCH_IDS = 262_144, 64, 4096
OUR_BATCHES, THEIR_BATCHES = 256, 16
TABLE = "rows"
WHOLE_BURST = {"EMBCACHE_UPDATES__WAITING_BYTES": "512MiB"}


def measure(rounds: int) -> Outcome:
    """Both sides have four threads with a connection each; ours is asked for more once all is applied."""
    rng = np.random.default_rng(9)
    ids = random_ids(ROWS, rng)
    rows = rows_from_ids(ids, DIM)
    batches = batches_of(ids, rows, BATCH_IDS, rng)
    with ExitStack() as stack:
        url = stack.enter_context(served("256MiB", WHOLE_BURST)).url
        redis, absent = enter_peer(stack, redis_with_rows(ids[:1], rows[:1], durable=True))
        stack.enter_context(Client(url)).create_table({"name": TABLE, "dim": DIM})
        producers = stack.enter_context(producers_of(url, TABLE))
        progress = stack.enter_context(progress_of(url))

        def ours() -> float:
            each = OUR_BATCHES // PRODUCERS
            bursts = [[producer.encode(batch) for batch in islice(batches, each)] for producer in producers]
            rate = _rate([partial(_push, *pushed) for pushed in zip(producers, bursts, strict=True)], OUR_BATCHES)
            progress.wait_applied(max(producer.position for producer in producers))
            return rate

        def theirs() -> float:
            each = THEIR_BATCHES // PRODUCERS
            return _rate([pipelined_sets(redis, list(islice(batches, each))) for _ in producers], THEIR_BATCHES)

        figures = alternate(ours, theirs if redis is not None else None, rounds)
    return Outcome(*figures, absent=absent)


def _push(producer: Producer, bodies: list[bytes]) -> None:
    for body in bodies:
        producer.push(body)


def _rate(pushes: Sequence[Callable[[], None]], batches: int) -> float:
    """Millions of rows a second over all threads."""
    began = time.perf_counter()
    at_once(pushes)
    return batches * BATCH_IDS / (time.perf_counter() - began) / 1e6


PAIR = Pair(
    name="update-durable",
    what="Rows of 64 x f32 that are acknowledged durable: assigns in batches of 4,096 from four producers, 256 MiB a "
    "burst, over TCP loopback, with `updates.waiting_bytes` large enough for the whole burst, against redis-py with "
    "hiredis: pipelined SETs of the same rows, 4,096 a pipeline, from four threads, to a redis-server with appendonly "
    "yes and appendfsync always; 16 MiB a burst, since it has nothing to apply later and its rate is the same for any "
    "length.",
    unit="M rows/s",
    peer="Redis SET",
    goal=Goal(">=", 5),
    measure=measure,
)
