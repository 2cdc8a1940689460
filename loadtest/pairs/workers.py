"""workers-2: what a second front adds, on two cores."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import numpy as np

from embcache_client.wire import MEDIA_TYPE, Query, encode_lookup
from loadtest.pairs.base import NO_FIGURES, Outcome, Pair
from loadtest.pairs.warm_service import TABLE, WarmService, warm_service
from loadtest.peers import PeerAbsent
from loadtest.peers.wrk import requests_a_second, wrk
from loadtest.records import Goal
from loadtest.slices import alternate
from loadtest.workloads import random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS = 131_072, 64, 16
CONNECTIONS, SLICE_S = 16, 2
ROUNDS, BUDGET_S = 10, 60.0


def measure(rounds: int) -> Outcome:
    """Both services run all the time, and each rests while the other one answers."""
    try:
        wrk()
    except PeerAbsent as absent:
        return Outcome(NO_FIGURES, absent=str(absent), failed=True)
    ids = random_ids(ROWS, np.random.default_rng(17))
    rows = rows_from_ids(ids, DIM)
    body = encode_lookup([Query(TABLE, ids[:LOOKUP_IDS])])
    with ExitStack() as stack:
        two, one = (
            stack.enter_context(warm_service(ids, rows, environment={"EMBCACHE_SERVER__WORKERS": str(fronts)}))
            for fronts in (2, 1)
        )

        def answered(service: WarmService) -> float:
            return requests_a_second(f"{service.url}/v1/lookup", body, MEDIA_TYPE, CONNECTIONS, SLICE_S)

        return Outcome(*alternate(partial(answered, two), partial(answered, one), min(rounds, ROUNDS), BUDGET_S))


PAIR = Pair(
    name="workers-2",
    what="Lookups a second of 16 warm ids x 64 f32 over 16 connections of wrk (one thread) on TCP loopback, with "
    "`server.workers = 2`, against the same with 1, on all cores of the machine; wrk takes its part of them.",
    unit="requests/s",
    peer="one worker",
    goal=Goal(">=", 1.5),
    measure=measure,
)
