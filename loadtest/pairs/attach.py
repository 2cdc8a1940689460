"""attach: what EmbeddingCache adds to the table that it looks up in, from a process beside the service's."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from embcache import EmbeddingCache
from embcache_client.results import WARM
from loadtest.pairs.answers import same_rows
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.host_table import BareTable, Reader, held_ids
from loadtest.pairs.warm_service import TABLE, warm_service
from loadtest.records import Goal
from loadtest.slices import alternate, rate_side
from loadtest.workloads import random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS = 2**20, 64, 4096
CALLS_A_SLICE = 100


def measure(rounds: int) -> Outcome:
    """Each call gives a result of its own; the bare kernel writes into arrays that are there."""
    rng = np.random.default_rng(18)
    ids = random_ids(ROWS, rng)
    rows = rows_from_ids(ids, DIM)
    missed: list[int] = []
    with ExitStack() as stack:
        service = stack.enter_context(warm_service(ids, rows))
        cache = stack.enter_context(EmbeddingCache.attach(service.data))
        found = cache.lookup({TABLE: ids[:LOOKUP_IDS]})[TABLE]
        same_rows("EmbeddingCache", found.rows, rows[:LOOKUP_IDS])
        table = BareTable(ids, rows)
        held, reader = held_ids(table, ids), Reader(table, LOOKUP_IDS)

        def look_up(query: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> None:
            missed.append(LOOKUP_IDS - int(np.count_nonzero(cache.lookup({TABLE: query})[TABLE].status == WARM)))

        ours = rate_side(look_up, lambda: held[rng.integers(0, len(held), LOOKUP_IDS)], CALLS_A_SLICE, LOOKUP_IDS)
        bare = rate_side(reader.lookup, lambda: held[rng.integers(0, len(held), LOOKUP_IDS)], CALLS_A_SLICE, LOOKUP_IDS)
        figures = alternate(ours, bare, rounds)
    return Outcome(*figures, note=f"{sum(missed)} ids were not warm" if sum(missed) else "")


PAIR = Pair(
    name="attach",
    what="4,096 random ids a lookup out of 1,048,576 warm rows of 64 x f32 by EmbeddingCache.attach beside a service, "
    "one thread, results made anew, against the kernel alone on a HostTable of the same rows, into arrays that are "
    "there.",
    unit="M ids/s",
    peer="HostTable",
    goal=Goal(">=", 0.9),
    measure=measure,
)
