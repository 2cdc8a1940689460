"""The command `policies`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtest.load import options as o
from loadtest.outputs import check_folders, write_outputs

FailuresSaid = Callable[[Console], AbstractContextManager[None]]

TraceFile = Annotated[
    Path | None, typer.Option("--trace", help="Ids as .npy, .npz or text; made up without it.", dir_okay=False)
]
LookupIds = Annotated[
    int, typer.Option(help="Ids of a lookup, where the trace does not say it itself.", min=1, max=65_536)
]
Seed = Annotated[int, typer.Option(help="Of accesses that are made up.", min=0)]


def add_policies(app: typer.Typer, failures_said: FailuresSaid) -> None:
    """Put the command into the application. failures_said: turns what can go wrong into a line and an exit status."""

    @app.command()
    def policies(
        trace: TraceFile = None,
        lookup_ids: LookupIds = 16,
        seed: Seed = 1,
        json: o.Json = None,
        html: o.Html = None,
    ) -> None:
        """Replay a trace through the tables of both tiers in memory and through other eviction policies: miss ratios.

        LRU, LFU, ARC, S3-FIFO, SIEVE, W-TinyLFU and Belady are libcachesim's: pip install -e '.\\[bench-policies]'.
        """
        from loadtest.policies.page import page
        from loadtest.policies.report import last_line, print_report, write_json
        from loadtest.policies.run import Wanted, run

        check_folders(json, html)
        console = Console()
        with failures_said(console):
            report = run(Wanted(trace, lookup_ids, seed), Console(stderr=True), sys.argv[1:])
            print_report(report, console)
            write_outputs(report, console, (json, write_json), (html, page))
            console.print(last_line(report), highlight=False, soft_wrap=True)
