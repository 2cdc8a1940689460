"""What reports show as plots: one run alone, or two on top of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from embcache_client import STATUS_NAMES
from loadtest.latency import Latencies
from loadtest.load.result import Report
from loadtest.load.svg import Axis, Line, Plot, Values, linear, logarithmic, nines, percentiles

Named = Sequence[tuple[str, Report]]
"""Reports with what they are called; one alone is called nothing."""

_MIB: Final = 2**20
_TIER_COLOURS: Final = {"hot": 1, "warm": 2, "cold": 0, "missing": 4, "late": 7, "failed": 3, "near": 5}


def run_plots(runs: Named) -> list[Plot]:
    """All plots of runs, those without anything in them left out."""
    plots = [_rates(runs), _percentiles(runs, "response"), _percentiles(runs, "service"), *_times(runs)]
    plots += [_tiers(name, report) for name, report in runs if report["series"]["tiers_per_s"]]
    plots += [_bytes(runs), _visible(runs)]
    return [plot for plot in plots if plot.lines]


def search_plots(searches: Named) -> list[Plot]:
    """Times and answers by what was offered."""
    return [_p99_by_rate(searches), _answered_by_rate(searches)]


def _called(name: str, what: str) -> str:
    return f"{name}: {what}" if name else what


def _at_s(report: Report) -> list[float]:
    """The middle of each interval, in seconds from the window's beginning."""
    series = report["series"]
    step, count = series["interval_s"], len(series["offered_per_s"])
    return [(number + 0.5) * step - series["warmup_s"] for number in range(count)]


def _over_time(runs: Named, title: str, lines: list[tuple[str, str, list[Any], bool]], y: Axis, note: str = "") -> Plot:
    """lines: (the run's name, what, values, dashed)."""
    at = {name: _at_s(report) for name, report in runs}
    drawn: list[Line] = []
    xs_of: dict[str, Sequence[float]] = {}
    for number, (name, what, values, dashed) in enumerate(lines):
        drawn.append(Line(_called(name, what), values, number, dashed))
        xs_of[_called(name, what)] = at[name]
    xs = max(at.values(), key=len)
    span = [value for some in at.values() for value in some]
    x = linear("s from the window's beginning", span, from_zero=False)
    return Plot(title, x, y, xs, drawn, marks=_marks(runs), note=note, xs_of=xs_of)


def _marks(runs: Named) -> list[tuple[float, str]]:
    """Where the window begins, and where it ends if that is at one place."""
    begin = [(0.0, "window")] if any(report["series"]["warmup_s"] for _, report in runs) else []
    ends = {report["result"]["window_s"] for _, report in runs}
    return begin + [(end, "end") for end in ends if len(ends) == 1]


def _rates(runs: Named) -> Plot:
    lines = []
    for name, report in runs:
        series = report["series"]
        lines.append((name, "offered", series["offered_per_s"], True))
        lines.append((name, "answered", series["answered_per_s"], False))
        for key, what in (("errors_per_s", "errors"), ("not_sent_per_s", "not sent")):
            if any(series[key]):
                lines.append((name, what, series[key], False))
    y = linear("requests/s", [value for line in lines for value in line[2]])
    return _over_time(runs, "Offered and answered", lines, y)


def _percentiles(runs: Named, kind: str) -> Plot:
    """kind: response or service."""
    drawn: list[Line] = []
    xs_of: dict[str, Sequence[float]] = {}
    for name, report in runs:
        for op, of_op in report["result"]["ops"].items():
            xs, ys = percentile_curve(of_op[f"{kind}_histogram"])
            if xs:
                drawn.append(Line(_called(name, op), ys, len(drawn)))
                xs_of[drawn[-1].name] = xs
    highest = max((xs[-1] for xs in xs_of.values()), default=99.0)
    y = logarithmic("ms", [value for line in drawn for value in line.ys])
    title, note = {
        "response": (
            "Response times by percentile",
            "From when a request was due, waiting included.",
        ),
        "service": ("Service times by percentile", "From when a request was sent, waiting left out."),
    }[kind]
    return Plot(title, percentiles("percentile", highest), y, [], drawn, note=note, xs_of=xs_of)


def percentile_curve(encoded: str) -> tuple[list[float], Values]:
    """Percentiles and their times in ms, as far as there are enough times for them, up to p99.999."""
    latencies = Latencies.decoded(encoded)
    if not latencies.count:
        return [], []
    asked = [100 - 100 * 10 ** (-number / 20) for number in range(101)]
    asked = [p for p in asked if nines(p) <= nines(100 - 100 / latencies.count) + 1e-9]
    found = latencies.percentiles_ms(asked)
    return asked, [max(found[p], 1e-4) for p in asked]


