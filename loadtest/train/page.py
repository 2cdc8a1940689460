"""A report as one HTML page that needs nothing else, in the style of the other reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from loadtest.load.page import whole
from loadtest.load.result import Report
from loadtest.load.svg import Line, Plot, figure, linear, logarithmic
from loadtest.tables import figure as number
from loadtest.train.report import PHASE_COLUMNS, phase_rows, remarks, rmse_text


def page(report: Report) -> str:
    """The whole page."""
    title = f"Learned through {report['target']['url']}"
    text = f"{report['started']}. {report['data']['origin']}."
    body = [f'<h1>{escape(title)}</h1><p class="soft">{escape(text)}</p>']
    body += [_remark(line) for line in remarks(report)]
    body += [_cards(report), '<h2>Plots</h2><div class="plots">', *(figure(plot) for plot in plots(report)), "</div>"]
    body += ["<h2>Phases</h2>", _table(PHASE_COLUMNS, phase_rows(report))]
    body += ["<h2>How it was made</h2>", f"<pre>{escape(report['command'])}</pre>", _facts(report)]
    return whole(title, body)


def plots(report: Report) -> list[Plot]:
    """RMSE and lag over time, and the RMSE of the last tenth so far; those without anything in them left out."""
    made = [_rmse(report), _visible(report), _last(report)]
    return [plot for plot in made if any(value is not None for line in plot.lines for value in line.ys)]


def _rmse(report: Report) -> Plot:
    values = report["series"]["rmse"]
    xs = _at_s(report)
    note = "Of the ratings predicted in each interval, before they were learned (again, from the second pass on)."
    x, y = linear("s", [0.0, *xs]), linear("RMSE", values, from_zero=False)
    return Plot("RMSE over time", x, y, xs, [Line("served", values, 0)], marks=_marks(report), note=note)


def _visible(report: Report) -> Plot:
    times, xs = report["series"]["visible_ms"], _at_s(report)
    lines = [Line(which, values, place) for place, (which, values) in enumerate(times.items())]
    y = logarithmic("ms", [value for line in lines for value in line.ys])
    note = "From when an update is pushed until the other process has looked up rows with it."
    return Plot("Update to visible", linear("s", [0.0, *xs]), y, xs, lines, marks=_marks(report), note=note)


def _last(report: Report) -> Plot:
    of_last = report["series"]["last"]
    lines = [Line("served", of_last["rmse"], 0)]
    if of_last["alone_rmse"] is not None:
        lines.append(Line("NumPy alone", of_last["alone_rmse"], 1, dashed=True))
    y = linear("RMSE so far", [value for line in lines for value in line.ys], from_zero=False)
    x = linear("ratings of the last tenth", [0, *of_last["after"]])
    note = "Of all ratings from the first of them on, in the order of time, each predicted before it is learned."
    return Plot("The last tenth", x, y, of_last["after"], lines, note=note)


def _at_s(report: Report) -> list[float]:
    """The middle of each interval."""
    series = report["series"]
    return [(place + 0.5) * series["interval_s"] for place in range(len(series["rmse"]))]


def _marks(report: Report) -> list[tuple[float, str]]:
    """Where each phase begins: passes by their numbers."""
    return [(phase["began_s"], phase["name"].removeprefix("pass ").partition(" of ")[0]) for phase in report["phases"]]


def _cards(report: Report) -> str:
    visible, served = report["visible_ms"] or {}, report["served"]
    cards = [("served RMSE", rmse_text(served["rmse"]))]
    if report["alone"] is not None:
        cards.append(("NumPy alone", rmse_text(report["alone"]["rmse"])))
    cards.append(("ratings predicted of the last tenth", f"{served['ratings']:,}"))
    cards += [(f"update to visible {which} ms", number(visible.get(which))) for which in ("p50", "p99", "max")]
    return (
        '<div class="cards">'
        + "".join(f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for what, value in cards)
        + "</div>"
    )


def _remark(text: str) -> str:
    return f'<p class="warn">{escape(text)}</p>' if text.startswith("NOT ") else f"<p>{escape(text)}</p>"


def _facts(report: Report) -> str:
    rows = [(name, _said(value)) for name, value in report["settings"].items()]
    rows += [(f"target: {name}", _said(value)) for name, value in report["target"].items()]
    rows += [*report["machine"].items(), *report["versions"].items()]
    return _table(("what", "which"), rows, "facts")


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
