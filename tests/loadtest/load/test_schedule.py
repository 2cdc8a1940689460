"""When requests are due, and what is handed out late, given up or left out."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest

from loadtest.load import schedule
from loadtest.load.asked import AskedTable, Workload
from loadtest.load.fleet import SharedNewest
from loadtest.load.requests import Requests
from loadtest.load.schedule import Schedule, due_times


class Clock:
    """Time that stands still until it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        monkeypatch.setattr(schedule, "clock_ns", lambda: self.now_ns)


def requests() -> Requests:
    return Requests(Workload("zipf", (AskedTable("item", 8, 10),), seed=1, ids=1), 0, 1, SharedNewest(10))


def test_constant_arrivals_are_even_over_all_generators() -> None:
    dues = [list(islice(due_times("constant", 30.0, number, 3, 1, 5_000), 4)) for number in range(3)]
    together = sorted(due for some in dues for due in some)
    assert together[0] == 5_000
    assert [round((b - a) / 1e6, 3) for a, b in pairwise(together)] == [33.333] * 11


def test_long_schedules_do_not_drift() -> None:
    last = next(islice(due_times("constant", 7.0, 0, 1, 1, 0), 70_000, None))
    assert last == 10_000_000_000_000


def test_poisson_arrivals_of_all_generators_are_one_poisson_process() -> None:
    dues = [np.array(list(islice(due_times("poisson", 1000.0, number, 4, 9, 0), 30_000))) for number in range(4)]
    end = min(some[-1] for some in dues)
    together = np.sort(np.concatenate(dues))
    gaps = np.diff(together[together <= end]) / 1e6
    assert gaps.mean() == pytest.approx(1.0, rel=0.02)
    assert gaps.std() == pytest.approx(1.0, rel=0.02)
    for at in (0.5, 1.0, 3.0):
        assert np.mean(gaps > at) == pytest.approx(np.exp(-at), abs=0.01)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.02


def test_the_seed_says_when() -> None:
    def first(seed: int, number: int) -> list[int]:
        return list(islice(due_times("poisson", 100.0, number, 2, seed, 0), 5))

    assert first(1, 0) == first(1, 0)
    assert len({tuple(first(1, 0)), tuple(first(1, 1)), tuple(first(2, 0))}) == 3


def test_requests_come_in_order_and_ahead_of_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    handed = Schedule(requests(), iter([10, 20, 30, 40]), 35, 100, lambda *given_up: None)
    taken = [handed.take() for _ in range(5)]
    assert [ticket.due_ns if ticket else None for ticket in taken] == [10, 20, 30, None, None]


def test_what_nobody_waits_for_any_more_is_given_up_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    told: list[tuple[str, int, int]] = []
    handed = Schedule(requests(), iter([10, 20, 30, 40, 900]), 800, 100, lambda *given_up: told.append(given_up))
    clock.now_ns = 125
    ticket = handed.take()
    assert ticket is not None
    assert ticket.due_ns == 30
    assert told == [("lookup", 10, 125), ("lookup", 20, 125)]
    clock.now_ns = 2000
    assert handed.take() is None
    assert told[2:] == [("lookup", 40, 2000)]


def test_an_end_gives_up_what_is_due_and_forgets_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    told: list[int] = []
    handed = Schedule(requests(), iter([10, 20, 30, 40]), 1000, 500, lambda op, due, now: told.append(due))
    ahead = handed.take()
    assert ahead is not None
    clock.now_ns = 25
    handed.end_now()
    assert handed.take() is None
    assert told == [20]
    assert [handed.is_over(due) for due in (10, 24, 25, 30)] == [False, False, True, True]


def test_a_closed_loop_has_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    handed = Schedule(requests(), None, 100, 10, lambda *given_up: None)
    ticket = handed.take()
    assert ticket is not None
    assert ticket.due_ns is None
    clock.now_ns = 100
    assert handed.take() is None
