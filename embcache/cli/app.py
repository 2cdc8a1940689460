"""The command line: arguments -> settings -> run. Errors are one clear line on stderr; no traceback reaches a user.

Exit code 0: done; 1: it could not be done; 2: the command was wrong. Imports that cost time stand in the commands that
need them, so that `embcache --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console

from embcache import __version__
from embcache.cli import apply, quarantine, snapshots, versions
from embcache.cli.numbers import NumbersCommand
from embcache.cli.options import (
    DTYPES,
    ConfigOption,
    FormatOption,
    IdsOption,
    RowsOption,
    TableArgument,
    TokenOption,
    UrlOption,
    dtype_of,
    format_of,
    place,
    print_table,
)
from embcache.config import Settings, shown_size
from embcache.errors import ConfigError, EmbcacheError
from embcache.spec import Dtype

app = typer.Typer(
    name="embcache",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A multi-level embedding cache: hot rows in GPU memory, warm ones in host memory, all of them on disk; "
    "lookups by feature ID over HTTP.",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"embcache {__version__}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The config file.")]) -> None:
    """Run the service until SIGTERM or Ctrl-C."""
    from embcache.service.supervisor import serve as run

    raise typer.Exit(run(Settings.load(config)))


@app.command("import")
def import_(
    table: TableArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file; a folder of Parquet parts; an HPS model's folder.")
    ],
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    format: FormatOption = None,
    ids: IdsOption = None,
    rows: RowsOption = None,
    dtype: Annotated[str | None, typer.Option(help=f"What a table that is created keeps: {DTYPES}.")] = None,
    add: Annotated[bool, typer.Option("--add", help="A table that is created takes `add`: f32 on disk.")] = False,
    version: Annotated[
        str | None, typer.Option("--version", help="Fill a version of this name, staged or new, and switch to it.")
    ] = None,
    switch: Annotated[
        bool, typer.Option("--switch/--no-switch", help="Whether lookups are to get the named version at once.")
    ] = True,
) -> None:
    """Fill a table with the rows of a file, in place of what it held. All of them, or nothing changes.

    With --version the rows before stay, as another version to go back to: see `embcache switch`. A table that is not
    there is created from the file's shape. Reads .npy (row number is the ID), .npz, .safetensors, Parquet and folders
    of its parts as Spark writes them, Arrow (Feather), PyTorch state dicts, HugeCTR HPS folders, and word2vec text and
    binary, whose words are hashed as raw values of the table. IDs may come in any order.
    """
    from embcache.cli.tables import opened
    from embcache.cli.transfer import TableFormat, import_file

    if version is None and not switch:
        raise typer.BadParameter("needs --version: the rows of one that has no name take the live ones' place")
    kept = None if dtype is None else dtype_of(dtype)
    with opened(*place(config, url), token) as tables:
        form = TableFormat(format_of(format), ids, rows)
        moved = import_file(tables, table, file, form, kept, add, Console(stderr=True), version)
        told = "imported, now version" if version is None else "imported into version"
        typer.echo(f"{table}: {moved.summary} {told} {moved.version}")
        if version is not None and switch:
            warmed = tables.switch({table: version}, None, versions.WARM_S)
            typer.echo(versions.warmed_line(table, version, warmed.get(table)))


@app.command()
def export(
    table: TableArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help=".npz .safetensors .parquet .arrow .pt; .npy for IDs 0, 1, 2, ...")
    ],
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    format: FormatOption = None,
    ids: IdsOption = None,
    rows: RowsOption = None,
    since: Annotated[
        int | None,
        typer.Option("--since", min=0, max=2**64 - 1, help="Only what changed after this position, deletions too."),
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(help="The history of --since, as the export before printed it; refused where there is another."),
    ] = None,
) -> None:
    """Write a table's rows to a file, which appears when it is complete. --format hps writes a folder.

    The line that it prints ends with the position from which on `export --since` has what is not in the file; and so
    does the line of that. `embcache apply` takes such changes in.
    """
    from embcache.cli.changes import export_changes
    from embcache.cli.tables import Since, opened
    from embcache.cli.transfer import TableFormat, export_file

    if history is not None and since is None:
        raise typer.BadParameter("needs --since: it says in which history that position counts")
    form, console = TableFormat(format_of(format), ids, rows), Console(stderr=True)
    with opened(*place(config, url), token) as tables:
        if since is None:
            moved = export_file(tables, table, file, form, console)
            told = f"{moved.summary} of version {moved.version} written to {file}"
        else:
            moved = changed = export_changes(tables, table, file, form, Since(since, history or ""), console)
            told = f"{changed.told} since {since} written to {file}"
    typer.echo(f"{table}: {told}; go on with {moved.since}")


@app.command()
def tables(config: ConfigOption = None, url: UrlOption = None, token: TokenOption = None) -> None:
    """List the tables: rows, and bytes in each tier."""
    from embcache.cli.show import tables_table
    from embcache.cli.tables import opened

    with opened(*place(config, url), token) as there:
        infos = there.list()
    if infos:
        print_table(tables_table(infos))
    else:
        typer.echo("no tables yet: declare a [[table]], or `embcache import` a file")


@app.command()
def drop(
    table: TableArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Drop a table and all its rows, for good. Asks first."""
    from embcache.cli.tables import existing, opened

    with opened(*place(config, url), token) as tables:
        info = existing(tables, table)
        if not yes:
            typer.confirm(f"drop {table} and its {info.counted_rows}?", abort=True, err=True)
        tables.drop(table)
    typer.echo(f"{table}: dropped, with {info.counted_rows}")


