"""update-sustained: how fast updates can be pushed for long, against a Redis that syncs its log before it answers."""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import islice

import numpy as np

from embcache_client import Client
from loadtest.pairs.base import Outcome, Pair, enter_peer
from loadtest.pairs.producers import PRODUCERS, at_once, batches_of, producers_of
from loadtest.pairs.progress import progress_of
from loadtest.pairs.sustained import sustain
from loadtest.peers.redis_server import redis_with_rows
from loadtest.peers.redis_sets import pipelined_sets
from loadtest.records import Goal
from loadtest.served import served
from loadtest.slices import Figures
from loadtest.workloads import random_ids, rows_from_ids

ROWS, DIM, BATCH_IDS = 262_144, 64, 4096
SECONDS_A_ROUND = 1.0
"""The default number of rounds makes a minute, which is one slice."""
MOST_BEHIND_S = 1.0
THEIR_SLICES, THEIR_BATCHES = 4, 16
_WARM_UP = 0.05  # of the time; not counted
TABLE = "rows"


def measure(rounds: int) -> Outcome:
    """Ours is one slice, since it must last; half of the peer's slices come before it and half after it."""
    rng = np.random.default_rng(11)
    ids = random_ids(ROWS, rng)
    rows = rows_from_ids(ids, DIM)
    batches = batches_of(ids, rows, BATCH_IDS, rng)
    seconds = rounds * SECONDS_A_ROUND
    with ExitStack() as stack:
        url = stack.enter_context(served("256MiB")).url
        redis, absent = enter_peer(stack, redis_with_rows(ids[:1], rows[:1], durable=True))
        stack.enter_context(Client(url)).create_table({"name": TABLE, "dim": DIM})
        producers = stack.enter_context(producers_of(url, TABLE))
        progress = stack.enter_context(progress_of(url))

        def theirs() -> list[float]:
            def rate() -> float:
                each = THEIR_BATCHES // PRODUCERS
                pushes = [pipelined_sets(redis, list(islice(batches, each))) for _ in range(PRODUCERS)]
                began = time.perf_counter()
                at_once(pushes)
                return THEIR_BATCHES * BATCH_IDS / (time.perf_counter() - began) / 1e6

            return [rate() for _ in range(THEIR_SLICES // 2)] if redis is not None else []

        before = theirs()
        sustain(producers, batches, progress, _WARM_UP * seconds)
        ours = sustain(producers, batches, progress, seconds)
        figures = Figures((ours.batches_per_s * BATCH_IDS / 1e6,)), Figures((*before, *theirs()))
    note = f"for {seconds:.3g} s, what was applied {ours.worst_s:.2g} s behind what was durable at the worst"
    return Outcome(*figures, absent=absent, note=note, failed=ours.worst_s > MOST_BEHIND_S)


PAIR = Pair(
    name="update-sustained",
    what="Rows of 64 x f32, of 262,144, that are acknowledged durable and applied, for 60 s without a pause: assigns "
    "in batches of 4,096 from four producers over TCP loopback, which hold back while `lag_s` of /v1/position is 0.25 "
    "s or more. It counts only if no batch was durable and not applied for more than 1 s. Against the same Redis as "
    "in update-durable, measured before and after.",
    unit="M rows/s",
    peer="Redis SET",
    goal=Goal(">=", 2),
    measure=measure,
)
