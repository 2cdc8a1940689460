"""The command `train`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from loadtest.load import options as o
from loadtest.outputs import check_folders, write_outputs

if TYPE_CHECKING:
    from loadtest.load.result import Report

FailuresSaid = Callable[[Console], AbstractContextManager[None]]

_MODEL, _TABLES = "Model", "Tables"

RatingsFile = Annotated[
    Path | None,
    typer.Option("--ratings", help="User, item, rating and timestamp a line, as MovieLens has them.", dir_okay=False),
]
Made = Annotated[
    int | None,
    typer.Option(help="Without --ratings: how many are made up; 20,000.", min=10, max=10_000_000, show_default=False),
]
Url = Annotated[
    str | None,
    typer.Option(help="Of a service; without it one is started, and stopped.", rich_help_panel="Service"),
]
Name = Annotated[
    str, typer.Option(help="The tables are NAME_user and NAME_item, the producer NAME.", rich_help_panel=_TABLES)
]
Passes = Annotated[int, typer.Option(help="Over the first nine tenths.", min=0, rich_help_panel=_MODEL)]
Factors = Annotated[int, typer.Option(help="Of a row, beside its bias.", min=1, max=1024, rich_help_panel=_MODEL)]
LearningRate = Annotated[float, typer.Option("--rate", help="Of the descent.", min=0, rich_help_panel=_MODEL)]
Regularisation = Annotated[float, typer.Option(help="Of factors and biases.", min=0, rich_help_panel=_MODEL)]
Batch = Annotated[int, typer.Option(help="Ratings of a step in the passes.", min=1, max=65_536, rich_help_panel=_MODEL)]
Ahead = Annotated[
    int,
    typer.Option(
        help="Ratings known at once in the last tenth: those that share no user and no item go together.",
        min=1,
        max=65_536,
        rich_help_panel=_MODEL,
    ),
]
Seed = Annotated[int, typer.Option(help="Of first rows, and of ratings made up.", min=0, rich_help_panel=_MODEL)]
Alone = Annotated[
    bool,
    typer.Option("--alone/--no-alone", help="Learn the same in NumPy alone, and compare.", rich_help_panel=_MODEL),
]


def add_train(app: typer.Typer, failures_said: FailuresSaid) -> None:
    """Put the command into the application. failures_said: turns what can go wrong into a line and an exit status."""

    @app.command()
    def train(
        ratings: RatingsFile = None,
        made: Made = None,
        url: Url = None,
        token: o.Token = None,
        timeout: o.Timeout = 10.0,
        name: Name = "loadtest_train",
        keep: o.Keep = False,
        passes: Passes = 5,
        factors: Factors = 15,
        rate: LearningRate = 0.05,
        regularisation: Regularisation = 0.05,
        batch: Batch = 256,
        ahead: Ahead = 1024,
        seed: Seed = 1,
        alone: Alone = True,
        json: o.Json = None,
        html: o.Html = None,
    ) -> None:
        """Learn ratings through a service while another process predicts them from what is served.

        Ctrl-C ends it with what was seen.
        """
        from loadtest.processes import terminated_as_interrupted
        from loadtest.train.report import last_line, print_report
        from loadtest.train.run import MADE, Wanted
        from loadtest.train.run import run as run_training

        if ratings is not None and made is not None:
            raise typer.BadParameter("with --ratings none are made up", param_hint="--made")
        check_folders(json, html)
        console = Console()
        wanted = Wanted(
            file=ratings,
            made=made or MADE,
            url=url,
            token=token,
            timeout_s=timeout,
            name=name,
            keep=keep,
            passes=passes,
            factors=factors,
            rate=rate,
            regularisation=regularisation,
            batch=batch,
            ahead=ahead,
            seed=seed,
            alone=alone,
        )
        with failures_said(console), terminated_as_interrupted():
            report = run_training(wanted, console, sys.argv[1:])
            print_report(report, console)
            _write(report, json, html, console)
            console.print(last_line(report), highlight=False, soft_wrap=True)
        if report["interrupted"]:
            raise typer.Exit(130)


def _write(report: Report, json: Path | None, html: Path | None, console: Console) -> None:
    from loadtest.train.page import page
    from loadtest.train.report import write_json

    write_outputs(report, console, (json, write_json), (html, page))
