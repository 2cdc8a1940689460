"""Counts and histograms: put together they are those of all, over processes and over time."""

from __future__ import annotations

import gc
import pickle
import weakref

import numpy as np
import pytest

from loadtest.latency import Latencies
from loadtest.load.series import Series
from loadtest.load.tally import SERIES_DIGITS, Answer, Tally


def times(count: int, seed: int) -> list[int]:
    return [int(value) for value in np.random.default_rng(seed).lognormal(14, 1.5, count)]


def recorded(values: list[int], digits: int = 3) -> Latencies:
    latencies = Latencies(digits)
    for value in values:
        latencies.record(value)
    return latencies


def test_merged_histograms_are_that_of_all() -> None:
    parts = [times(4000, seed) for seed in range(3)]
    merged = Latencies()
    for part in parts:
        merged.add(pickle.loads(pickle.dumps(recorded(part))))
    together = [value for part in parts for value in part]
    everything = recorded(together)
    assert merged.encoded() == everything.encoded()
    assert merged.total_s == pytest.approx(everything.total_s)
    values = np.array(together) / 1e6
    for percentile in (50, 90, 99, 99.9):
        assert merged.percentile_ms(percentile) == pytest.approx(np.percentile(values, percentile), rel=0.01)
    assert merged.max_ms == pytest.approx(values.max(), rel=0.002)
    assert merged.mean_ms == pytest.approx(values.mean())


def test_percentiles_at_once_are_those_one_by_one() -> None:
    latencies = recorded(times(1000, 5))
    asked = [50.0, 99.0, 99.9, 100.0]
    assert latencies.percentiles_ms(asked) == {p: latencies.percentile_ms(p) for p in asked}
    assert Latencies().percentiles_ms([50.0]) == {50.0: 0.0}


def test_histograms_are_let_go_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        latencies = recorded([1_000_000])
        again = Latencies.decoded(latencies.encoded())
        held = [weakref.ref(each._histogram) for each in (latencies, again)]
        del latencies, again
        assert [ref() for ref in held] == [None, None]
    finally:
        gc.enable()


def test_what_takes_longer_than_an_hour_counts_as_one() -> None:
    latencies = recorded([10, 10**16])
    assert latencies.count == 2
    assert latencies.max_ms == pytest.approx(3_600_000, rel=0.002)


def answered(op: str = "lookup", ids: int = 4, late: int = 0) -> Answer:
    tiers = np.array([0, 0, ids - late, 0, late, 0, 0]) if op == "lookup" else None
    return Answer(op, None, ids, 100, 1000, tiers)


def test_tallies_add_up() -> None:
    tallies = [Tally() for _ in range(3)]
    for number, tally in enumerate(tallies):
        for _ in range(number + 1):
            tally.counts["lookup.offered"] += 1
            tally.record("lookup.response", 1_000_000)
            tally.count_answer(answered(), good=True)
        tally.counts["add.offered"] += 1
        tally.record("add.response", 2_000_000)
        tally.count_answer(Answer("add", "overloaded"), good=False)
    total = Tally()
    for tally in tallies:
        total.add(pickle.loads(pickle.dumps(tally)))
    total.check()
    assert (total.total("offered"), total.total("answered"), total.total("errors"), total.total("good")) == (9, 6, 3, 6)
    assert (total.errors(), total.by_tier()) == ({"overloaded": 3}, {"warm": 24})
    assert (total.total("sent"), total.total("received"), total.total("ids")) == (600, 6000, 24)
    assert total.response("lookup").count == 6


def test_what_is_lost_is_found() -> None:
    tally = Tally()
    tally.counts["lookup.offered"] += 1
    with pytest.raises(AssertionError, match="lookup"):
        tally.check()


def test_late_rows_are_not_whole() -> None:
    assert answered().whole
    assert not answered(late=1).whole
    assert not Answer("lookup", "timeout").whole
    assert Answer("add").whole


def of_one(milliseconds: int) -> Tally:
    tally = Tally(SERIES_DIGITS)
    tally.counts["lookup.answered"] += 1
    tally.record("lookup.response", milliseconds * 1_000_000)
    return tally


def test_series_puts_neighbours_together_and_loses_nothing() -> None:
    series = Series(0.5, most=8)
    for step in range(100):
        series.add(step, of_one(step + 1))
    intervals = list(series)
    assert series.interval_s == 8.0  # 100 steps of 0.5 s in at most 8 intervals
    assert [start for start, _ in intervals] == [0.0, 8.0, 16.0, 24.0, 32.0, 40.0, 48.0]
    assert [tally.total("answered") for _, tally in intervals] == [16, 16, 16, 16, 16, 16, 4]
    for number, (_, tally) in enumerate(intervals):
        last = min(16 * (number + 1), 100)
        assert tally.response("lookup").max_ms == pytest.approx(last, rel=0.01)


def test_series_stays_small_however_long_it_lasts() -> None:
    series = Series(1.0)
    sizes = []
    for step in range(0, 100_000, 7):
        series.add(step, of_one(3))
        if step % 7000 == 0:
            sizes.append(len(pickle.dumps(series._tallies)))
    assert len(list(series)) <= 240
    assert sum(tally.total("answered") for _, tally in series) == len(range(0, 100_000, 7))
    assert max(sizes) < 240 * 2000


def test_intervals_without_requests_are_there() -> None:
    series = Series(1.0)
    series.add(3, of_one(1))
    assert [tally.total("answered") for _, tally in series] == [0, 0, 0, 1]
