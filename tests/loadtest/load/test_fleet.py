"""Load from several processes, held against a service that counts by itself and stands still when it is told to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import Connection

import pytest

from loadtest.load.asked import AskedTable, Workload, parse_mix
from loadtest.load.asking import Target
from loadtest.load.counting import Delta
from loadtest.load.fleet import Fleet, Outcome, Plan, fleet_of
from loadtest.load.stability import kept_up, stability
from loadtest.processes import ProcessFailed
from tests.loadtest.load.scripted import DIM, Scripted, scripted

WORKLOAD = Workload("zipf", (AskedTable("item", DIM, 1000),), seed=1, ids=8)
PLAN = Plan("constant", 400.0, clients=8, warmup_s=0.25, duration_s=1.0, patience_s=5.0, slo_ms=100.0)
SLOW = replace(PLAN, rate=200.0, warmup_s=0.5, duration_s=2.0)


def load(
    service: Scripted,
    plan: Plan = PLAN,
    workload: Workload = WORKLOAD,
    processes: int = 2,
    timeout_s: float = 5.0,
    seen: Callable[[Outcome, float], object] = lambda outcome, at_s: None,
) -> Outcome:
    with fleet_of(Target(service.url, timeout_s=timeout_s), workload, processes) as fleet:
        outcome = fleet.run(plan, seen)
    outcome.warmup.check()
    outcome.window.check()
    return outcome


def test_what_is_reported_is_what_the_service_got() -> None:
    with scripted() as service:
        outcome = load(service)
    warmup, window = outcome.warmup, outcome.window
    assert (warmup.total("offered"), window.total("offered")) == (100, 400)  # 400 a second, for 0.25 s and 1 s
    assert service.asked["/v1/lookup"] == warmup.total("answered") + window.total("answered") == 500
    assert sum(service.ids.values()) == warmup.total("ids") + window.total("ids") == 500 * 8
    assert service.body_bytes == warmup.total("sent") + window.total("sent")
    assert service.reply_bytes == warmup.total("received") + window.total("received")
    assert window.by_tier() == {"warm": 400 * 8}
    over_time = [tally for _, tally in outcome.series]
    assert sum(tally.total("offered") for tally in over_time) == 500
    assert sum(tally.total("answered") for tally in over_time) == 500
    assert sum(tally.response("lookup").count for tally in over_time) == 500


def test_a_stall_shows_in_the_open_loop_and_is_hidden_by_the_closed_one() -> None:
    with scripted(stall=(200, 1.0)) as service:
        outcome = load(service, SLOW)
    response = outcome.window.response("lookup")
    # All that was due in that second waited: 200 of 400, evenly from 0 to 1 s, whoever was free to send them.
    assert response.max_ms >= 1000
    assert response.percentile_ms(99) >= 900
    assert response.percentile_ms(75) >= 400
    assert outcome.window.named("waiting").max_ms >= 500  # 8 clients were busy: most of it was waited for one of them
    assert outcome.window.named("lookup.service").percentile_ms(75) < 400
    with scripted(stall=(200, 1.0)) as service:
        outcome = load(service, replace(SLOW, arrivals="closed", clients=2, warmup_s=0.0))
    response = outcome.window.response("lookup")
    assert response.max_ms >= 1000
    third = 100 * (1 - 2.5 / response.count)
    assert response.percentile_ms(third) < 900  # two clients waited, once each: nobody else is seen to have waited


def test_a_generator_that_stands_still_takes_the_blame() -> None:
    stopped: list[int] = []

    def stop_one(outcome: Outcome, at_s: float) -> None:
        if at_s > 1.0 and not stopped:
            stopped.extend(children("generator"))
            os.kill(stopped[0], signal.SIGSTOP)
            threading.Timer(0.6, lambda: os.kill(stopped[0], signal.SIGCONT)).start()

    with scripted() as service:
        outcome = load(service, replace(SLOW, clients=16), seen=stop_one)
    assert outcome.window.total("answered") == 400
    assert outcome.window.named("lateness").max_ms >= 300
    assert outcome.window.named("pulse").max_ms >= 300
    assert outcome.window.response("lookup").max_ms >= 300
    late = next(check for check in kept_up(outcome) if check.name == "lateness")
    assert not late.ok
    assert "late" in late.text


def children(name: str) -> list[int]:
    """Process ids of multiprocessing's children."""
    return [int(child.pid or 0) for child in multiprocessing.active_children() if child.name.startswith(name)]


def test_what_no_client_is_free_for_is_given_up_and_counted() -> None:
    with scripted(stall=(120, 1.5)) as service:
        outcome = load(service, replace(SLOW, clients=2, patience_s=0.2), processes=1)
    window = outcome.window
    assert window.total("not_sent") >= 150
    assert window.total("offered") == 400 == window.total("answered") + window.total("not_sent")
    assert service.asked["/v1/lookup"] == outcome.warmup.total("answered") + window.total("answered")
    assert window.response("lookup").count == 400
    assert not all(check.ok for check in stability(outcome))