def _times(runs: Named) -> list[Plot]:
    """A plot for each op: median, p99 and maximum of what was due in each interval."""
    plots = []
    ops = list(dict.fromkeys(op for _, report in runs for op in report["series"]["response_ms"]))
    for op in ops:
        lines = [
            (name, which, report["series"]["response_ms"][op][which], which == "max")
            for name, report in runs
            if op in report["series"]["response_ms"]
            for which in ("p50", "p99", *(("max",) if len(runs) == 1 else ()))
        ]
        y = logarithmic("ms", [value for line in lines for value in line[2]])
        plots.append(_over_time(runs, f"Response times over time: {op}", lines, y, "By when requests were due."))
    return plots


def _tiers(name: str, report: Report) -> Plot:
    tiers: dict[str, list[float]] = report["series"]["tiers_per_s"]
    totals = [sum(values) for values in zip(*tiers.values(), strict=True)]
    lines = [
        Line(tier, [value / total if total else 0.0 for value, total in zip(tiers[tier], totals, strict=True)], colour)
        for tier, colour in _TIER_COLOURS.items()
        if tier in tiers
    ]
    assert set(_TIER_COLOURS) == set(STATUS_NAMES)
    y = Axis("share of the ids", float, [(tick / 4, f"{tick * 25}%") for tick in range(5)], 0.0, 1.0)
    xs = _at_s(report)
    x = linear("s from the window's beginning", xs, from_zero=False)
    marks = _marks([(name, report)])
    return Plot(_called(name, "Where rows came from"), x, y, xs, lines, marks=marks, stacked=True)


def _bytes(runs: Named) -> Plot:
    lines = [
        (name, what, [value / _MIB for value in report["series"][f"{what}_bytes_per_s"]], what == "sent")
        for name, report in runs
        for what in ("received", "sent")
    ]
    y = linear("MiB/s", [value for line in lines for value in line[2]])
    return _over_time(runs, "Bytes moved", lines, y, "Bodies of answered requests, without heads.")


def _visible(runs: Named) -> Plot:
    lines = [
        (name, which, report["series"]["visible_ms"][which], False)
        for name, report in runs
        if report["series"]["visible_ms"] is not None
        for which in ("p50", "p99")
    ]
    y = logarithmic("ms", [value for line in lines for value in line[2]])
    note = "From when an update was due until a lookup saw it; one at a time for each generator."
    return _over_time(runs, "Until updates are visible", lines, y, note)


def _p99_by_rate(searches: Named) -> Plot:
    drawn: list[Line] = []
    xs_of: dict[str, Sequence[float]] = {}
    every: list[dict[str, Any]] = []
    for name, report in searches:
        for kind in ("held", "missed"):
            steps = [step for step in report["steps"] if step["held"] == (kind == "held") and step["p99_ms"]]
            line = Line(_called(name, kind), [step["p99_ms"] for step in steps], len(drawn), dots=True)
            drawn.append(line)
            xs_of[line.name] = [step["rate"] for step in steps]
            every += steps
    slo = searches[0][1]["settings"]["slo_ms"]
    x = linear("offered requests/s", [step["rate"] for step in every])
    y = logarithmic("p99 in ms", [*(step["p99_ms"] for step in every), slo])
    note = "Each dot is one try; those that missed the objective may have done so by errors, too."
    return Plot("p99 by rate", x, y, [], drawn, level=(slo, f"{slo:g} ms"), note=note, xs_of=xs_of)


def _answered_by_rate(searches: Named) -> Plot:
    drawn: list[Line] = []
    xs_of: dict[str, Sequence[float]] = {}
    for name, report in searches:
        steps = sorted([*report["steps"], *report["overload"]], key=lambda step: step["rate"])
        for key, what in (("answered_per_s", "answered"), ("good_per_s", "answered in time")):
            line = Line(_called(name, what), [step[key] for step in steps], len(drawn), dots=True)
            drawn.append(line)
            xs_of[line.name] = [step["rate"] for step in steps]
    x = linear("offered requests/s", [value for xs in xs_of.values() for value in xs])
    y = linear("requests/s", [value for line in drawn for value in line.ys])
    return Plot("Answered by rate", x, y, [], drawn, xs_of=xs_of)
