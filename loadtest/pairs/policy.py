"""policy, policy-cost: which rows stay in the warm tier, against other policies; and what it costs a lookup to tell."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import numpy as np

from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.host_table import BareTable, Reader, held_ids
from loadtest.policies.accesses import Accesses, made, read
from loadtest.policies.run import JUDGED, OURS, against_best, sizes_of, try_all
from loadtest.records import Goal
from loadtest.slices import Figures, alternate, rate_side
from loadtest.workloads import U64s, random_ids, rows_from_ids

TRACE: Final = "scarab_recs_trace.npz"
LOOKUP_IDS = 16
ROWS, DIM, COST_IDS, CALLS_A_SLICE = 2**20, 64, 4096, 100
DRAIN_S: Final = 0.005  # as the owner does (owner/rings.py)


def measure_policy(rounds: int) -> Outcome:
    """Miss ratios do not depend on the machine, nor on when they are taken: one slice, whatever the rounds."""
    accesses, absent = _accesses()
    tried = try_all(accesses, (OURS, *JUDGED))
    ratios = tried["miss_ratios"]
    absent = absent or tried["absent"]
    compared = against_best(tried)
    if absent or not compared:
        return Outcome(Figures((max(ratios[OURS]),)), absent=absent)
    worst = int(np.argmax(compared))
    best = min(ratios[policy][worst] for policy in JUDGED)
    entries = sizes_of(accesses.distinct)
    all_of_them = ", ".join(f"{ratio:.3f} with {size:,}" for ratio, size in zip(compared, entries, strict=True))
    return Outcome(Figures((ratios[OURS][worst],)), Figures((best,)), note=f"{all_of_them} entries")


def _accesses() -> tuple[Accesses, str]:
    """The recommender's trace, or made accesses and why."""
    file = Path(os.environ.get("DATA") or Path(__file__).parents[3] / "shared/data") / TRACE
    if file.is_file():
        return read(file, LOOKUP_IDS), ""
    return made(LOOKUP_IDS, seed=1), f"{file} is not there; DATA names its folder. Ours is of made accesses"


def measure_cost(rounds: int) -> Outcome:
    """One side's ring is heard as an owner hears it, in the same thread; that of the other one never."""
    rng = np.random.default_rng(1)
    ids = random_ids(ROWS, rng)
    table = BareTable(ids, rows_from_ids(ids, DIM))
    held = held_ids(table, ids)
    heard, unheard = _Heard(table), Reader(table, COST_IDS)
    for begin in range(0, 4 * COST_IDS, COST_IDS):  # until it notices that nobody hears it
        unheard.lookup(held[begin : begin + COST_IDS])

    def query() -> U64s:
        return held[rng.integers(0, len(held), COST_IDS)]

    ours = rate_side(heard.lookup, query, CALLS_A_SLICE, COST_IDS)
    return Outcome(*alternate(ours, rate_side(unheard.lookup, query, CALLS_A_SLICE, COST_IDS), rounds))


class _Heard:
    """A reader, and an owner that counts what it tells every DRAIN_S seconds."""

    def __init__(self, table: BareTable) -> None:
        self._table, self._reader, self._due = table, Reader(table, COST_IDS), 0.0

    def lookup(self, ids: U64s) -> None:
        if time.perf_counter() >= self._due:
            self._table.held.table.count_use(self._reader.ring.drain())
            self._due = time.perf_counter() + DRAIN_S
        self._reader.lookup(ids)


POLICY = Pair(
    name="policy",
    what="The share of accesses in a production recommender's trace (1,245,184 to 258,368 ids, 16 a lookup) whose rows "
    "the warm tier's table has to read, at the worst of sizes of 0.1, 1, 5, 10 and 25% of the ids, against the best "
    f"there of {', '.join(JUDGED)} with as many entries, of libcachesim. The table hears of all hits after each "
    "lookup. It needs the extra `bench-policies`, and the trace.",
    unit="missed",
    peer="the best",
    goal=Goal("<=", 1.02),
    measure=measure_policy,
)
COST = Pair(
    name="policy-cost",
    what="warm-lookup's lookups of 1,048,576 rows, all hits told while they are heard, and counted every 5 ms in the "
    "same thread, against those of a reader that nobody hears, which notes one hit in 32.",
    unit="M ids/s",
    peer="unheard",
    goal=Goal(">=", 0.9),
    measure=measure_cost,
)
