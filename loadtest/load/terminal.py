"""A run in the terminal: what goes on while it lasts, and what came of it. Plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtest.load.asked import OPS
from loadtest.load.fleet import Outcome
from loadtest.load.result import Report
from loadtest.load.tally import SERIES_DIGITS, Tally
from loadtest.tables import figure

_EVERY_S: Final = 1.0
_BEHIND_S: Final = 1.0  # generators tell what they counted twice a second
_COLUMNS: Final = ("p50", "p90", "p99", "p99.9", "p99.99", "max")


Seen = Callable[[Outcome, float], object]
"""As Fleet.run calls it: with what was counted so far, and the seconds since the first arrival."""


class View:
    """Says once a second how a phase goes: a table that is drawn anew in a terminal, else a line each time."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console, self._live = console, live
        self._told_s = 0.0

    def __call__(self, outcome: Outcome, at_s: float) -> None:
        """As Fleet.run calls it."""
        if time.monotonic() - self._told_s < _EVERY_S or at_s < 0:
            return
        self._told_s = time.monotonic()
        if self._live is None:
            self._console.print(_line(outcome, at_s), highlight=False, markup=False, soft_wrap=True)
        else:
            self._live.update(_panel(outcome, at_s), refresh=True)


@contextmanager
def view_of(console: Console, *, quiet: bool = False) -> Iterator[Seen]:
    """A view for the block; it is drawn only when told, so that no thread of its own shows in the times.

    quiet: says nothing where there is no terminal.
    """
    if not console.is_terminal:
        yield (lambda outcome, at_s: None) if quiet else View(console, None)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield View(console, live)


def _recent(outcome: Outcome, at_s: float) -> tuple[Tally, float]:
    """What the last second that all generators have told of counted; -> it and its seconds."""
    series = outcome.series
    told = [tally for start_s, tally in series if start_s + series.interval_s <= at_s - _BEHIND_S]
    last = told[-max(1, round(1.0 / series.interval_s)) :]
    joined = Tally(SERIES_DIGITS)
    for tally in last:
        joined.add(tally)
    return joined, max(len(last), 1) * series.interval_s


def _figures(tally: Tally, seconds: float | None = None) -> dict[str, str]:
    """What is said of a tally, by name. seconds: how long it took, for rates instead of counts."""

    def counted(count: int) -> str:
        return f"{count:,}" if seconds is None else f"{count / seconds:,.0f}/s"

    said = {"offered": counted(tally.total("offered")), "answered": counted(tally.total("answered"))}
    for op in OPS:
        times = tally.response(op)
        if times.count:
            found = times.percentiles_ms([50.0, 99.0])
            said[op] = f"p50 {found[50.0]:.2f} p99 {found[99.0]:.2f} ms"
    total = max(sum(tally.by_tier().values()), 1)
    said["tiers"] = " ".join(f"{tier} {count / total:.1%}" for tier, count in tally.by_tier().items()) or "-"
    if tally.named("visible").count:
        said["updates visible"] = f"p99 {tally.named('visible').percentile_ms(99):.1f} ms"
    said["failed"] = counted(tally.total("errors") + tally.total("not_sent"))
    return said


def _stage(outcome: Outcome, at_s: float) -> str:
    plan = outcome.plan
    if at_s < plan.warmup_s:
        return "warm-up"
    return "window" if at_s < plan.warmup_s + plan.duration_s else "draining"


def _line(outcome: Outcome, at_s: float) -> str:
    figures = "  ".join(f"{name} {said}" for name, said in _figures(*_recent(outcome, at_s)).items())
    return f"{at_s:6.1f} s {_stage(outcome, at_s):<8} {figures}"


def _panel(outcome: Outcome, at_s: float) -> Table:
    plan = outcome.plan
    left_s = max(plan.warmup_s + plan.duration_s - at_s, 0)
    title = f"{at_s:.0f} s, {_stage(outcome, at_s)}, {left_s:.0f} s to go"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "last second", "window so far"):
        table.add_column(column, no_wrap=True)
    recent = _figures(*_recent(outcome, at_s))
    window = _figures(outcome.window) if outcome.window.counts else {}
    for name in dict.fromkeys([*recent, *window]):
        table.add_row(name, recent.get(name, "-"), window.get(name, "-"))
    return table


