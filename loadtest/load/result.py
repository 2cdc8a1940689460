"""The JSON of a run: everything that its report shows, under names that docs/loadtest.md explains.

VERSION grows when a name goes or changes its meaning; new names may come without that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from loadtest.latency import Latencies
from loadtest.load.asked import OPS
from loadtest.load.fleet import Outcome
from loadtest.load.metrics import ServiceCounts
from loadtest.load.stability import Check, kept_up, stability
from loadtest.load.tally import Tally

SCHEMA: Final = "embcache-loadtest"
VERSION: Final = 1
LEAST_MS: Final = 1e-4
"""Below what histograms tell apart, a time is none."""
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9, 99.99)

Report = dict[str, Any]
"""As JSON has it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around a run's figures: how it was started, on what, and what was asked."""

    command: str
    started: str
    target: dict[str, Any]
    settings: dict[str, Any]
    data: dict[str, Any]
    machine: dict[str, str]
    versions: dict[str, str]

    def report(self, kind: str) -> Report:
        """The beginning of a report of this kind: `run` or `search`."""
        return {"schema": SCHEMA, "version": VERSION, "kind": kind, **asdict(self)}


def run_report(frame: Frame, outcome: Outcome, service: ServiceCounts | None) -> Report:
    """The report of a run. service: what it counted meanwhile, warm-up and window; None where it did not say."""
    return {
        **frame.report("run"),
        "interrupted": outcome.interrupted,
        "result": result_of(outcome),
        "generators": generators_of(outcome),
        "stable": verdict(stability(outcome)),
        "series": series_of(outcome),
        "service": service_of(outcome, service),
    }


def result_of(outcome: Outcome) -> dict[str, Any]:
    """Counts, rates and times of the window."""
    window, seconds = outcome.window, outcome.window_s
    totals = {what: window.total(what) for what in ("offered", "answered", "errors", "not_sent", "good", "finished")}

    def rate(count: int) -> float:
        return count / seconds if seconds else 0.0

    return {
        "window_s": seconds,
        **totals,
        "offered_per_s": rate(totals["offered"]),
        "answered_per_s": rate(totals["finished"]),
        "good_per_s": rate(totals["good"]),
        "ids_per_s": rate(window.total("ids")),
        "sent_bytes": window.total("sent"),
        "received_bytes": window.total("received"),
        "ops": {op: _op(window, op) for op in OPS if window.counts[f"{op}.offered"]},
        "error_codes": window.errors(),
        "tiers": window.by_tier(),
        "visible_ms": times_of(window.named("visible")),
        "visible_after_ack_ms": times_of(window.named("visible_after_ack")),
        "trace_rounds": outcome.trace_rounds,
    }


def _op(window: Tally, op: str) -> dict[str, Any]:
    counts = {what: window.counts[f"{op}.{what}"] for what in ("offered", "answered", "errors", "not_sent", "good")}
    more = {what: window.counts[f"{op}.{what}"] for what in ("finished", "ids")}
    response, service = window.response(op), window.named(f"{op}.service")
    return {
        **counts,
        **more,
        "sent_bytes": window.counts[f"{op}.sent"],
        "received_bytes": window.counts[f"{op}.received"],
        "response_ms": times_of(response),
        "service_ms": times_of(service),
        "response_histogram": response.encoded(),
        "service_histogram": service.encoded(),
    }


def times_of(latencies: Latencies) -> dict[str, Any] | None:
    """Count, mean, percentiles and maximum in milliseconds; None where there is nothing.

    A percentile that fewer than one of the times lies beyond is None: 10,000 times are needed for p99.99.
    """
    if not latencies.count:
        return None
    found = latencies.percentiles_ms([*PERCENTILES, 100.0])
    values = {p: value if value >= LEAST_MS else 0.0 for p, value in found.items()}
    known = {p: latencies.count * (100 - p) / 100 >= 0.999 for p in PERCENTILES}
    named = {f"p{p:g}": values[p] if known[p] or p == 50 else None for p in PERCENTILES}
    return {"count": latencies.count, "mean": latencies.mean_ms, **named, "max": values[100.0]}


def generators_of(outcome: Outcome) -> dict[str, Any]:
    """How well the generators did, apart from the service."""
    window = outcome.window
    return {
        **verdict(kept_up(outcome), "kept_up"),
        "cpu_shares": outcome.cpu_shares,
        "lateness_ms": times_of(window.named("lateness")),
        "waiting_ms": times_of(window.named("waiting")),
        "pulse_ms": times_of(window.named("pulse")),
    }


def verdict(checks: list[Check], name: str = "stable") -> dict[str, Any]:
    """All checks, and whether all of them are fine, under `name`."""
    return {name: all(check.ok for check in checks), "checks": [asdict(check) for check in checks]}


def series_of(outcome: Outcome) -> dict[str, Any]:
    """One value an interval in each list; rates are by the second, times in milliseconds, None where there are none."""
    series = outcome.series
    tallies = [tally for _, tally in series]

    def rates(count: Callable[[Tally], int]) -> list[float]:
        return [round(count(tally) / series.interval_s, 3) for tally in tallies]

    ops = [op for op in OPS if any(tally.response(op).count for tally in tallies)]
    tiers = sorted({tier for tally in tallies for tier in tally.by_tier()})
    return {
        "interval_s": series.interval_s,
        "warmup_s": outcome.plan.warmup_s,
        "offered_per_s": rates(lambda tally: tally.total("offered")),
        "answered_per_s": rates(lambda tally: tally.total("answered")),
        "errors_per_s": rates(lambda tally: tally.total("errors")),
        "not_sent_per_s": rates(lambda tally: tally.total("not_sent")),
        "sent_bytes_per_s": rates(lambda tally: tally.total("sent")),
        "received_bytes_per_s": rates(lambda tally: tally.total("received")),
        "tiers_per_s": {tier: rates(partial(_ids_of, tier)) for tier in tiers},
        "response_ms": {op: _over_time([tally.response(op) for tally in tallies]) for op in ops},
        "visible_ms": _over_time([tally.named("visible") for tally in tallies]) if _any_visible(tallies) else None,
    }


def _ids_of(tier: str, tally: Tally) -> int:
    return tally.by_tier().get(tier, 0)


def _any_visible(tallies: list[Tally]) -> bool:
    return any(tally.named("visible").count for tally in tallies)


def _over_time(times: list[Latencies]) -> dict[str, list[float | None]]:
    asked = {"p50": 50.0, "p99": 99.0, "max": 100.0}
    found = [one.percentiles_ms(list(asked.values())) if one.count else None for one in times]
    return {name: [None if one is None else one[p] for one in found] for name, p in asked.items()}


def service_of(outcome: Outcome, service: ServiceCounts | None) -> dict[str, Any]:
    """What was answered here, warm-up and window and the tester's own probes, against what the service counted.

    agree: None where the service did not say. Timeouts may be answered after all, and others may ask the same service.
    """
    lookups = sum(
        tally.counts[name]
        for tally in (outcome.warmup, outcome.window)
        for name in ("lookup.answered", "probe.answered")
    )
    counted = None if service is None else asdict(service)
    return {"answered_lookups": lookups, "counted": counted, "agree": service and service.lookups == lookups}


def write_report(report: Report, path: Path) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def read_report(path: Path) -> Report:
    """What `write_report` wrote. ValueError, naming the file, where it is something else, or of another version."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not what `run --json` or `search --json` wrote")
    if report.get("version") != VERSION:
        raise ValueError(f"{path} is of version {report.get('version')}; this reads version {VERSION}")
    return report
