"""warm-lookup: a hash lookup in shared memory against NumPy's gather by row number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embcache_client.results import WARM
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.host_table import BareTable, Reader
from loadtest.records import Goal
from loadtest.slices import alternate, rate_side
from loadtest.workloads import random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS = 2**21, 64, 4096
CALLS_A_SLICE = 100


def measure(rounds: int) -> Outcome:
    """Both sides write into an array of their own that is there already; np.take gets its row numbers ready made."""
    rng = np.random.default_rng(1)
    ids = random_ids(ROWS, rng)
    rows = rows_from_ids(ids, DIM)
    table = BareTable(ids, rows)
    held = ids[_held(table, ids)]
    reader = Reader(table, LOOKUP_IDS)
    out = np.zeros((LOOKUP_IDS, DIM), np.float32)
    missed: list[int] = []
    ours = rate_side(
        lambda query: missed.append(reader.lookup(query)),
        lambda: held[rng.integers(0, len(held), LOOKUP_IDS)],
        CALLS_A_SLICE,
        LOOKUP_IDS,
    )
    theirs = rate_side(
        lambda places: np.take(rows, places, axis=0, out=out, mode="clip"),
        lambda: rng.integers(0, ROWS, LOOKUP_IDS),
        CALLS_A_SLICE,
        LOOKUP_IDS,
    )
    figures = alternate(ours, theirs, rounds)
    note = f"{sum(missed)} lookups of ids that the table does not hold" if any(missed) else ""
    return Outcome(*figures, note=note)


def _held(table: BareTable, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which ids found a place: the few that did not are not asked for."""
    reader = Reader(table, len(ids))
    reader.lookup(ids)
    held: NDArray[np.bool_] = reader.status == WARM
    return held


PAIR = Pair(
    name="warm-lookup",
    what="HostTable in shared memory, 4,096 random ids a lookup out of 2,097,152 rows of 64 x f32 (512 MiB), one "
    "thread, hashing and a status for each id included, against np.take(out=, mode='clip') over the same rows by row "
    "number.",
    unit="M ids/s",
    peer="np.take",
    goal=Goal(">=", 1.0),
    measure=measure,
)
