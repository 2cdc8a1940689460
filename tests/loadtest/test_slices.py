"""Slices in turn, rates and medians."""

from __future__ import annotations

import time

import pytest

from loadtest.latency import Latencies
from loadtest.slices import Figures, alternate, p50_us, rate


def test_sides_take_turns_and_change_who_goes_first() -> None:
    calls: list[str] = []

    def side(name: str, figure: float) -> float:
        calls.append(name)
        return figure

    ours, theirs = alternate(lambda: side("a", 2.0), lambda: side("b", 3.0), rounds=4)
    assert "".join(calls) == "ab" + "abba" * 2
    assert ours.slices == (2.0,) * 4
    assert theirs.slices == (3.0,) * 4


def test_what_comes_before_a_round_comes_before_both_sides() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return 1.0

    alternate(lambda: side("a"), lambda: side("b"), rounds=3, before=lambda: calls.append("-"))
    assert "".join(calls) == "-ab" + "-ab-ba-ab"


def test_a_side_may_be_alone() -> None:
    figures = iter([9.0, 1.0, 3.0, 2.0])
    ours, theirs = alternate(lambda: next(figures), None, rounds=3)
    assert ours.slices == (1.0, 3.0, 2.0)
    assert theirs.slices == ()


def test_the_budget_ends_it_after_three_rounds() -> None:
    ours, _ = alternate(lambda: 1.0, None, rounds=1000, budget_s=0.0)
    assert len(ours.slices) == 3


def test_figures() -> None:
    figures = Figures((5.0, 1.0, 2.0, 4.0, 3.0))
    assert figures.median == 3.0
    assert figures.quartiles == (2.0, 4.0)


def test_rate_counts_items_over_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert rate(lambda _: None, [1, 2, 3, 4], items=500) == 1000.0


def test_p50_is_the_median_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 5_000, 10_000, 17_000, 20_000, 920_000])  # 5, 7 and 900 us
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(clock))
    assert p50_us(lambda _: None, range(3)) == pytest.approx(7.0, rel=0.01)


def test_latencies_keep_three_digits_and_a_bound() -> None:
    latencies = Latencies()
    for microseconds in range(1, 1001):
        latencies.record(microseconds * 1000)
    assert latencies.percentile_ms(50) == pytest.approx(0.5, rel=0.003)
    assert latencies.percentile_ms(99) == pytest.approx(0.99, rel=0.003)
    latencies.record(10**16)
    assert latencies.count == 1001
    assert latencies.percentile_ms(100) == pytest.approx(3_600_000, rel=0.003)
    assert Latencies().percentile_ms(99) == 0.0
