"""lookup-while-updating: what updates cost those who look up."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice

import numpy as np

from loadtest.arrivals import paced
from loadtest.latency import Latencies
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.looking import Asked, lookers
from loadtest.pairs.producers import Producer, Rows, Shared, at_once, batches_of, producers_of
from loadtest.pairs.progress import progress_of
from loadtest.pairs.sustained import sustain
from loadtest.pairs.warm_service import TABLE, warm_service
from loadtest.records import Goal
from loadtest.slices import alternate
from loadtest.workloads import random_ids, rows_from_ids

ROWS, DIM, BATCH_IDS, LOOKUP_IDS = 131_072, 64, 4096, 270
SLICE_S, PEAK_S = 2.0, 1.0
BUDGET_S = 90.0
MILLION_ROWS = BATCH_IDS / 1e6


def measure(rounds: int) -> Outcome:
    """Each round measures both peaks anew, one after the other: what else the machine does changes them."""
    rng = np.random.default_rng(14)
    ids = random_ids(ROWS, rng)
    rows = rows_from_ids(ids, DIM)
    batches = Shared(batches_of(ids, rows, BATCH_IDS, rng))
    with ExitStack() as stack:
        url = stack.enter_context(warm_service(ids, rows)).url
        producers = stack.enter_context(producers_of(url, TABLE))
        progress = stack.enter_context(progress_of(url))
        looking = stack.enter_context(lookers(Asked(url, TABLE, ids, LOOKUP_IDS)))

        peaks: list[tuple[float, float]] = []
        fed: list[float] = []

        def measure_peaks() -> None:
            lookups = looking.peak(PEAK_S).result()
            peaks.append((lookups, sustain(producers, batches, progress, PEAK_S).batches_per_s))

        def beside() -> float:
            lookups, updates = peaks[-1]
            load = looking.paced(lookups / 2, SLICE_S)
            began = time.perf_counter()
            pushed = _push_paced(producers, batches, updates / 2)
            progress.wait_applied(max(producer.position for producer in producers))
            fed.append(pushed / (time.perf_counter() - began))
            return load.result().p99_ms

        def alone() -> float:
            lookups, _ = peaks[-1]
            return looking.paced(lookups / 2, SLICE_S).result().p99_ms

        figures = alternate(beside, alone, rounds, BUDGET_S, before=measure_peaks)
    lookups, updates = np.median(peaks, axis=0)
    note = f"{lookups / 2:,.0f} lookups/s beside {np.median(fed) * MILLION_ROWS:.3g} M rows/s"
    most = f"{lookups:,.0f} and {updates * MILLION_ROWS:.3g} at the peaks"
    return Outcome(*figures, note=f"{note}, of {most}")


def _push_paced(producers: Sequence[Producer], batches: Iterator[Rows], rate: float) -> int:
    """Push `rate` batches a second for a slice, due at times of their own; -> how many, which are durable then."""
    each = max(round(rate * SLICE_S / len(producers)), 1)

    def push(number: int, producer: Producer) -> None:
        paced(
            lambda batch: producer.push(producer.encode(batch)),
            islice(batches, each),
            rate / len(producers),
            Latencies(),
            number / rate,
        )

    at_once([partial(push, number, producer) for number, producer in enumerate(producers)])
    return each * len(producers)


PAIR = Pair(
    name="lookup-while-updating",
    what="p99 of a lookup of 270 random ids x 64 f32 of 131,072 warm ones over TCP loopback, from when it is due, at "
    "half the rate that four threads of another process reach at most, while four producers push assigns of the same "
    "rows in batches of 4,096 at half the rate that can be sustained, against the same without updates.",
    unit="ms",
    peer="without updates",
    goal=Goal("<=", 2),
    measure=measure,
)
