"""A report as one HTML page that needs nothing else: styles and plots are in it, and there are no scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadtest.load.plots import Named, run_plots, search_plots
from loadtest.load.result import Report
from loadtest.load.sidebyside import difference, differences_in_setting
from loadtest.load.svg import figure as drawn
from loadtest.load.terminal import remarks, search_lines, summary_line
from loadtest.tables import figure

_STYLE = Path(__file__).with_name("page.css")
_STEP_ENDS = ("generators kept up", "held", "why not")
_COLUMNS = ("count", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max")


def page(report: Report) -> str:
    """A run, or a search."""
    return _search_page(report) if report["kind"] == "search" else _run_page(report)


def comparison(first: tuple[str, Report], second: tuple[str, Report]) -> str:
    """Two reports of one kind side by side, each with what it is called."""
    runs = [first, second]
    title = f"{first[0]} and {second[0]}"
    body = [_head(title, "Two load tests of embcache side by side")]
    body += [_warning(line) for line in differences_in_setting(first[1], second[1])]
    for name, report in runs:
        if report["kind"] == "run":
            body += [_warning(f"{name}: {line}") for line in remarks(report) if line.startswith("NOT ")]
    header = ("figure", first[0], second[0], "second / first")
    body.append(table_of(header, difference(first[1], second[1])))
    plots = search_plots(runs) if first[1]["kind"] == "search" else run_plots(runs)
    body += ["<h2>Plots</h2>", _plots([drawn(plot) for plot in plots])]
    for name, report in runs:
        body += [f"<h2>{escape(name)}</h2>", *_facts(report)]
    return whole(title, body)


def _run_page(report: Report) -> str:
    title = f"Load test: {report['settings']['workload']['kind']} at {report['target']['url']}"
    body = [_head(title, f"{report['started']}. {summary_line(report)}")]
    body += [_warning(line) if line.startswith("NOT ") else f"<p>{escape(line)}</p>" for line in remarks(report)]
    body += [_cards(report), "<h2>Plots</h2>", _plots([drawn(plot) for plot in run_plots(_alone(report))])]
    body += ["<h2>Times in ms</h2>", _times_table(report), "<h2>Whether it counts</h2>", _checks(report)]
    if report["result"]["error_codes"]:
        rows = [(code, f"{count:,}") for code, count in report["result"]["error_codes"].items()]
        body += ["<h2>Errors by code</h2>", table_of(("code", "requests"), rows)]
    return whole(title, [*body, "<h2>How it was made</h2>", *_facts(report)])


def _search_page(report: Report) -> str:
    title = f"Load search: {report['settings']['workload']['kind']} at {report['target']['url']}"
    body = [_head(title, report["started"])]
    body += [_warning(line) if line.startswith("NOT ") else f"<p>{escape(line)}</p>" for line in search_lines(report)]
    body += ["<h2>Plots</h2>", _plots([drawn(plot) for plot in search_plots(_alone(report))])]
    header = ("rate", "for", "answered/s", "in time/s", "p50 ms", "p99 ms", "errors", "not sent", *_STEP_ENDS)
    steps = [*report["steps"], *report["overload"]]
    body += ["<h2>All steps, in order</h2>", table_of(header, [_step_row(step) for step in steps])]
    return whole(title, [*body, "<h2>How it was made</h2>", *_facts(report)])


def _step_row(step: dict[str, Any]) -> tuple[str, ...]:
    figures = (step["answered_per_s"], step["good_per_s"], step["p50_ms"], step["p99_ms"])
    ends = (_said(step["kept_up"]), _said(step["held"]), step["why"])
    counts = (f"{step['errors']:,}", f"{step['not_sent']:,}", *ends)
    return figure(step["rate"]), step["purpose"], *map(figure, figures), *counts


def _alone(report: Report) -> Named:
    return [("", report)]


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
{style}</style></head>
<body>
{body}
</body></html>
"""


