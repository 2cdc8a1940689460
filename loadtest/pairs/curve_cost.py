"""curve-cost: what it takes to follow a table's accesses for its curve of misses, as a part of the lookups' time."""

from __future__ import annotations

import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from embcache.host.curve import Curve
from embcache.host.probe import read_word
from embcache.host.ring import WORDS
from embcache.host.sweep import RING_HEARD
from embcache.host.writer import publish
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.host_table import BareTable, Reader, held_ids
from loadtest.records import Goal
from loadtest.slices import alternate
from loadtest.workloads import U64s, random_ids, rows_from_ids

ROWS, DIM, IDS, CALLS_A_SLICE = 2**20, 64, 4096, 100
DRAIN_S: Final = 0.005  # as the owner does (owner/rings.py)


class _Timed(Curve):
    """Notes how long it takes to hear of hits."""

    spent_s = 0.0

    def hit(self, region: tuple[np.int64, ...], words: NDArray[np.uint64]) -> None:
        began = time.perf_counter()
        super().hit(region, words)
        self.spent_s += time.perf_counter() - began


class _Heard:
    """A reader, and an owner that hears it every `drain_s` seconds; both in this thread."""

    def __init__(self, table: BareTable, held: U64s, drain_s: float, *, busy: bool = False) -> None:
        """busy: whether the reader is taken to hit more than the owner can hear, so that one hit in 32 is told."""
        self._table, self._held, self._drain_s, self._busy = table, held, drain_s, busy
        self._reader, self._curve = Reader(table, IDS), _Timed(ROWS)
        self._rng, self._due = np.random.default_rng(2), 0.0

    def slice(self) -> float:
        """Per cent of the lookups' time that following takes."""
        table, took = self._table.held.table, 0.0
        table.curve, self._curve.spent_s = self._curve, 0.0
        for _ in range(CALLS_A_SLICE):
            ids = self._held[self._rng.integers(0, len(self._held), IDS)]
            if time.perf_counter() >= self._due:
                table.count_use(self._reader.ring.drain())
                self._due = time.perf_counter() + self._drain_s
            if self._busy:  # all but half of what the ring holds is unheard
                ring = self._reader.ring.address
                publish(ring + RING_HEARD, np.uint64((int(read_word(ring)) - WORDS) % 2**64))
            began = time.perf_counter()
            self._reader.lookup(ids)
            took += time.perf_counter() - began
        return 100 * self._curve.spent_s / took


def measure(rounds: int) -> Outcome:
    """Readers of one table in turn: ours is heard as a service is, the note tells of the two extremes."""
    ids = random_ids(ROWS, np.random.default_rng(1))
    table = BareTable(ids, rows_from_ids(ids, DIM))
    held = held_ids(table, ids)
    busy, every = _Heard(table, held, DRAIN_S, busy=True), _Heard(table, held, 0.0)
    of_all: list[float] = []
    ours, of_few = alternate(
        _Heard(table, held, DRAIN_S).slice, busy.slice, rounds, before=lambda: of_all.append(every.slice())
    )
    of_each = float(np.median(of_all[1:]))
    return Outcome(ours, note=f"{of_few.median:.2g}% with one hit in 32 told, {of_each:.2g}% with every one")


PAIR = Pair(
    name="curve-cost",
    what="What following a table's accesses for its curve of misses takes of the lookups' own time: policy-cost's "
    "lookups of 1,048,576 rows, all hits told while they are heard, and counted every 5 ms in the same thread. The "
    "note says what it is where one hit in 32 is told, as beyond that, and where every one is, after each lookup.",
    unit="% of the time",
    peer=None,
    goal=Goal("<=", 1.0),
    measure=measure,
)
