"""http-clients: what four clients at once get of a service, over what one alone gets."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np

from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.warm_service import TABLE, warm_service
from loadtest.records import Goal
from loadtest.slices import alternate, rate
from loadtest.workloads import U64s, random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS, CLIENTS = 131_072, 64, 270, 4
CALLS_A_SLICE = 100


def measure(rounds: int) -> Outcome:
    """Threads of one process, each with a connection of its own, one request at a time, and as many of them."""
    rng = np.random.default_rng(8)
    ids = random_ids(ROWS, rng)
    with ExitStack() as stack:
        client = stack.enter_context(warm_service(ids, rows_from_ids(ids, DIM))).client
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))

        def look_up(queries: Sequence[U64s]) -> None:
            for query in queries:
                client.lookup({TABLE: query})

        def lookups_a_second(clients: int) -> float:
            queries = [[rng.choice(ids, LOOKUP_IDS) for _ in range(CALLS_A_SLICE)] for _ in range(clients)]
            return rate(lambda given: list(pool.map(look_up, given)), [queries], clients * CALLS_A_SLICE)

        figures = alternate(lambda: lookups_a_second(CLIENTS), lambda: lookups_a_second(1), rounds)
    return Outcome(*figures)


PAIR = Pair(
    name="http-clients",
    what="Lookups of 270 random ids x 64 f32, all warm, over TCP loopback from four threads of one client, against "
    "those from one thread.",
    unit="lookups/s",
    peer="one thread",
    goal=Goal(">=", 1.0),
    measure=measure,
)
