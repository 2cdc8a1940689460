"""The highest rate whose p99 stays within an objective, the knee, and what is answered in time beyond it.

A busy machine makes single steps lie. So a step that misses, or holds narrowly, is tried again until one side has two
tries; a miss in which the generators were slow themselves counts half. What is told is a bracket: the highest rate that
held, and the lowest above it that missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Final

from rich.console import Console

from loadtest.latency import Latencies
from loadtest.load.asked import OPS
from loadtest.load.fleet import Fleet, Outcome, Plan
from loadtest.load.result import Report
from loadtest.load.run import Pace, frame_of, ready_fleet
from loadtest.load.setup import Wanted
from loadtest.load.stability import kept_up
from loadtest.load.tally import Tally
from loadtest.load.terminal import step_line, view_of

PRECISION: Final = 0.05
CLEARLY: Final = 0.7  # of the objective: a p99 up to this holds at the first try
DECIDED: Final = 2.0
UNSURE: Final = 0.5  # what a miss counts in which the generators were slow themselves
LEAST_REQUESTS: Final = 500  # of a step: a p99 of fewer is made by a handful
LONGEST: Final = 4.0  # times its duration, for so many
FAILED: Final = 0.001  # of what was offered: errors and requests that were given up
BEHIND: Final = 0.05  # of what was offered: not answered within the window
GROWTH: Final = 1.5
MOST_STEPS: Final = 14  # up or down, until there is a bracket
MOST_RETURNS: Final = 3  # to an upper end that held after all
CURVE: Final = (0.25, 0.5, 0.75)
OVERLOADS: Final = (2.0, 5.0)
MAX_CLIENTS: Final = 512
PEAK_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Step:
    """What one step saw. purpose: peak, search, curve or overload. held: the objective; why: what it missed, else "".

    Times are of lookups, or of all requests where there are no lookups. rate: offered requests a second. factor: of
    overloads, how many times the rate that was found.
    """

    purpose: str
    rate: float
    answered_per_s: float
    good_per_s: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    offered: int
    errors: int
    not_sent: int
    held: bool
    why: str
    kept_up: bool
    factor: float = 1.0
    clients: int = 0


Measure = Callable[[float], Step]


class Interrupted(Exception):
    """Ctrl-C came during a step."""


@dataclass(slots=True)
class Bracket:
    """The highest rate that held, and the lowest above it that missed; None where there is none."""

    low: float | None = None
    high: float | None = None


def find(measure: Measure, start: float, slo_ms: float, bracket: Bracket, precision: float = PRECISION) -> None:
    """Bracket the highest rate that holds, from `start`, then halve the bracket until high / low <= 1 + precision.

    Then the upper end is tried once more, since noise makes steps miss and not hold: where it holds after all, the
    search goes on from there.
    bracket: filled as the search goes on, so that what was found is there if it ends early.
    """
    _surround(measure, start, slo_ms, bracket)
    for _ in range(MOST_RETURNS):
        _halve(measure, slo_ms, bracket, precision)
        if bracket.low is None or bracket.high is None or not _holds(measure, bracket.high, slo_ms):
            return
        rate, bracket.low, bracket.high = bracket.high * (1 + precision), bracket.high, None
        _surround(measure, rate, slo_ms, bracket)


def _surround(measure: Measure, rate: float, slo_ms: float, bracket: Bracket) -> None:
    """Go up or down from a rate until one holds and one above it misses."""
    for _ in range(MOST_STEPS):
        if _holds(measure, rate, slo_ms):
            bracket.low = rate
            if bracket.high is not None:
                return
            rate *= GROWTH
        else:
            bracket.high = rate
            if bracket.low is not None:
                return
            rate /= GROWTH


def _halve(measure: Measure, slo_ms: float, bracket: Bracket, precision: float) -> None:
    while bracket.low is not None and bracket.high is not None and bracket.high / bracket.low > 1 + precision:
        middle = math.sqrt(bracket.low * bracket.high)
        if _holds(measure, middle, slo_ms):
            bracket.low = middle
        else:
            bracket.high = middle


def _holds(measure: Measure, rate: float, slo_ms: float) -> bool:
    """Whether two tries hold before two miss; one that holds clearly, before any missed, is enough."""
    held = missed = 0.0
    while max(held, missed) < DECIDED:
        step = measure(rate)
        if not step.held:
            missed += 1 if step.kept_up else UNSURE
        elif step.p99_ms <= CLEARLY * slo_ms and not missed:
            return True
        else:
            held += 1
    return held >= DECIDED


def knee_of(steps: Iterable[Step]) -> float | None:
    """The rate at which the power, rate / mean response time, is the greatest, of those that were kept up with.

    L. Kleinrock, "Power and deterministic rules of thumb for probabilistic problems in computer communications", ICC
    1979. Of several tries at a rate the median counts. None where there is no such rate.
    """
    means: dict[float, list[float]] = {}
    for step in steps:
        if step.mean_ms and step.answered_per_s >= (1 - BEHIND) * step.rate:
            means.setdefault(step.rate, []).append(step.mean_ms)
    return max(means, key=lambda rate: rate / median(means[rate]), default=None)


def judged(outcome: Outcome, purpose: str) -> Step:
    """What a phase says of its rate."""
    window, seconds, slo_ms = outcome.window, max(outcome.window_s, 1e-9), outcome.plan.slo_ms
    times = window.response("lookup") if window.response("lookup").count else _all_times(window)
    offered, failed = window.total("offered"), window.total("errors") + window.total("not_sent")
    p99_ms = times.percentile_ms(99)
    why = []
    if p99_ms > slo_ms:
        why.append(f"p99 {p99_ms:.1f} ms")
    if failed > FAILED * offered:
        why.append(f"{failed:,} of {offered:,} failed")
    behind = offered - window.total("finished") - failed
    if behind > max(BEHIND * offered, outcome.plan.clients):
        why.append(f"{behind:,} of {offered:,} not answered within the window")
    if not offered:
        why.append("nothing was due")
    return Step(
        purpose=purpose,
        rate=outcome.plan.rate,
        answered_per_s=window.total("finished") / seconds,
        good_per_s=window.total("good") / seconds,
        mean_ms=times.mean_ms,
        p50_ms=times.percentile_ms(50),
        p99_ms=p99_ms,
        offered=offered,
        errors=window.total("errors"),
        not_sent=window.total("not_sent"),
        held=not why,
        why="; ".join(why),
        kept_up=all(check.ok for check in kept_up(outcome)),
        clients=outcome.plan.clients,
    )


def _all_times(window: Tally) -> Latencies:
    together = Latencies()
    for op in OPS:
        together.add(window.response(op))
    return together


class _Searcher:
    """Runs steps on one fleet, says each on the console and keeps it. Raises Interrupted for one that was cut short."""

    def __init__(self, fleet: Fleet, plan: Plan, console: Console) -> None:
        self._fleet, self._plan, self._console = fleet, plan, console
        self.steps: list[Step] = []

    def peak(self) -> float:
        """Answers a second when clients ask again as soon as they are answered: about what the service can do."""
        plan = replace(self._plan, arrivals="closed", duration_s=PEAK_S)
        peak = self._run(plan, "peak").answered_per_s
        self._console.print(f"As fast as answers come: {peak:,.0f}/s", highlight=False)
        return peak

    def step(self, rate: float, purpose: str = "search") -> Step:
        """One try at a rate."""
        duration_s = self._plan.duration_s
        longer_s = min(max(duration_s, LEAST_REQUESTS / rate), LONGEST * duration_s)
        return self._kept(self._run(replace(self._plan, rate=rate, duration_s=longer_s), purpose))

    def overload(self, rate: float, factor: float) -> None:
        """Callers wait as long as the objective and no longer, and there are enough of them for twice that."""
        slo_s = self._plan.slo_ms / 1000
        clients = min(max(self._plan.clients, math.ceil(2 * rate * factor * slo_s)), MAX_CLIENTS)
        plan = replace(self._plan, rate=rate * factor, clients=clients, patience_s=slo_s)
        self._kept(replace(self._run(plan, "overload"), factor=factor))

    def _run(self, plan: Plan, purpose: str) -> Step:
        with view_of(self._console, quiet=True) as view:
            outcome = self._fleet.run(plan, view)
        if outcome.interrupted:
            raise Interrupted
        return judged(outcome, purpose)

    def _kept(self, step: Step) -> Step:
        self.steps.append(step)
        self._console.print(step_line(asdict(step)), highlight=False, markup=False, soft_wrap=True)
        return step


def search(
    wanted: Wanted, pace: Pace, console: Console, arguments: Sequence[str] = (), precision: float = PRECISION
) -> Report:
    """Search and return the report, also after Ctrl-C. pace: its rate does not count, its duration is a step's."""
    bracket, peak, interrupted = Bracket(), None, False
    with ready_fleet(wanted, pace, console) as (ready, fleet):
        frame = frame_of(ready, wanted, pace, arguments)
        frame = replace(frame, settings={**frame.settings, "rate": None})
        searcher = _Searcher(fleet, pace.plan(wanted), console)
        try:
            peak = searcher.peak()
            find(searcher.step, max(CLEARLY * peak, 1.0), pace.slo_ms, bracket, precision)
            if bracket.low is not None:
                for share in CURVE:
                    searcher.step(share * bracket.low, "curve")
                for factor in OVERLOADS:
                    searcher.overload(bracket.low, factor)
        except (Interrupted, KeyboardInterrupt):  # in a step, or between two
            interrupted = True
    steps = [step for step in searcher.steps if step.purpose != "overload"]
    return {
        **frame.report("search"),
        "interrupted": interrupted,
        "found": {
            "rate": bracket.low,
            "bracket": [bracket.low, bracket.high],
            "knee": knee_of(steps),
            "peak_per_s": peak,
            "generators_kept_up": all(step.kept_up for step in steps),
        },
        "steps": [asdict(step) for step in steps],
        "overload": [asdict(step) for step in searcher.steps if step.purpose == "overload"],
    }
