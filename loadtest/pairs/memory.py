"""memory: what a full warm tier costs beside its rows."""

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
    """Insert half as many rows again as fit. Ours is the arena's pages, and what the owner notes beside them of use."""
    ids = random_ids(int(SIZE / (4 * DIM) * TIMES_TOO_MANY), np.random.default_rng(5))
    table = BareTable(np.random.default_rng(6).permutation(ids), rows_from_ids(ids, DIM), SIZE)
    stats = table.held.table.stats()
    pages = os.fstat(table.arena.fd).st_blocks * 512
    beside = stats.bytes - table.held.table.region.size
    note = f"{stats.rows:,} rows in {stats.slots:,} places"
    return Outcome(Figures(((pages + beside) / 2**20,)), Figures((stats.rows * table.row_bytes / 2**20,)), note=note)


PAIR = Pair(
    name="memory",
    what="Resident bytes of a full warm tier of 128 MiB, keys, stamps, marks, unused places and the owner's notes of "
    "use included, against those of the rows it holds, 256 B each. A full one only: a table that holds all its rows "
    "takes about 1.17 by `embcache plan`, and a tenth more where there is room.",
    unit="MiB",
    peer="the rows alone",
    goal=Goal("<=", 1.10),
    measure=measure,
)
