"""http-bags: bags pooled by the service, against rows that are fetched from it and pooled by whoever asked."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from embcache_client import Client
from loadtest.pairs.answers import same_rows
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.many_tables import TABLES, ManyTables
from loadtest.pairs.warm_service import warm_tables
from loadtest.records import Goal
from loadtest.slices import alternate, rate_side
from loadtest.workloads import F32s, U64s, rows_from_ids

ROWS, DIM, BAGS, BAG_IDS = 16_384, 64, 256, 20
OUR_CALLS, THEIR_CALLS = 4, 1

Asked = dict[str, U64s]
Pooled = dict[str, F32s]


def measure(rounds: int) -> Outcome:
    """Both sides ask the same service through the same client for bags of the same size, of other ids each time."""
    rng = np.random.default_rng(9)
    made = ManyTables.made(ROWS, DIM, rng)
    counts = dict.fromkeys(made.tables, BAGS * BAG_IDS)
    with ExitStack() as stack:
        client = stack.enter_context(warm_tables(made.tables)).client

        def query() -> Asked:
            return made.ids(made.places(counts, rng))

        asked = query()
        for side, pool in (("the service", by_service), ("NumPy", by_numpy)):
            pooled = pool(client, asked)
            for table, ids in asked.items():
                same_rows(f"{side}, table {table},", pooled[table], sums_of(ids))
        count = TABLES * BAGS * BAG_IDS
        ours = rate_side(lambda asked: by_service(client, asked), query, OUR_CALLS, count)
        theirs = rate_side(lambda asked: by_numpy(client, asked), query, THEIR_CALLS, count)
        figures = alternate(ours, theirs, rounds)
    return Outcome(*figures)


def by_service(client: Client, asked: Asked) -> Pooled:
    """One request for all bags of all tables: f32 [bags, dim] of each."""
    lengths = np.full(BAGS, BAG_IDS, np.uint32)
    found = client.lookup_bags({table: (ids, lengths) for table, ids in asked.items()}, pooling="sum")
    return {table: found[table].rows for table in asked}


def by_numpy(client: Client, asked: Asked) -> Pooled:
    """A request for the rows of each table, and a sum over each bag while they are in the processor's caches."""
    return {
        table: client.lookup({table: ids})[table].rows.reshape(BAGS, BAG_IDS, DIM).sum(axis=1)
        for table, ids in asked.items()
    }


def sums_of(ids: U64s) -> F32s:
    """The oracle: rows made from the ids, added up one after the other."""
    rows = rows_from_ids(ids, DIM).reshape(BAGS, BAG_IDS, DIM)
    sums = np.zeros((BAGS, DIM), np.float32)
    for at in range(BAG_IDS):
        sums += rows[:, at]
    return sums


PAIR = Pair(
    name="http-bags",
    what="256 bags of 20 random ids in each of 26 tables of 16,384 rows x 64 f32, all warm, `sum`, one request over "
    "TCP loopback, against fetching as many rows through the same client and pooling them there with NumPy, in the "
    "fastest way found: a request for each table, and reshape and sum rather than np.add.reduceat.",
    unit="M ids/s",
    peer="NumPy",
    goal=Goal(">=", 5),
    measure=measure,
)
