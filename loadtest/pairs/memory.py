"""memory: what a full HostTable costs beside its rows."""

from __future__ import annotations

import os

import numpy as np

from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.host_table import BareTable
from loadtest.records import Goal
from loadtest.slices import Figures
from loadtest.workloads import random_ids, rows_from_ids

SIZE, DIM = 128 << 20, 64
TIMES_TOO_MANY = 1.5


def measure(rounds: int) -> Outcome:
    """Insert half as many rows again as fit. Ours is what the table says it takes or, if larger, its arena's pages."""
    ids = random_ids(int(SIZE / (4 * DIM) * TIMES_TOO_MANY), np.random.default_rng(5))
    table = BareTable(np.random.default_rng(6).permutation(ids), rows_from_ids(ids, DIM), SIZE)
    stats = table.held.table.stats()
    pages = os.fstat(table.arena.fd).st_blocks * 512
    note = f"{stats.rows:,} rows in {stats.slots:,} places"
    return Outcome(
        Figures((max(stats.bytes, pages) / 2**20,)), Figures((stats.rows * table.row_bytes / 2**20,)), note=note
    )


PAIR = Pair(
    name="memory",
    what="Bytes of a full HostTable of 128 MiB, keys, stamps, marks and unused places included, against those of the "
    "rows it holds, 256 B each. A full table only: one that holds all its rows takes about 1.17 by `embcache plan`, "
    "and a tenth more where there is room.",
    unit="MiB",
    peer="the rows alone",
    goal=Goal("<=", 1.15),
    measure=measure,
)
