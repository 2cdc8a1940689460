"""A report as a table for the terminal, and as docs/benchmarks.md."""

from __future__ import annotations

from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

from loadtest import gpu
from loadtest.records import Record, Report
from loadtest.tables import figure, markdown_table

COLUMNS = ("name", "unit", "ours", "peer", "theirs", "ratio", "target", "reached")


def cells(record: Record) -> tuple[str, ...]:
    """The record's columns as text, in the order of COLUMNS."""
    verdict = {True: "yes", False: "NO", None: "-"}[record.reached]
    peer = record.peer or "none"
    if record.peer and record.theirs is None:
        peer += " (absent)"
    ours, theirs, ratio = figure(record.ours), figure(record.theirs), figure(record.ratio)
    return record.name, record.unit, ours, peer, theirs, ratio, record.target, verdict


def print_report(report: Report, console: Console) -> None:
    """The table, then a line for each remark, and whether the run was ended before all was measured."""
    if not console.is_terminal:
        console.width = max(console.width, 120)  # nobody's window is too narrow for it
    title = "embcache against its peers: medians; ratio = ours / theirs"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in COLUMNS:
        justify: Literal["left", "right"] = "right" if column in {"ours", "theirs", "ratio", "target"} else "left"
        table.add_column(column, justify=justify, no_wrap=True)
    for record in report.records:
        style = {True: "green", False: "red", None: "yellow"}[record.reached]
        table.add_row(*cells(record)[:-1], f"[{style}]{cells(record)[-1]}[/{style}]")
    if report.records or not report.interrupted:
        console.print(table)
    for record in report.records:
        if record.note:
            console.print(f"{record.name}: {record.note}", highlight=False, markup=False)
    if report.interrupted:
        seen = "this is what was measured before" if report.records else "no pair was measured before"
        told = f"NOT COMPLETE: it was interrupted in {report.interrupted}; {seen}."
        console.print(told, style="yellow", highlight=False, markup=False)


def markdown(report: Report, on_gpu: list[str] | None = None, picture: str = "benchmarks.svg") -> str:
    """docs/benchmarks.md: the table, what each pair measures, the spread, the GPU, the machine and the commands.

    on_gpu: the lines about the GPU, which were measured elsewhere; None where they were not. picture: the plot's name.
    """
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m loadtest docs` from a run of the command below: do not edit, run it again. Both",
        "sides of a pair are measured in one run, in short slices in turn; figures are medians over the slices,",
        "and the ratio is ours / theirs. Compare ratios: the absolute figures belong to the machine. The command",
        "needs the dev extra; `make bench` sets that up, measures, and writes this page.",
        "",
        f"    {report.command}",
        "",
        f"![How near each pair comes to its goal]({picture})",
        "",
        *markdown_table(COLUMNS, [cells(record) for record in report.records]),
        "",
        "## What is measured",
        "",
    ]
    for record in report.records:
        note = f" {record.note[0].upper()}{record.note[1:]}." if record.note else ""
        lines.append(f"- `{record.name}`: {record.what}{note}")
    lines += ["", "## Spread", "", "The middle half of the slices lies between these figures.", ""]
    lines += markdown_table(
        ("name", "slices", "ours", "theirs"),
        [
            (record.name, str(record.slices), _range(record.ours_quartiles), _range(record.theirs_quartiles))
            for record in report.records
        ],
    )
    lines += ["", "## On a GPU", "", *(on_gpu or gpu.section())]
    lines += ["", "## Machine and versions", ""]
    lines += markdown_table(("what", "which"), [*report.machine.items(), *report.versions.items()])
    return "\n".join(lines) + "\n"


def _range(quartiles: tuple[float, float] | None) -> str:
    return f"{figure(quartiles[0])} to {figure(quartiles[1])}" if quartiles else "-"
