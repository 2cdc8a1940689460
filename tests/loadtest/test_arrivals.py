"""Calls that are due at times of their own, and what waits behind a stall."""

from __future__ import annotations

import time

import pytest

from loadtest.arrivals import paced
from loadtest.latency import Latencies


class Clock:
    """Time that passes only where somebody sleeps or works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr(time, "sleep", self.work)

    def work(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


def test_calls_begin_when_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    began: list[int] = []
    latencies = Latencies()

    def call(seconds: float) -> None:
        began.append(clock.now_ns)
        clock.work(seconds)

    paced(call, [0.02, 0.02, 0.02], 10.0, latencies, first_s=0.5)
    assert began == [500_000_000, 600_000_000, 700_000_000]
    assert latencies.percentile_ms(100) == pytest.approx(20, rel=0.01)


def test_who_waits_behind_a_stall_is_counted_from_when_it_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    latencies = Latencies()
    paced(clock.work, [0.35, 0.01, 0.01, 0.01, 0.01, 0.01], 10.0, latencies)
    # Due at 0, 100, 200, 300, 400, 500 ms; done at 350, 360, 370, 380, 410, 510.
    assert latencies.total_s == pytest.approx(0.350 + 0.260 + 0.170 + 0.080 + 0.010 + 0.010)
    assert latencies.count == 6
