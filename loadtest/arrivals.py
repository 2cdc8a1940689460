"""Open-loop arrivals: calls that are due at times of their own, however slow the answers are.

A latency counts from when its call was due, not from when a slow answer let it begin: who waits behind a stall waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from loadtest.latency import Latencies

T = TypeVar("T")


def paced(
    operation: Callable[[T], object], inputs: Iterable[T], rate: float, latencies: Latencies, first_s: float = 0.0
) -> None:
    """One call for each input, `rate` of them due a second, one at a time; the first is due `first_s` from now.

    A call that is due while another one runs begins as soon as that ends. Its latency is from when it was due.
    """
    begin = time.perf_counter_ns() + round(first_s * 1e9)
    for number, value in enumerate(inputs):
        due = begin + round(number * 1e9 / rate)
        early = due - time.perf_counter_ns()
        if early > 0:
            time.sleep(early / 1e9)
        operation(value)
        latencies.record(time.perf_counter_ns() - due)
