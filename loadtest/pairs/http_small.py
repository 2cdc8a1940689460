"""http-small, http-small-p99: what our service adds to a small request, over the least that HTTP in Python costs."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import numpy as np

from embcache_client import Client
from loadtest.pairs.answers import same_rows
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.warm_service import TABLE, exchanged, warm_service
from loadtest.peers.bare_app import bare_app
from loadtest.records import Goal
from loadtest.slices import alternate, percentile_us
from loadtest.workloads import random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS = 131_072, 64, 16
CALLS_A_SLICE, P99_CALLS = 300, 2000


def measure(rounds: int) -> Outcome:
    """The median of a slice's requests."""
    return _measure(rounds, 50, CALLS_A_SLICE)


def measure_p99(rounds: int) -> Outcome:
    """Slices long enough for twenty requests beyond the 99th percentile of each."""
    return _measure(rounds, 99, P99_CALLS)


def _measure(rounds: int, percentile: float, calls: int) -> Outcome:
    """One connection, one request at a time. The bare app answers each with the bytes of one of our own replies."""
    rng = np.random.default_rng(3)
    ids = random_ids(ROWS, rng)
    first = ids[:LOOKUP_IDS]
    with ExitStack() as stack:
        ours = stack.enter_context(warm_service(ids, rows_from_ids(ids, DIM)))
        url = stack.enter_context(bare_app(exchanged(ours.url, first).reply))
        theirs = stack.enter_context(Client(url))
        for side, client in (("the service", ours.client), ("the bare app", theirs)):
            same_rows(side, client.lookup({TABLE: first})[TABLE].rows, rows_from_ids(first, DIM))

        def slowness(client: Client) -> float:
            asked = [rng.choice(ids, LOOKUP_IDS) for _ in range(calls)]
            return percentile_us(lambda query: client.lookup({TABLE: query}), asked, percentile)

        figures = alternate(partial(slowness, ours.client), partial(slowness, theirs), rounds)
    return Outcome(*figures)


P50 = Pair(
    name="http-small",
    what="p50 of a lookup of 16 warm ids x 64 f32 over TCP loopback, against the same client asking a bare uvicorn "
    "ASGI app (uvloop, httptools) that answers as many bytes without looking at the request.",
    unit="us",
    peer="bare uvicorn",
    goal=Goal("<=", 1.25),
    measure=measure,
)
P99 = Pair(
    name="http-small-p99",
    what="The same, p99 against p99, of 2,000 requests a slice.",
    unit="us",
    peer="bare uvicorn",
    goal=Goal("<=", 1.5),
    measure=measure_p99,
)
