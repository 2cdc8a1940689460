"""The command line: run, search, report, train, criteo, policies, compare, docs, demo and faults."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtest.criteo import add_criteo
from loadtest.load.commands import add_commands
from loadtest.policies.command import add_policies
from loadtest.slices import DEFAULT_ROUNDS
from loadtest.train.command import add_train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Load tests of embcache: a load of any rate, comparisons with its peers, and the demo.",
)


@app.command()
def compare(
    only: Annotated[list[str] | None, typer.Option(help="A pair to run; may be given again. All without it.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the records here.", dir_okay=False)] = None,
    rounds: Annotated[int, typer.Option(help="Slices of each side.", min=3)] = DEFAULT_ROUNDS,
) -> None:
    """Measure each pair side by side, in turn, and print medians and ratios; Ctrl-C ends it with those there are."""
    from loadtest.compare import compare as run
    from loadtest.pairs.registry import selected
    from loadtest.report import print_report

    try:
        chosen = selected(only or [])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from error
    if json is not None and not json.absolute().parent.is_dir():
        raise typer.BadParameter(f"{json.parent} is not a folder", param_hint="--json")
    console = Console()
    with _failures_said(console):
        report = run(chosen, rounds, console, sys.argv[1:])
    print_report(report, console)
    if json is not None:
        report.write(json)
        console.print(f"Records written to {json}")
    if report.interrupted:
        raise typer.Exit(130)


@app.command()
def docs(
    file: Annotated[Path, typer.Argument(help="What `compare --json` wrote.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="Where the page goes.", dir_okay=False)] = Path("docs/benchmarks.md"),
) -> None:
    """Render records as docs/benchmarks.md, and their plot beside it."""
    from loadtest.bars import bars
    from loadtest.gpu import kept
    from loadtest.pairs.registry import ALL
    from loadtest.records import Report
    from loadtest.report import markdown

    try:
        report = Report.read(file)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from error
    missing = {pair.name for pair in ALL} - {record.name for record in report.records}
    if missing:
        raise typer.BadParameter(f"it lacks {', '.join(sorted(missing))}: the page is of all pairs", param_hint="FILE")
    on_gpu = kept(out.read_text(encoding="utf-8")) if out.exists() else None  # measured on another machine
    picture = out.with_suffix(".svg")
    picture.write_text(bars(report.records), encoding="utf-8")
    out.write_text(markdown(report, on_gpu, picture.name), encoding="utf-8")
    typer.echo(f"Wrote {out} and {picture}")


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(envvar="DATA", help="A folder of .npy and .npz files; synthetic tables without it.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", envvar="DEMO_ONCE", help="End after the table instead of serving on.")
    ] = False,
    seconds: Annotated[float, typer.Option(help="The longest replay of one table.", min=0.0)] = 10.0,
) -> None:
    """Serve, import, replay a recommender's lookups, check every row, print a table, and serve on."""
    from loadtest.demo import run

    console = Console()
    with _failures_said(console):
        run(data, once, seconds, console)


@app.command()
def faults(
    kills: Annotated[int, typer.Option(help="How often something is killed with -9.", min=0)] = 50,
    producers: Annotated[int, typer.Option(help="How many push at once.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Of batches and of the times between kills.")] = 1,
    fronts: Annotated[int, typer.Option(help="How many fronts the service has.", min=1)] = 2,
    victim: Annotated[
        list[str] | None, typer.Option(help="What is killed, in turn: all, owner, front. Default: these three.")
    ] = None,
) -> None:
    """Push updates while a service, its owner or a front is killed again and again; compare every row at the end."""
    from loadtest.faults import print_outcome, run
    from loadtest.mortal import VICTIMS

    for name in victim or ():
        if name not in VICTIMS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(VICTIMS)}", param_hint="--victim")
    console = Console()
    with _failures_said(console):
        outcome = run(kills, producers, seed, fronts, victim or VICTIMS)
    print_outcome(outcome, console)
    if not outcome.good:
        raise typer.Exit(1)


@contextmanager
def _failures_said(console: Console) -> Iterator[None]:
    """What can go wrong becomes one line and exit status 1; Ctrl-C and SIGTERM give 130."""
    from embcache_client import ClientError
    from loadtest.datasets import DataError
    from loadtest.processes import ProcessFailed
    from loadtest.replay import RowsDiffer

    try:
        yield
    except (DataError, ProcessFailed, RowsDiffer, ClientError) as error:
        console.print(f"loadtest: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


add_commands(app, _failures_said)
add_train(app, _failures_said)
add_criteo(app, _failures_said)
add_policies(app, _failures_said)
