"""Latencies in a histogram of fixed size (HdrHistogram), not in a list of floats."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from hdrh.histogram import HdrHistogram

_LOWEST_NS = 100
_HIGHEST_NS = 60_000_000_000


class Latencies:
    """Times from 100 ns to 60 s, kept to three digits. Longer ones count as 60 s."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(_LOWEST_NS, _HIGHEST_NS, 3)
        self.total_s = 0.0

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Record the time of the block; a block that raises is not recorded."""
        began = time.perf_counter_ns()
        yield
        self.record(time.perf_counter_ns() - began)

    def record(self, nanoseconds: int) -> None:
        self.total_s += nanoseconds / 1e9
        self._histogram.record_value(min(nanoseconds, _HIGHEST_NS))

    def add(self, other: Latencies) -> None:
        """Count what another one recorded, too."""
        self.total_s += other.total_s
        self._histogram.add(other._histogram)

    def percentile_ms(self, percentile: float) -> float:
        """The given percentile in milliseconds; 0.0 where nothing was recorded."""
        return float(self._histogram.get_value_at_percentile(percentile)) / 1e6
