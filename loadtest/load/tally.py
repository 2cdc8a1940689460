"""What a run counts: numbers and histograms by name. Tallies of many generators, added, are that of the run.

Counts by name (`OP` is lookup, assign, add or delete):

    OP.offered          requests that were due
    OP.answered         of those, answered without an error; OP.errors, with one
    OP.not_sent         of those, given up before a client was free for them
    OP.finished         answered within the window, whenever they were due
    OP.good             answered in time: within the objective, and with no row late or failed
    OP.ids, OP.sent, OP.received    ids, body bytes out and body bytes in, of answered requests
    error.CODE          errors by code, of all ops
    tier.NAME           ids of answered lookups, by status
    probe.*             the tester's own lookups, by which it sees when updates can be seen

Histograms by name: `OP.response` from when a request was due, `OP.service` from when it was sent; `lateness`,
`waiting` and `pulse` (see phase.py); `visible` from when an update was due until a lookup saw it, and
`visible_after_ack` from when it was answered.

A request ends in one way: offered = answered + errors + not_sent, for each op, once a run is over.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache_client import STATUS_NAMES
from loadtest.latency import Latencies
from loadtest.load.asked import OPS

SERIES_DIGITS = 2
"""Precision of the histograms of short intervals: 3,000 counters each instead of 27,000."""


class Answer(NamedTuple):
    """What came of a request that was sent. error: its code, None where it was answered.

    ids: asked for, or changed. tiers: i64[7], ids by status, of a lookup. position, history: of an update.
    """

    op: str
    error: str | None = None
    ids: int = 0
    sent: int = 0
    received: int = 0
    tiers: NDArray[np.int64] | None = None
    position: int = 0
    history: str = ""

    @property
    def whole(self) -> bool:
        """Answered, and with no row `late` or `failed`."""
        if self.error is not None:
            return False
        return self.tiers is None or not (self.tiers[_LATE] or self.tiers[_FAILED])


_LATE, _FAILED = STATUS_NAMES.index("late"), STATUS_NAMES.index("failed")


@dataclass(slots=True)
class Tally:
    """Counts and histograms; see above. Not safe among threads."""

    digits: int = 3
    counts: Counter[str] = field(default_factory=Counter)
    times: dict[str, Latencies] = field(default_factory=dict)
    tiers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(STATUS_NAMES), np.int64))

    def record(self, name: str, nanoseconds: int) -> None:
        """Record a time under a name."""
        times = self.times.get(name)
        if times is None:
            times = self.times[name] = Latencies(self.digits)
        times.record(max(nanoseconds, 0))

    def count_answer(self, answer: Answer, *, good: bool) -> None:
        """Count a request that was sent, by how it ended."""
        counts, op = self.counts, answer.op
        if answer.error is not None:
            counts[f"{op}.errors"] += 1
            counts[f"error.{answer.error}"] += 1
            return
        counts[f"{op}.answered"] += 1
        counts[f"{op}.good"] += good
        counts[f"{op}.ids"] += answer.ids
        counts[f"{op}.sent"] += answer.sent
        counts[f"{op}.received"] += answer.received
        if answer.tiers is not None:
            self.tiers += answer.tiers

    def add(self, other: Tally) -> None:
        """Count what another one counted, too."""
        self.counts.update(other.counts)
        self.tiers += other.tiers
        for name, times in other.times.items():
            mine = self.times.get(name)
            if mine is None:
                mine = self.times[name] = Latencies(self.digits)
            mine.add(times)

    def total(self, what: str) -> int:
        """A count summed over all ops: total("answered")."""
        return sum(self.counts[f"{op}.{what}"] for op in OPS)

    def response(self, op: str) -> Latencies:
        """Times from when requests of an op were due; empty where there were none."""
        return self.times.get(f"{op}.response") or Latencies(self.digits)

    def named(self, name: str) -> Latencies:
        """The histogram of a name; an empty one where nothing was recorded under it."""
        return self.times.get(name) or Latencies(self.digits)

    def by_tier(self) -> dict[str, int]:
        """Ids by the name of their status, those that there were."""
        return {name: count for name, count in zip(STATUS_NAMES, self.tiers.tolist(), strict=True) if count}

    def errors(self) -> dict[str, int]:
        """Errors by code."""
        found = {name.partition(".")[2]: count for name, count in self.counts.items() if name.startswith("error.")}
        return dict(sorted(found.items()))

    def check(self) -> None:
        """AssertionError where a request was lost or counted twice. For when nothing is under way any more."""
        for op in OPS:
            ended = sum(self.counts[f"{op}.{how}"] for how in ("answered", "errors", "not_sent"))
            assert self.counts[f"{op}.offered"] == ended, f"{op}: {self.counts}"
            assert self.response(op).count == ended, f"{op}: {self.response(op).count} times of {ended}"
        assert sum(self.errors().values()) == self.total("errors"), self.counts
        assert self.tiers.sum() == self.counts["lookup.ids"], (self.tiers, self.counts)
