"""expiry-sweep: what it costs those who look up that rows which have expired are removed."""

from __future__ import annotations

import time
from contextlib import ExitStack

import numpy as np

from embcache_client import Client
from loadtest.importing import ROWS_AT_ONCE
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.looking import Asked, lookers
from loadtest.pairs.warm_service import TABLE, warm_service
from loadtest.records import Goal
from loadtest.slices import alternate
from loadtest.workloads import F32s, U64s, random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS = 131_072, 64, 270
EXPIRING = "short"
TTL_S = 1
SLICE_S, PEAK_S = 10.0, 1.0
BUDGET_S = 90.0
_ENVIRONMENT = {"EMBCACHE_UPDATES__SWEEP_EVERY_S": "0.1"}


class Expiring:
    """A second table, whose rows are all over soon after they come."""

    def __init__(self, client: Client, ids: U64s, rows: F32s) -> None:
        self._client, self._ids, self._rows = client, ids, rows
        self.swept: list[float] = []
        client.create_table({"name": EXPIRING, "dim": DIM, "ttl_s": TTL_S})

    def fill(self) -> None:
        """All of its rows, which have expired when it returns and begin to be swept."""
        with self._client.importing(EXPIRING) as load:
            for begin in range(0, len(self._ids), ROWS_AT_ONCE):
                load.write(self._ids[begin : begin + ROWS_AT_ONCE], self._rows[begin : begin + ROWS_AT_ONCE])
        time.sleep(TTL_S)

    def count(self) -> None:
        """Note which part of it is swept."""
        self.swept.append(1 - self._client.table(EXPIRING)["rows"] / len(self._ids))

    def empty(self) -> None:
        """Nothing is left to sweep."""
        with self._client.importing(EXPIRING):
            pass


def measure(rounds: int) -> Outcome:
    """Each round measures the peak anew: what else the machine does changes it."""
    ids = random_ids(ROWS, np.random.default_rng(16))
    rows = rows_from_ids(ids, DIM)
    with ExitStack() as stack:
        service = stack.enter_context(warm_service(ids, rows, environment=_ENVIRONMENT))
        looking = stack.enter_context(lookers(Asked(service.url, TABLE, ids, LOOKUP_IDS)))
        expiring = Expiring(service.client, ids, rows)
        peaks: list[float] = []

        def prepare() -> None:
            expiring.empty()
            peaks.append(looking.peak(PEAK_S).result())

        def beside() -> float:
            expiring.fill()
            load = looking.paced(peaks[-1] / 2, SLICE_S).result()
            expiring.count()
            expiring.empty()
            return load.p99_ms

        def alone() -> float:
            return looking.paced(peaks[-1] / 2, SLICE_S).result().p99_ms

        figures = alternate(beside, alone, rounds, BUDGET_S, before=prepare)
    note = f"{np.median(peaks) / 2:,.0f} lookups/s; {np.median(expiring.swept):.0%} of the rows were swept meanwhile"
    return Outcome(*figures, note=note)


PAIR = Pair(
    name="expiry-sweep",
    what="p99 of a lookup of 270 random ids x 64 f32 of 131,072 warm ones over TCP loopback, from when it is due, at "
    "half the rate that four threads of another process reach at most, in 10 s in which as many rows of another table "
    "that have expired are swept, against 10 s without a sweep.",
    unit="ms",
    peer="without a sweep",
    goal=Goal("<=", 1.5),
    measure=measure,
)