@app.command(cls=NumbersCommand)
def lookup(
    table: TableArgument,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Feature IDs, or raw values with --values.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    values: Annotated[bool, typer.Option("--values", help="Hash the arguments as raw text values.")] = False,
    whole: Annotated[bool, typer.Option("--whole", help="Print whole rows, not their first elements.")] = False,
) -> None:
    """Look rows up, and say which tier each came from.

    What begins with a dash and no number is an option, unless behind `--`: embcache lookup item --values -- -red
    """
    from embcache.cli.show import rows_table
    from embcache.cli.tables import opened

    wanted = ids if values else [_feature_id(text) for text in ids]
    with opened(*place(config, url), token) as tables:
        found = tables.lookup(table, wanted)
    print_table(rows_table(ids, found, whole))


@app.command(cls=NumbersCommand)
def plan(
    rows: Annotated[str, typer.Argument(metavar="ROWS", help="How many: 1000000, 1e6, 100M.")],
    dim: Annotated[int, typer.Argument(metavar="DIM", help="Elements of a row.", min=1, max=65536)],
    dtype: Annotated[str | None, typer.Argument(metavar="[DTYPE]", help=f"{DTYPES}; all of them without it.")] = None,
    dtype_option: Annotated[str | None, typer.Option("--dtype", help="The same as an option.")] = None,
    add: Annotated[bool, typer.Option("--add", help="For a table that takes `add`: f32 on disk.")] = False,
    config: Annotated[Path | None, typer.Option(help="Whose capacities to fit; the defaults without it.")] = None,
) -> None:
    """Say what a table takes in each tier, and what of it fits."""
    from embcache.cli.plan import need, parse_rows
    from embcache.cli.show import plan_table

    try:
        count = parse_rows(rows)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="ROWS") from None
    if dtype is not None and dtype_option is not None:
        raise typer.BadParameter("give it once, as [DTYPE] or as --dtype", param_hint="DTYPE")
    settings = Settings() if config is None else Settings.load(config)
    kind = dtype or dtype_option
    kinds = get_args(Dtype) if kind is None else [dtype_of(kind)]
    needs = [need(count, dim, kind, add=add) for kind in kinds]
    print_table(plan_table(needs, settings, _disk_free(settings)))
    held = ", ".join(f"{each.hot_rows(settings.hot.capacity):,} as {each.dtype}" for each in needs)
    if settings.hot.device != "off":
        typer.echo(f"hot (GPU memory): {shown_size(settings.hot.capacity)} hold {held}, where there is a GPU")


versions.register(app)
apply.register(app)
snapshots.register(app)
app.add_typer(quarantine.app, name="quarantine")


def main() -> None:
    """The console script: runs the command, turns errors into one line and exit code 1."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("EMBCACHE_TRACEBACK"):
            raise
        _fail(_told(error) or f"unforeseen: {error!r} (EMBCACHE_TRACEBACK=1 shows where)")


def _told(error: Exception) -> str | None:
    """An error's own message, where it is meant for people."""
    from embcache_client import ClientError
    from embcache_storage.files import FileError

    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) if isinstance(error, EmbcacheError | ConfigError | ClientError | FileError | OSError) else None


def _fail(message: str) -> None:
    print("\n".join(f"embcache: {line}" for line in message.splitlines()), file=sys.stderr)
    sys.exit(1)


def _feature_id(text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text) < 2**64:
        return int(text)
    raise typer.BadParameter(f"{text!r} is no feature ID (0 to 2^64-1); --values looks up raw values", param_hint="ID")


def _disk_free(settings: Settings) -> int | None:
    """Free bytes where the data folder is, or will be."""
    for folder in (settings.cold.path.absolute(), *settings.cold.path.absolute().parents):
        if folder.is_dir():
            stat = os.statvfs(folder)
            return stat.f_bavail * stat.f_frsize
    return None