def print_search(report: Report, console: Console) -> None:
    """What a search tried and found."""
    for step in (*report["steps"], *report["overload"]):
        console.print(step_line(step), highlight=False, markup=False, soft_wrap=True)
    for line in search_lines(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_run(report: Report, console: Console) -> None:
    """What came of a run."""
    result = report["result"]
    console.print(summary_line(report), highlight=False, markup=False, soft_wrap=True)
    title = "Response times in ms, from when each request was due"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("op", no_wrap=True)
    for column in ("answered", "failed", *_COLUMNS):
        table.add_column(column, justify="right", no_wrap=True)
    for op, of_op in result["ops"].items():
        times = of_op["response_ms"] or {}
        failed = of_op["errors"] + of_op["not_sent"]
        table.add_row(op, f"{of_op['answered']:,}", f"{failed:,}", *(figure(times.get(column)) for column in _COLUMNS))
    if result["ops"]:
        console.print(table)
    for line in remarks(report):
        style = "yellow" if line.startswith("NOT ") else None
        console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def summary_line(report: Report) -> str:
    """Rates, in one line."""
    result = report["result"]
    return (
        f"{result['window_s']:.1f} s: offered {result['offered_per_s']:,.0f}/s, answered "
        f"{result['answered_per_s']:,.0f}/s, within {report['settings']['slo_ms']:g} ms {result['good_per_s']:,.0f}/s, "
        f"{result['ids_per_s']:,.0f} ids/s, {result['received_bytes'] / 2**20:,.1f} MiB received, "
        f"{result['sent_bytes'] / 2**20:,.1f} MiB sent"
    )


def remarks(report: Report) -> list[str]:
    """What has to be known of a run beside its times; those that cast doubt on them begin with NOT."""
    result = report["result"]
    lines = []
    if report["interrupted"]:
        lines.append("NOT COMPLETE: it was interrupted; this is what was seen until then.")
    if report["settings"]["arrivals"] == "closed":
        lines.append(
            "NOT OPEN LOOP: clients waited for answers, so who would have waited behind a slow one is not seen."
        )
    lines += _failed_checks("NOT STABLE", report["stable"], "stable")
    lines += _failed_checks("NOT KEPT UP: the generators were slow themselves", report["generators"], "kept_up")
    if result["error_codes"]:
        lines.append("Errors: " + ", ".join(f"{code} {count:,}" for code, count in result["error_codes"].items()))
    if result["not_sent"]:
        lines.append(f"Not sent, since no client was free within the timeout: {result['not_sent']:,}")
    total = max(sum(result["tiers"].values()), 1)
    if result["tiers"]:
        lines.append("Tiers: " + ", ".join(f"{tier} {count / total:.2%}" for tier, count in result["tiers"].items()))
    if result["tiers"].get("missing", 0) > total / 2:
        lines.append("Most ids are missing: does the table hold the ids asked for? See --rows and --keys.")
    if (visible := result["visible_ms"]) is not None:
        p50, p99 = figure(visible["p50"]), figure(visible["p99"])
        lines.append(f"Updates were visible {p50} ms (p50), {p99} ms (p99) after they were due.")
    if report["service"]["agree"] is False:
        counted, here = report["service"]["counted"]["lookups"], report["service"]["answered_lookups"]
        lines.append(f"The service counted {counted:,} lookups meanwhile, {here:,} were answered here.")
    return lines


def step_line(step: dict[str, Any]) -> str:
    """One step of a search."""
    verdict = "held" if step["held"] else f"missed: {step['why']}"
    fault = "" if step["kept_up"] else "  (the generators were slow themselves)"
    what = f"{step['factor']:g}x" if step["purpose"] == "overload" else step["purpose"]
    return (
        f"{what:<7} {step['rate']:9,.0f}/s  answered {step['answered_per_s']:,.0f}/s  in time "
        f"{step['good_per_s']:,.0f}/s  p50 {step['p50_ms']:.2f}  p99 {step['p99_ms']:.2f} ms  {verdict}{fault}"
    )


def search_lines(report: Report) -> list[str]:
    """What a search found, in words."""
    found, slo = report["found"], f"{report['settings']['slo_ms']:g} ms"
    lines = ["NOT COMPLETE: it was interrupted."] if report["interrupted"] else []
    low, high = found["bracket"]
    if low is None:
        lines.append(f"No rate was found whose p99 stays within {slo}" + (f", down to {high:,.1f}/s." if high else "."))
    elif high is None:
        lines.append(f"p99 stayed within {slo} up to {low:,.0f}/s, the highest rate that was tried.")
    else:
        lines.append(f"p99 stays within {slo} at {low:,.0f}/s, and does not at {high:,.0f}/s.")
    if found["knee"] is not None:
        lines.append(f"The knee (the most requests for their mean time) of the rates tried: {found['knee']:,.0f}/s.")
    lines += [
        f"At {step['factor']:g} times that rate {step['good_per_s']:,.0f}/s are answered within {slo}."
        for step in report["overload"]
    ]
    if not found["generators_kept_up"]:
        lines.append(
            "NOT KEPT UP: in some steps the generators were slow themselves; the service may do better than this."
        )
    return lines


def _failed_checks(what: str, checked: dict[str, Any], name: str) -> list[str]:
    if checked[name]:
        return []
    return [f"{what}: " + "; ".join(check["text"] for check in checked["checks"] if not check["ok"])]
