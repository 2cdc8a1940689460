"""The commands `run`, `search` and `report`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import typer
from rich.console import Console

from loadtest.load import options as o

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
        from loadtest.load.setup import Wanted
        from loadtest.load.terminal import print_run
        from loadtest.processes import terminated_as_interrupted

        if arrivals == o.ArrivalsName.closed and rate is not None:
            raise typer.BadParameter("a closed loop has no rate: clients ask as they are answered", param_hint="--rate")
        _check_folders(json, html)
        console = Console()
        with failures_said(console), terminated_as_interrupted():
            wanted = Wanted(
                kind=workload.value,
                seed=seed,
                file=file,
                url=url,
                token=token,
                serve=serve,
                warm=warm,
                fill=fill,
                keep=keep,
                preload=preload,
                tables=tuple(table or ()),
                rows=rows,
                dim=dim,
                table_dtype=table_dtype.value,
                keys=keys,
                alpha=alpha,
                scattered=scatter,
                ids=ids,
                mix=mix,
                update_rows=update_rows,
                pooling=pooling.value if pooling else None,
                dtype=dtype.value,
                timeout_s=timeout,
                deadline_ms=deadline_ms,
            )
            pace = Pace(arrivals.value, rate, clients, processes, warmup, duration, slo_ms)
            report = run_load(wanted, pace, console, sys.argv[1:])
            print_run(report, console)
            _write(report, json, html, console)
        if report["interrupted"]:
            raise typer.Exit(130)


def _check_folders(*files: Path | None) -> None:
    for file in files:
        if file is not None and not file.absolute().parent.is_dir():
            raise typer.BadParameter(f"{file.parent} is not a folder")


def _write(report: dict[str, object], json: Path | None, html: Path | None, console: Console) -> None:
    from loadtest.load.result import write_report

    if json is not None:
        write_report(report, json)
        console.print(f"Report written to {json}", highlight=False, soft_wrap=True)