def whole(title: str, body: Iterable[str]) -> str:
    """A page of its own: nothing is fetched for it. body: HTML."""
    return _PAGE.format(title=escape(title), style=_STYLE.read_text(encoding="utf-8"), body="\n".join(body))


def _head(title: str, text: str) -> str:
    return f'<h1>{escape(title)}</h1><p class="soft">{escape(text)}</p>'


def _warning(text: str) -> str:
    return f'<p class="warn">{escape(text)}</p>'


def _plots(figures: Sequence[str]) -> str:
    return f'<div class="plots">{"".join(figures)}</div>'


def _cards(report: Report) -> str:
    result = report["result"]
    cards = [("offered/s", figure(result["offered_per_s"])), ("answered/s", figure(result["answered_per_s"]))]
    cards.append((f"within {report['settings']['slo_ms']:g} ms/s", figure(result["good_per_s"])))
    for op, of_op in result["ops"].items():
        times = of_op["response_ms"] or {}
        cards += [(f"{op} {which} ms", figure(times.get(which))) for which in ("p50", "p99", "p99.99")]
    cards += [("ids/s", figure(result["ids_per_s"])), ("errors", f"{result['errors']:,}")]
    cards.append(("not sent", f"{result['not_sent']:,}"))
    if result["visible_ms"]:
        cards.append(("update visible p99 ms", figure(result["visible_ms"]["p99"])))
    return (
        '<div class="cards">'
        + "".join(f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for what, value in cards)
        + "</div>"
    )


def _times_table(report: Report) -> str:
    result, generators = report["result"], report["generators"]
    named = []
    for op, of_op in result["ops"].items():
        named.append((f"{op}, from when it was due", of_op["response_ms"]))
        named.append((f"{op}, from when it was sent", of_op["service_ms"]))
    named += [
        ("update until visible", result["visible_ms"]),
        ("update until visible, from its answer", result["visible_after_ack_ms"]),
        ("waiting for a free client", generators["waiting_ms"]),
        ("late by the generators' own fault", generators["lateness_ms"]),
        ("lateness of a thread that only sleeps", generators["pulse_ms"]),
    ]
    rows = [
        (what, f"{times['count']:,}", *(figure(times[column]) for column in _COLUMNS[1:]))
        for what, times in named
        if times is not None
    ]
    return table_of(("times", *_COLUMNS), rows)


def _checks(report: Report) -> str:
    rows = [
        (f"{key}: {check['name']}", "yes" if check["ok"] else "NO", check["text"])
        for key in ("stable", "generators")
        for check in report[key]["checks"]
    ]
    service = report["service"]
    said = "the service does not say"
    if service["counted"] is not None:
        said = f"{service['counted']['lookups']:,} by the service, {service['answered_lookups']:,} answered here"
    rows.append(("lookups, warm-up included", {True: "yes", False: "NO", None: "-"}[service["agree"]], said))
    return table_of(("check", "fine", "what was seen"), rows, "facts")


def _facts(report: Report) -> list[str]:
    settings = dict(report["settings"])
    workload = dict(settings.pop("workload"))
    tables = workload.pop("tables")
    rows = [("data", report["data"]["origin"]), ("SHA-256 of what is asked", report["data"]["sha256"])]
    rows += [(f"workload: {name}", _said(value)) for name, value in workload.items() if value is not None]
    rows += [(name, _said(value)) for name, value in settings.items() if value is not None]
    rows.append(("tables", ", ".join(f"{table['name']} ({table['rows']:,} x {table['dim']})" for table in tables)))
    rows += [(f"target: {name}", _said(value)) for name, value in report["target"].items()]
    rows += [*report["machine"].items(), *report["versions"].items()]
    return [f"<pre>{escape(report['command'])}</pre>", table_of(("what", "which"), rows, "facts")]


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(one)}" for key, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table_of(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table as HTML. kind: its class."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
