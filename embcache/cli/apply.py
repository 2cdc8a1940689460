"""The command that takes a file of changes in, as changes.py does it. `register` adds it to the application."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from embcache.cli.options import (
    ConfigOption,
    FormatOption,
    IdsOption,
    RowsOption,
    TableArgument,
    TokenOption,
    UrlOption,
    format_of,
    place,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("apply")(apply)


def apply(
    table: TableArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `embcache export --since` wrote.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    format: FormatOption = None,
    ids: IdsOption = None,
    rows: RowsOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="From the file's beginning, whatever was applied before.")
    ] = False,
) -> None:
    """Apply a file of changes to a table: its rows are assigned, those that are gone are deleted, as updates.

    Each counts once, also where the command is interrupted and run again: it goes on where it was.
    """
    from embcache.cli.changes import apply_file
    from embcache.cli.tables import opened
    from embcache.cli.transfer import TableFormat

    with opened(*place(config, url), token) as tables:
        done = apply_file(tables, table, file, TableFormat(format_of(format), ids, rows), again, Console(stderr=True))
    assert done.since is not None
    before = f", {done.before:,} were before" if done.before else ""
    upto = f"position {done.since.position} of history {done.since.history}"
    typer.echo(f"{table}: {done.told} applied{before}; as of {upto}")
