"""update-visible: how soon a lookup sees a batch of updates, while others look up."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from loadtest.arrivals import paced
from loadtest.latency import Latencies
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.looking import Asked, lookers
from loadtest.pairs.producers import Rows, producers_of
from loadtest.pairs.warm_service import TABLE, warm_service
from loadtest.records import Goal
from loadtest.replay import RowsDiffer
from loadtest.slices import alternate
from loadtest.workloads import random_ids, rows_from_ids

ROWS, DIM, BATCH_IDS, LOOKUP_IDS = 131_072, 64, 256, 270
SLICE_S, PEAK_S = 10.0, 1.0
BATCHES_A_SECOND = 20
BUDGET_S = 60.0


def measure(rounds: int) -> Outcome:
    """One producer, whose batches are due at times of their own; each is encoded, pushed, looked up and compared.

    The peak is measured anew before each slice: what else the machine does changes it.
    """
    rng = np.random.default_rng(13)
    ids = random_ids(ROWS, rng)
    peaks: list[float] = []
    loads: list[float] = []
    with ExitStack() as stack:
        service = stack.enter_context(warm_service(ids, rows_from_ids(ids, DIM)))
        (producer,) = stack.enter_context(producers_of(service.url, TABLE, 1))
        looking = stack.enter_context(lookers(Asked(service.url, TABLE, ids, LOOKUP_IDS)))

        def batch() -> Rows:
            return rng.choice(ids, BATCH_IDS, replace=False), rng.standard_normal((BATCH_IDS, DIM), np.float32)

        def push_and_see(pushed: Rows) -> None:
            position = producer.push(producer.encode(pushed))
            seen = service.client.lookup({TABLE: pushed[0]}, min_position=position)[TABLE].rows
            if not np.array_equal(seen, pushed[1]):
                raise RowsDiffer(f"a lookup at position {position} returned other rows than those pushed")

        def p99_ms() -> float:
            latencies = Latencies()
            batches = [batch() for _ in range(round(SLICE_S * BATCHES_A_SECOND))]
            load = looking.paced(peaks[-1] / 2, SLICE_S)
            paced(push_and_see, batches, BATCHES_A_SECOND, latencies)
            loads.append(load.result().rate)
            return latencies.percentile_ms(99)

        figures = alternate(p99_ms, None, rounds, BUDGET_S, lambda: peaks.append(looking.peak(PEAK_S).result()))
    return Outcome(*figures, note=f"{np.median(loads):,.0f} lookups/s, of {np.median(peaks):,.0f} at the peak")


PAIR = Pair(
    name="update-visible",
    what="p99 from when a batch of 256 rows x 64 f32 is due to be pushed, durable, until a lookup with its position "
    "has returned all of its rows, 20 batches a second, over TCP loopback, while another process looks up 270 random "
    "ids of 131,072 warm ones at half the rate that it reaches at most.",
    unit="ms",
    peer=None,
    goal=Goal("<=", 50),
    measure=measure,
)
