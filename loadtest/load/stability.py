"""Whether a window was stable, and whether the generators kept up: what a report must say before its figures count."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from loadtest.load.asked import OPS
from loadtest.load.fleet import Outcome
from loadtest.load.tally import SERIES_DIGITS, Tally

PARTS: Final = 10
MIN_PARTS: Final = 4
UNANSWERED: Final = 0.01  # of what was offered
RATE_SPREAD: Final = 0.10  # of the mean
RATE_SIGMAS: Final = 4.0
DRIFT: Final = 1.25  # of the median time, from the first half to the second
DRIFT_MS: Final = 0.25
DRIFT_TIMES: Final = 100  # in each half: the medians of fewer differ by chance
TIER_DRIFT: Final = 0.05

LATE_MS: Final = 1.0
LATE_SHARE: Final = 0.10
BUSY_SHARE: Final = 0.90


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, and what came out: `ok`, and in words."""

    name: str
    ok: bool
    text: str


def stability(outcome: Outcome) -> list[Check]:
    """What must hold for a window to count as stable; it is if all checks are `ok`.

    answered   of what was offered, all but 1% was answered within the window; as many as there are clients may be under
               way at its end
    rate       each tenth of the window has within 10% of the mean answers, or within 4 standard deviations of a Poisson
               process of that mean
    latency    the median time of the second half is within 25%, or 0.25 ms, of that of the first: no queue grows; of
               ops with 100 times in each half
    tiers      no tier's share of the ids moves by more than 5 points from one half to the other: no cache still fills
    """
    parts = window_parts(outcome)
    if len(parts) < MIN_PARTS:
        return [Check("length", False, f"the window has {len(parts)} intervals; {MIN_PARTS} are needed to judge it")]
    half = len(parts) // 2
    first, second = _joined(parts[:half]), _joined(parts[-half:])
    return [_answered(outcome), _rate(parts), _latency(first, second), _tiers(first, second)]


def kept_up(outcome: Outcome) -> list[Check]:
    """Whether the generators sent what was due, so that the times are the service's and not theirs.

    lateness   p99 of what a free client was late is within 1 ms, or 10% of p99 of the response times
    cpu        no generator used more than 90% of a core
    """
    window = outcome.window
    late = window.named("lateness").percentile_ms(99)
    slowest = max((window.response(op).percentile_ms(99) for op in OPS), default=0.0)
    most = max(LATE_MS, LATE_SHARE * slowest)
    said = f"p99 of sends by free clients was {late:.2f} ms late (at most {most:.2f} ms)"
    busiest = max(outcome.cpu_shares, default=0.0)
    return [
        Check("lateness", late <= most, said),
        Check("cpu", busiest <= BUSY_SHARE, f"the busiest generator used {busiest:.0%} of a core (at most 90%)"),
    ]


def window_parts(outcome: Outcome) -> list[Tally]:
    """The window in up to PARTS parts of like length, made of whole intervals of the series."""
    plan, series = outcome.plan, outcome.series
    inside = [
        tally
        for start_s, tally in series
        if start_s >= plan.warmup_s - 1e-9
        and start_s + series.interval_s <= plan.warmup_s + outcome.window_s + series.interval_s * 0.01
    ]
    size = max(-(-len(inside) // PARTS), 1)
    return [_joined(inside[start : start + size]) for start in range(0, len(inside) - size + 1, size)]


def _joined(tallies: list[Tally]) -> Tally:
    joined = Tally(SERIES_DIGITS)
    for tally in tallies:
        joined.add(tally)
    return joined


def _answered(outcome: Outcome) -> Check:
    offered, answered = outcome.window.total("offered"), outcome.window.total("finished")
    missing = offered - answered
    said = f"{answered:,} of {offered:,} requests were answered within the window"
    return Check("answered", bool(offered) and missing <= max(UNANSWERED * offered, outcome.plan.clients), said)


def _rate(parts: list[Tally]) -> Check:
    counts = [part.total("answered") for part in parts]
    mean = sum(counts) / len(counts)
    allowed = max(RATE_SPREAD * mean, RATE_SIGMAS * math.sqrt(mean))
    off = max(abs(count - mean) for count in counts)
    share, most = (off / mean, allowed / mean) if mean else (1.0, 0.0)
    said = f"a part of the window is {share:.0%} off the mean rate (at most {most:.0%})"
    return Check("rate", bool(mean) and off <= allowed, said)


def _latency(first: Tally, second: Tally) -> Check:
    moved = []
    for op in OPS:
        if min(first.response(op).count, second.response(op).count) < DRIFT_TIMES:
            continue
        before, after = first.response(op).percentile_ms(50), second.response(op).percentile_ms(50)
        if max(before, after) > min(before, after) * DRIFT and abs(after - before) > DRIFT_MS:
            moved.append(f"the median {op} went from {before:.2f} to {after:.2f} ms")
    return Check("latency", not moved, "; ".join(moved) or "median times of both halves agree")


def _tiers(first: Tally, second: Tally) -> Check:
    moved = []
    before, after = first.by_tier(), second.by_tier()
    for tier in sorted({*before, *after}):
        was = before.get(tier, 0) / max(sum(before.values()), 1)
        became = after.get(tier, 0) / max(sum(after.values()), 1)
        if abs(became - was) > TIER_DRIFT:
            moved.append(f"the share of {tier} ids went from {was:.1%} to {became:.1%}")
    return Check("tiers", not moved, "; ".join(moved) or "the tiers' shares of both halves agree")
