"""Latencies in a histogram of fixed size (HdrHistogram), not in a list of floats."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from hdrh.histogram import HdrHistogram

_LOWEST_NS = 100
_HIGHEST_NS = 3_600_000_000_000


class Latencies:
    """Times from 100 ns to an hour, kept to `digits` digits. Longer ones count as an hour.

    Two of the same number of digits, added, are what one would be that had recorded everything.
    """

    def __init__(self, digits: int = 3) -> None:
        self._histogram = _without_cycle(HdrHistogram(_LOWEST_NS, _HIGHEST_NS, digits))
        self.total_s = 0.0

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    @property
    def max_ms(self) -> float:
        """The longest, within the histogram's precision; 0.0 where nothing was recorded."""
        return self.percentile_ms(100.0)

    @property
    def mean_ms(self) -> float:
        """The mean, from the times themselves; 0.0 where nothing was recorded."""
        return self.total_s * 1000 / self.count if self.count else 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Record the time of the block; a block that raises is not recorded."""
        began = time.perf_counter_ns()
        yield
        self.record(time.perf_counter_ns() - began)

    def record(self, nanoseconds: int, count: int = 1) -> None:
        self.total_s += nanoseconds * count / 1e9
        self._histogram.record_value(min(nanoseconds, _HIGHEST_NS), count)

    def add(self, other: Latencies) -> None:
        """Count what another one recorded, too."""
        self.total_s += other.total_s
        self._histogram.add(other._histogram)

    def percentile_ms(self, percentile: float) -> float:
        """The given percentile in milliseconds; 0.0 where nothing was recorded."""
        return float(self._histogram.get_value_at_percentile(percentile)) / 1e6

    def percentiles_ms(self, percentiles: list[float]) -> dict[float, float]:
        """The same for many at once, for the price of one."""
        if not self.count:
            return dict.fromkeys(percentiles, 0.0)
        found = self._histogram.get_percentile_to_value_dict(percentiles)
        return {percentile: float(value) / 1e6 for percentile, value in found.items()}

    def encoded(self) -> str:
        """HdrHistogram's own compressed form (V2, base64; nanoseconds), which its libraries read in many languages."""
        text: bytes = self._histogram.encode()
        return text.decode("ascii")

    @classmethod
    def decoded(cls, text: str, total_s: float | None = None) -> Self:
        """What `encoded` gave. total_s: the sum of the times, where it is known better than the histogram has it."""
        read = _without_cycle(HdrHistogram.decode(text.encode("ascii")))
        latencies = cls(read.significant_figures)
        latencies._histogram.add(read)
        latencies.total_s = read.get_mean_value() * latencies.count / 1e9 if total_s is None else total_s
        return latencies

    def __getstate__(self) -> tuple[str, float]:
        return self.encoded(), self.total_s

    def __setstate__(self, state: tuple[str, float]) -> None:
        self.__dict__ = type(self).decoded(*state).__dict__


def _without_cycle(histogram: HdrHistogram) -> HdrHistogram:
    """The histogram, which is let go with its last use: it and its encoder hold each other, a fifth of a MiB each time,
    until a collection comes.
    """
    histogram.encoder.histogram = weakref.proxy(histogram)
    return histogram
