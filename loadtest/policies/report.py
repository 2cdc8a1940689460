"""The report as JSON, and as lines in a terminal. docs/loadtest.md explains the names."""

from __future__ import annotations

import json
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from loadtest.load.result import Report
from loadtest.policies.run import HOT, HOT_TIER, JUDGED, OURS, WARM_TIER, against_best


def write_json(report: Report, path: Path) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def print_report(report: Report, console: Console) -> None:
    """Miss ratios of each policy at each size, and what has to be known beside them."""
    title = "Miss ratios, at entries in % of the distinct ids"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for place, name in enumerate(columns(report)):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows(report):
        table.add_row(*row)
    console.print(table)
    for line in remarks(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def columns(report: Report) -> tuple[str, ...]:
    """What stands above `rows`."""
    return ("policy", *(f"{share:.3g}%" for share in (100 * share for share in report["shares"])))


def rows(report: Report) -> list[tuple[str, ...]]:
    """A row for each policy; and how ours compares with the best of those that it is held against."""
    lines = [(policy, *(f"{ratio:.4f}" for ratio in of)) for policy, of in report["miss_ratios"].items()]
    for ours in (*WARM_TIER, *HOT_TIER):
        ratios = against_best(report, ours)
        if ratios:
            lines.append((f"{ours} / best", *(f"{ratio:.3f}" for ratio in ratios)))
    return lines


def remarks(report: Report) -> list[str]:
    """What has to be known of these figures."""
    data = report["data"]
    lines = [f"{data['accesses']:,} accesses to {data['distinct']:,} ids: {data['origin']}."]
    lines.append(
        "embcache is the warm tier's own table in sets of 7 ways; an id that a lookup asks for twice is read once. It "
        "hears of all hits, or of one in 32, as from a reader that hits more than 1.6 million rows a second."
    )
    lines.append(
        "The hot tier is the GPU's table in sets of 32 ways, one at the least, else at most as many entries "
        f"({', '.join(f'{entries:,}' for entries in report['hot_entries'])}), kept as by its kernels; what it misses "
        "comes in. It notes all hits, as of launches of up to 4,096 ids, or one in 32, as of the largest."
    )
    if report["absent"]:
        lines.append(f"Policies to compare with are absent: {report['absent']}")
    else:
        lines.append(f"The best is that of {', '.join(JUDGED)}; Belady knows what will be asked for.")
    return lines


def last_line(report: Report) -> str:
    """The figure of the run."""
    warm, hot = against_best(report, OURS), against_best(report, HOT)
    if not warm:
        return "nothing to compare with"
    return f"worst against the best of the others {max(warm):.3f}, of the hot tier {max(hot):.3f}"