def test_errors_are_counted_by_their_code_and_never_tried_again() -> None:
    with scripted(refuse_every=5) as service:
        outcome = load(service, processes=1)
    window = outcome.window
    assert service.asked["/v1/lookup"] == 500
    assert outcome.warmup.total("errors") + window.total("errors") == service.refused == 100
    assert window.errors() == {"overloaded": window.total("errors")}
    assert window.total("good") <= window.total("answered") == 400 - window.total("errors")


def test_timeouts_and_dead_services_are_errors() -> None:
    with scripted(stall=(150, 1.2)) as service:
        outcome = load(service, SLOW, processes=1, timeout_s=0.4)
    assert outcome.window.errors()["timeout"] > 0
    gone = Scripted()
    gone.url = service.url
    outcome = load(gone, replace(PLAN, rate=100.0), processes=1)
    assert outcome.window.errors() == {"connect_failed": 100}
    assert outcome.window.total("answered") == 0


def test_late_rows_are_not_good() -> None:
    with scripted(statuses=b"\2\4") as service:
        outcome = load(service, processes=1)
    assert outcome.window.total("answered") == 400
    assert outcome.window.total("good") == 0
    assert outcome.window.by_tier() == {"warm": 1600, "late": 1600}


def test_mixes_push_updates_and_see_when_they_are_visible() -> None:
    workload = replace(WORKLOAD, mix=parse_mix("lookup=0.5,assign=0.2,add=0.2,delete=0.1"), update_rows=3)
    with scripted(visible_s=0.2) as service:
        outcome = load(service, SLOW, processes=1, workload=workload)
    both = (outcome.warmup, outcome.window)
    pushed = sum(tally.counts[f"{op}.answered"] for tally in both for op in ("assign", "add", "delete"))
    seen = sum(tally.counts["probe.answered"] for tally in both)
    assert service.asked["/v1/updates"] == pushed > 150
    lookups = sum(tally.counts["lookup.answered"] for tally in both)
    assert service.asked["/v1/lookup"] == lookups + seen
    # A lookup that gives an update's position is answered 0.2 s later; other lookups are not.
    visible = outcome.window.named("visible_after_ack")
    assert visible.count > 0
    assert visible.percentile_ms(0) >= 199
    assert outcome.window.named("visible").percentile_ms(0) >= 199
    assert outcome.window.response("lookup").percentile_ms(50) < 199
    assert outcome.window.counts["add.ids"] == 3 * outcome.window.counts["add.answered"]


def test_phases_follow_one_another_on_the_same_generators() -> None:
    with scripted() as service, fleet_of(Target(service.url), WORKLOAD, 2) as fleet:
        first = fleet.run(PLAN)
        second = fleet.run(replace(PLAN, rate=200.0, clients=12))
    assert (first.window.total("answered"), second.window.total("answered")) == (400, 200)
    assert service.asked["/v1/lookup"] == 100 + 400 + 50 + 200


def test_interrupted_it_says_what_it_saw() -> None:
    def interrupt(outcome: Outcome, at_s: float) -> None:
        if at_s > 1.5:
            raise KeyboardInterrupt

    with scripted() as service:
        outcome = load(service, replace(PLAN, duration_s=60.0), seen=interrupt)
    assert outcome.interrupted
    assert 0 < outcome.window.total("answered") < 3000
    assert service.asked["/v1/lookup"] == outcome.warmup.total("answered") + outcome.window.total("answered")
    assert outcome.window_s < 30


def test_generators_that_are_still_starting_hear_of_no_interrupt(capfd: pytest.CaptureFixture[str]) -> None:
    with scripted() as service:
        fleet = Fleet(Target(service.url), WORKLOAD, 2)
        with closing(fleet):
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGINT)
            fleet.wait_ready()
            outcome = fleet.run(PLAN)
    assert outcome.window.total("answered") == 400
    assert capfd.readouterr().err == ""


def test_interrupted_between_taking_counts_and_adding_them_it_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Fleet._receive
    taken = 0

    def interrupted(fleet: Fleet, link: Connection) -> object:
        nonlocal taken
        message = receive(fleet, link)
        if isinstance(message, Delta):
            taken += 1
            if taken == 5:
                signal.raise_signal(signal.SIGINT)
        return message

    monkeypatch.setattr(Fleet, "_receive", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
    try:
        with scripted() as service:
            outcome = load(service, replace(PLAN, duration_s=60.0))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.interrupted
    assert service.asked["/v1/lookup"] == outcome.warmup.total("answered") + outcome.window.total("answered")


def test_a_generator_that_dies_is_an_error() -> None:
    def kill(outcome: Outcome, at_s: float) -> None:
        for pid in children("generator-1"):
            os.kill(pid, signal.SIGKILL)

    with scripted() as service, pytest.raises(ProcessFailed, match="generator-1 ended with status -9"):
        load(service, seen=kill)


def test_a_generator_that_cannot_go_on_says_why() -> None:
    with scripted() as service, pytest.raises(ProcessFailed, match=r"a generator failed:(.|\n)*no-such-dtype"):
        load(service, processes=1, workload=replace(WORKLOAD, dtype="no-such-dtype"))
