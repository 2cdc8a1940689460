"""The search finds the rate of a service that is known, however noisy the machine, and says what it could not find."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from loadtest.load.fleet import Outcome, Plan
from loadtest.load.search import Bracket, Step, find, judged, knee_of
from loadtest.load.series import Series
from loadtest.load.tally import Tally

SLO_MS = 10.0
SERVICE_MS = 0.5
CAPACITY = 1000 / SERVICE_MS


def queue(rate: float, noise: Callable[[], float] = lambda: 1.0, *, kept_up: bool = True) -> Step:
    """One server, exponential times: the response time is exponential too, with a mean of 1 / (capacity - rate)."""
    mean_ms = 1000 / (CAPACITY - rate) * noise() if rate < CAPACITY else 1e4
    p99_ms = mean_ms * math.log(100)
    held = p99_ms <= SLO_MS
    answered = min(rate, CAPACITY)
    return Step(
        purpose="search",
        rate=rate,
        answered_per_s=answered,
        good_per_s=answered,
        mean_ms=mean_ms,
        p50_ms=mean_ms * math.log(2),
        p99_ms=p99_ms,
        offered=1000,
        errors=0,
        not_sent=0,
        held=held,
        why="",
        kept_up=kept_up,
    )


HIGHEST = CAPACITY - 1000 * math.log(100) / SLO_MS  # where the p99 is SLO_MS


@pytest.mark.parametrize("start", [10.0, 300.0, 1500.0, 1990.0, 50_000.0])
@pytest.mark.parametrize("precision", [0.02, 0.2])
def test_the_bracket_holds_the_highest_rate(start: float, precision: float) -> None:
    bracket = Bracket()
    find(queue, start, SLO_MS, bracket, precision)
    assert bracket.low is not None
    assert bracket.high is not None
    assert bracket.low <= HIGHEST <= bracket.high <= bracket.low * (1 + precision)


def test_hiccups_do_not_mislead_it() -> None:
    """One try in five takes ten times as long, whatever the rate."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(40):
        bracket = Bracket()
        find(lambda rate: queue(rate, lambda: 10.0 if rng.random() < 0.2 else 1.0), 500.0, SLO_MS, bracket)
        found.append(bracket.low or 0.0)
    right = np.abs(np.array(found) / HIGHEST - 1) < 0.06
    believed_at_once = (1 - 0.2) ** 5  # what would be right, of about five steps that hold
    assert right.mean() > 2 * believed_at_once


def test_misses_of_slow_generators_count_half() -> None:
    """Half of the tries are spoilt by the generators, which say so."""
    rng = np.random.default_rng(3)

    def measure(rate: float) -> Step:
        spoilt = rng.random() < 0.5
        return queue(rate, lambda: 20.0 if spoilt else 1.0, kept_up=not spoilt)

    def with_the_generators_trusted(rate: float) -> Step:
        return replace(measure(rate), kept_up=True)

    def share_right(measured: Callable[[float], Step]) -> float:
        lows = []
        for _ in range(40):
            bracket = Bracket()
            find(measured, 500.0, SLO_MS, bracket)
            lows.append(bracket.low or 0.0)
        return float(np.mean(np.abs(np.array(lows) / HIGHEST - 1) < 0.06))

    assert share_right(measure) > 2 * share_right(with_the_generators_trusted)


def test_no_rate_is_found_where_none_holds() -> None:
    bracket = Bracket()
    find(lambda rate: replace(queue(rate), held=False), 500.0, SLO_MS, bracket)
    assert bracket.low is None
    assert bracket.high is not None
    assert bracket.high < 500 / 50


def test_a_service_that_never_misses_has_no_upper_end() -> None:
    bracket = Bracket()
    find(lambda rate: replace(queue(1.0), rate=rate), 500.0, SLO_MS, bracket)
    assert bracket.high is None
    assert bracket.low is not None
    assert bracket.low > 500 * 50


def test_the_knee_of_a_queue_is_at_half_its_capacity() -> None:
    steps = [queue(share * CAPACITY) for share in (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.5)]
    assert knee_of(steps) == 0.5 * CAPACITY
    spoilt = [queue(0.5 * CAPACITY, lambda: 50.0), queue(0.5 * CAPACITY)]
    assert knee_of([*steps, *spoilt]) == 0.5 * CAPACITY  # the median of three tries
    assert knee_of([]) is None
    assert knee_of([queue(2 * CAPACITY)]) is None


PLAN = Plan("poisson", 100.0, clients=4, warmup_s=0, duration_s=10, patience_s=1, slo_ms=SLO_MS)


def outcome(milliseconds: list[float], failed: int = 0, unanswered: int = 0) -> Outcome:
    window = Tally()
    for value in milliseconds:
        window.counts["lookup.offered"] += 1
        window.counts["lookup.answered"] += 1
        window.counts["lookup.finished"] += 1
        window.record("lookup.response", round(value * 1e6))
    window.counts["lookup.offered"] += failed + unanswered
    window.counts["lookup.errors"] += failed
    window.counts["error.timeout"] += failed
    return Outcome(PLAN, Tally(), window, Series(1.0), window_s=10.0, cpu_shares=[0.2])


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (outcome([5.0] * 1000), ""),
        (outcome([5.0] * 995 + [50.0] * 5), ""),
        (outcome([5.0] * 900 + [50.0] * 100), "p99 50.0 ms"),
        (outcome([5.0] * 1000, failed=2), "2 of 1,002 failed"),
        (outcome([5.0] * 1000, unanswered=200), "200 of 1,200 not answered within the window"),
        (outcome([5.0] * 1000, unanswered=4), ""),
        (outcome([]), "nothing was due"),
    ],
)
def test_a_step_holds_only_if_it_was_answered_in_time(seen: Outcome, why: str) -> None:
    step = judged(seen, "search")
    assert (step.held, step.why) == (not why, why)


def test_the_objective_is_that_of_lookups_where_there_are_some() -> None:
    seen = outcome([5.0] * 1000)
    for _ in range(100):
        seen.window.record("add.response", 90_000_000)
    assert judged(seen, "search").held
    only = outcome([])
    only.window.counts["add.offered"] = only.window.counts["add.finished"] = 100
    for _ in range(100):
        only.window.record("add.response", 90_000_000)
    assert judged(only, "search").why.startswith("p99 90")
