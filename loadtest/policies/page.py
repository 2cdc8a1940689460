"""The report as one HTML page that needs nothing else, in the style of the other reports."""

from __future__ import annotations

from html import escape

from loadtest.load.page import table_of, whole
from loadtest.load.result import Report
from loadtest.load.svg import Line, Plot, figure, linear, logarithmic
from loadtest.policies.report import columns, remarks, rows
from loadtest.policies.run import BUSY, HOT_BUSY, OURS


def page(report: Report) -> str:
    """The whole page."""
    title = "Which rows stay: miss ratios"
    body = [f'<h1>{escape(title)}</h1><p class="soft">{escape(report["started"])}</p>']
    body += [f"<p>{escape(line)}</p>" for line in remarks(report)]
    body += ['<div class="plots">', figure(plot(report)), "</div>", table_of(columns(report), rows(report))]
    facts = [*report["settings"].items(), *report["machine"].items(), *report["versions"].items()]
    body += ["<h2>How it was made</h2>", f"<pre>{escape(report['command'])}</pre>"]
    body.append(table_of(("what", "which"), [(name, str(value)) for name, value in facts], "facts"))
    return whole(title, body)


def plot(report: Report) -> Plot:
    """Miss ratios over the caches' sizes."""
    xs = [100 * share for share in report["shares"]]
    ratios = report["miss_ratios"]
    lines = [
        Line(policy, of, place, dashed=policy in (BUSY, HOT_BUSY, "Belady"), dots=False)
        for place, (policy, of) in enumerate(ratios.items())
    ]
    y = linear("miss ratio", [value for of in ratios.values() for value in of])
    note = f"{OURS} has as many entries as the others, the hot tier at most as many."
    return Plot("Miss ratio by size", logarithmic("entries, % of distinct ids", xs), y, xs, lines, note=note)
