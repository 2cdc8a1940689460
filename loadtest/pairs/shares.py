"""shares: how many rows are read where memory goes where it pays, and where all tables have as much as each other."""

from __future__ import annotations

from contextlib import closing
from typing import Final

from loadtest.load.asked import DLRM_HOT, DLRM_ROWS
from loadtest.pairs.base import Outcome, Pair
from loadtest.policies.sharing import Asked, Asking, SharedMemory
from loadtest.records import Goal
from loadtest.slices import Figures

ROW_BYTES, MOST_ROWS, SHARE = 64, 200_000, 0.1
SAMPLES, LOOK_EVERY, BEFORE, AFTER = 64, 20, 400, 100
ALPHA: Final = 1.05


def measure(rounds: int) -> Outcome:
    """Both read the same lookups; what they read does not depend on the machine: one slice, whatever the rounds."""
    tables = [Asked(min(rows, MOST_ROWS), ids, ALPHA) for rows, ids in zip(DLRM_ROWS, DLRM_HOT, strict=True)]
    (ours, moves), (theirs, _) = (_missed(tables, by_curve) for by_curve in (True, False))
    return Outcome(Figures((ours,)), Figures((theirs,)), note=f"memory was divided anew {moves} times")


def _missed(tables: list[Asked], by_curve: bool) -> tuple[float, int]:
    capacity = int(sum(table.rows for table in tables) * ROW_BYTES * SHARE)
    asking, read, asked, moves = Asking(tables, SAMPLES, 1), 0, 0, 0
    with closing(SharedMemory(tables, capacity, ROW_BYTES, by_curve=by_curve)) as memory:
        for number in range(BEFORE + AFTER):
            ids = asking.lookup()
            missed = memory.look_up(ids)
            if number >= BEFORE:
                read, asked = read + missed, asked + sum(map(len, ids))
            elif number % LOOK_EVERY == 0:
                moves += memory.look()
        memory.memory.check()
    return read / asked, moves


PAIR = Pair(
    name="shares",
    what="The share of ids whose rows have to be read, of lookups of 64 samples with 214 ids each over 26 tables of "
    f"DLRM-v2's sizes, cut to {MOST_ROWS:,} rows, zipf {ALPHA:g}, in a warm tier that holds {SHARE:.0%} of them, with "
    "shares that follow the tables' curves of misses, against equal shares. Without disk: the owner's memory and the "
    "kernels of readers and writer.",
    unit="missed",
    peer="equal shares",
    goal=Goal("<=", 0.9),
    measure=measure,
)
