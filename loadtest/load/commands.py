"""The commands `run`, `search` and `report`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from loadtest.load import options as o
from loadtest.outputs import check_folders, write_outputs

if TYPE_CHECKING:
    from loadtest.load.result import Report
    from loadtest.load.setup import Wanted

FailuresSaid = Callable[[Console], AbstractContextManager[None]]


def add_commands(app: typer.Typer, failures_said: FailuresSaid) -> None:
    """Put the commands into the application. failures_said: turns what can go wrong into a line and an exit status."""

    @app.command()
    def run(
        workload: o.Workload,
        file: o.File = None,
        url: o.Url = None,
        serve: o.Serve = False,
        token: o.Token = None,
        warm: o.Warm = None,
        timeout: o.Timeout = 10.0,
        deadline_ms: o.Deadline = None,
        table: o.Tables = None,
        fill: o.Fill = False,
        keep: o.Keep = False,
        preload: o.Preload = None,
        rows: o.Rows = None,
        dim: o.Dim = None,
        table_dtype: o.TableDtype = o.RowDtype.f32,
        keys: o.Keys = "dense",
        alpha: o.Alpha = 0.99,
        scatter: o.Scatter = True,
        ids: o.Ids = 256,
        mix: o.Mix = "lookup=1",
        update_rows: o.UpdateRows = 256,
        pooling: o.PoolingOption = None,
        dtype: o.Dtype = o.RowDtype.f32,
        seed: o.Seed = 1,
        arrivals: o.Arrivals = o.ArrivalsName.poisson,
        rate: o.Rate = None,
        clients: o.Clients = 32,
        processes: o.Processes = 2,
        warmup: o.Warmup = 5.0,
        duration: o.Duration = 30.0,
        slo_ms: o.Slo = 10.0,
        json: o.Json = None,
        html: o.Html = None,
    ) -> None:
        """Put a service under load, and report what came of it. Ctrl-C ends it with a report of what was seen."""
        from loadtest.load.run import Pace
        from loadtest.load.run import run as run_load
        from loadtest.load.terminal import print_run
        from loadtest.processes import terminated_as_interrupted

        if arrivals == o.ArrivalsName.closed and rate is not None:
            raise typer.BadParameter("a closed loop has no rate: clients ask as they are answered", param_hint="--rate")
        wanted = _wanted(locals())
        check_folders(json, html)
        console = Console()
        with failures_said(console), terminated_as_interrupted():
            pace = Pace(arrivals.value, rate, clients, min(processes, clients), warmup, duration, slo_ms)
            report = run_load(wanted, pace, console, sys.argv[1:])
            print_run(report, console)
            _write(report, json, html, console)
        if report["interrupted"]:
            raise typer.Exit(130)

    @app.command()
    def search(
        workload: o.Workload,
        file: o.File = None,
        url: o.Url = None,
        serve: o.Serve = False,
        token: o.Token = None,
        warm: o.Warm = None,
        timeout: o.Timeout = 10.0,
        deadline_ms: o.Deadline = None,
        table: o.Tables = None,
        fill: o.Fill = False,
        keep: o.Keep = False,
        preload: o.Preload = None,
        rows: o.Rows = None,
        dim: o.Dim = None,
        table_dtype: o.TableDtype = o.RowDtype.f32,
        keys: o.Keys = "dense",
        alpha: o.Alpha = 0.99,
        scatter: o.Scatter = True,
        ids: o.Ids = 256,
        mix: o.Mix = "lookup=1",
        update_rows: o.UpdateRows = 256,
        pooling: o.PoolingOption = None,
        dtype: o.Dtype = o.RowDtype.f32,
        seed: o.Seed = 1,
        arrivals: o.OpenArrivals = o.OpenArrivalsName.poisson,
        clients: o.Clients = 32,
        processes: o.Processes = 2,
        warmup: o.Warmup = 1.0,
        duration: o.Duration = 5.0,
        slo_ms: o.Slo = 10.0,
        precision: o.Precision = 0.05,
        json: o.Json = None,
        html: o.Html = None,
    ) -> None:
        """Find the highest rate whose p99 stays within --slo-ms, the knee, and what 2 and 5 times that rate gives."""
        from loadtest.load.run import Pace
        from loadtest.load.search import search as search_rate
        from loadtest.load.terminal import search_lines
        from loadtest.processes import terminated_as_interrupted

        wanted = _wanted(locals())
        check_folders(json, html)
        console = Console()
        with failures_said(console), terminated_as_interrupted():
            pace = Pace(arrivals.value, None, clients, min(processes, clients), warmup, duration, slo_ms)
            report = search_rate(wanted, pace, console, sys.argv[1:], precision)
            for line in search_lines(report):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            _write(report, json, html, console)
        if report["interrupted"]:
            raise typer.Exit(130)

    @app.command()
    def report(
        first: Annotated[Path, typer.Argument(help="What --json wrote.", exists=True, dir_okay=False)],
        second: Annotated[
            Path | None, typer.Argument(help="Another one, to set beside it.", exists=True, dir_okay=False)
        ] = None,
        html: o.Html = None,
    ) -> None:
        """Print a report, or two side by side, and write them as an HTML page."""
        check_folders(html)
        try:
            text = _reported(first, second, Console())
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="FILE") from error
        if html is not None:
            html.write_text(text, encoding="utf-8")
            typer.echo(f"Page written to {html}")


def _reported(first: Path, second: Path | None, console: Console) -> str:
    """Print one report or two; -> their page. ValueError where a file is none, or the two do not go together."""
    from loadtest.load.page import comparison, page
    from loadtest.load.result import read_report
    from loadtest.load.sidebyside import check_alike, print_difference
    from loadtest.load.terminal import print_run, print_search

    one = read_report(first)
    if second is None:
        (print_search if one["kind"] == "search" else print_run)(one, console)
        return page(one)
    other = read_report(second)
    check_alike(one, other)
    names = (first.stem, second.stem) if first.stem != second.stem else (str(first), str(second))
    print_difference((names[0], one), (names[1], other), console)
    return comparison((names[0], one), (names[1], other))


def _wanted(given: dict[str, Any]) -> Wanted:
    """The options of a command by their names, as what they ask for."""
    from loadtest.load.setup import Wanted

    same = ("seed", "file", "url", "token", "serve", "warm", "fill", "keep", "preload", "rows", "dim", "keys", "alpha")
    more = ("ids", "mix", "update_rows", "deadline_ms")
    return Wanted(
        kind=given["workload"].value,
        tables=tuple(given["table"] or ()),
        table_dtype=given["table_dtype"].value,
        scattered=given["scatter"],
        pooling=given["pooling"].value if given["pooling"] else None,
        dtype=given["dtype"].value,
        timeout_s=given["timeout"],
        **{name: given[name] for name in (*same, *more)},
    )


def _write(report: Report, json: Path | None, html: Path | None, console: Console) -> None:
    from loadtest.load.page import page
    from loadtest.load.result import write_report

    write_outputs(report, console, (json, write_report), (html, page))
