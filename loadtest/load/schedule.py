"""When requests are due, whatever became of those before them: one schedule for all clients of a generator.

Clients take the requests in the order in which they are due, each ahead of its time if one is free. So at any moment
the requests that are due and not sent are due because every client is busy, or because this process is slow; how long
each of these kept it waiting is recorded apart (phase.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from loadtest.load.asked import Arrivals
from loadtest.load.requests import Request, Requests
from loadtest.load.zipf import BLOCK

clock_ns = time.perf_counter_ns
"""CLOCK_MONOTONIC, which all processes of a machine share."""


class Ticket(NamedTuple):
    """A request, and when it is due (of clock_ns; None in a closed loop: whenever its client is ready)."""

    due_ns: int | None
    request: Request


def due_times(
    arrivals: Arrivals, rate: float, generator: int, generators: int, seed: int, begin_ns: int
) -> Iterator[int]:
    """When one generator's requests are due, for ever; those of all generators together come at `rate` a second.

    constant: evenly over all generators. poisson: with exponential gaps, independent among generators, which adds up to
    one Poisson process.
    """
    each = 1e9 * generators / rate
    if arrivals == "constant":
        offset = 1e9 * generator / rate
        number = 0
        while True:
            yield begin_ns + round(offset + number * each)
            number += 1
    rng = np.random.default_rng([seed, generator, 1])
    at = 0.0
    while True:
        for gap in rng.exponential(each, BLOCK).tolist():
            at += gap
            yield begin_ns + round(at)


class Schedule:
    """The requests of one generator between now and `end_ns`. Safe among threads.

    patience_ns: a request that no client was free for this long after it was due is given up: nobody waits for it any
    more. `gave_up(op, due_ns, now_ns)` is told of each.
    """

    def __init__(
        self,
        requests: Requests,
        dues: Iterator[int] | None,
        end_ns: int,
        patience_ns: int,
        gave_up: Callable[[str, int, int], object],
    ) -> None:
        """dues: None for a closed loop."""
        self._requests, self._dues = requests, dues
        self._end_ns, self._patience_ns = end_ns, patience_ns
        self._gave_up = gave_up
        self._lock = threading.Lock()

    def take(self) -> Ticket | None:
        """The next request; None once there is none before the end."""
        with self._lock:
            if self._dues is None:
                return Ticket(None, self._next()) if clock_ns() < self._end_ns else None
            for due in self._dues:
                if due >= self._end_ns:
                    self._dues = iter(())
                    break
                now = clock_ns()
                if now - due <= self._patience_ns:
                    return Ticket(due, self._next())
                self._gave_up(self._requests.next_op(), due, now)
            return None

    def _next(self) -> Request:
        return self._requests.of(self._requests.next_op())

    def end_now(self) -> None:
        """Nothing that is due from now on is handed out any more, and what is due already is given up."""
        with self._lock:
            self._end_ns, self._patience_ns = min(self._end_ns, clock_ns()), 0

    def is_over(self, due_ns: int) -> bool:
        """Whether a request that was handed out ahead of its time is not wanted any more."""
        return due_ns >= self._end_ns
