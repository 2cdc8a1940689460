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
from rich.table import Table

from embcache import __version__
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

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="The config file of a service that is not running.", dir_okay=False)
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="A running service: http://host:port or http+unix:///path/of/socket; EMBCACHE_URL where neither is given.",
    ),
]
TokenOption = Annotated[
    str | None, typer.Option("--token", envvar="EMBCACHE_TOKEN", help="Bearer token, where the service asks for one.")
]
TableArgument = Annotated[str, typer.Argument(metavar="TABLE", help="The table's name.")]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="npy, npz, safetensors, parquet, arrow, torch, hps, word2vec-text or word2vec-binary, where the file or "
        "its name does not tell.",
    ),
]
IdsOption = Annotated[
    str | None,
    typer.Option(
        "--ids", help="What the file calls its ids: array, tensor, column, key. `-`: row numbers are the ids."
    ),
]
RowsOption = Annotated[str | None, typer.Option("--rows", help="What the file calls its rows.")]
DTYPES = ", ".join(get_args(Dtype))


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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file; an HPS model is a folder.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    format: FormatOption = None,
    ids: IdsOption = None,
    rows: RowsOption = None,
    dtype: Annotated[str | None, typer.Option(help=f"What a table that is created keeps: {DTYPES}.")] = None,
    add: Annotated[bool, typer.Option("--add", help="A table that is created takes `add`: f32 on disk.")] = False,
) -> None:
    """Fill a table with the rows of a file, in place of what it held. All of them, or nothing changes.

    A table that is not there is created from the file's shape. Reads .npy (row number is the ID), .npz, .safetensors,
    Parquet, Arrow (Feather), PyTorch state dicts, HugeCTR HPS folders, and word2vec text and binary, whose words are
    hashed as raw values of the table. IDs may come in any order.
    """
    from embcache.cli.tables import opened
    from embcache.cli.transfer import TableFormat, import_file

    kept = None if dtype is None else _dtype(dtype)
    with opened(*_place(config, url), token) as tables:
        moved = import_file(
            tables, table, file, TableFormat(_format(format), ids, rows), kept, add, Console(stderr=True)
        )
    typer.echo(f"{table}: {moved.summary} imported, now version {moved.version}")


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
) -> None:
    """Write a table's rows to a file, which appears when it is complete. --format hps writes a folder."""
    from embcache.cli.tables import opened
    from embcache.cli.transfer import TableFormat, export_file

    with opened(*_place(config, url), token) as tables:
        moved = export_file(tables, table, file, TableFormat(_format(format), ids, rows), Console(stderr=True))
    typer.echo(f"{table}: {moved.summary} of version {moved.version} written to {file}")


@app.command()
def tables(config: ConfigOption = None, url: UrlOption = None, token: TokenOption = None) -> None:
    """List the tables: rows, and bytes in each tier."""
    from embcache.cli.show import tables_table
    from embcache.cli.tables import opened

    with opened(*_place(config, url), token) as there:
        infos = there.list()
    if infos:
        _print(tables_table(infos))
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

    with opened(*_place(config, url), token) as tables:
        info = existing(tables, table)
        if not yes:
            typer.confirm(f"drop {table} and its {info.shown_rows} rows?", abort=True, err=True)
        tables.drop(table)
    typer.echo(f"{table}: dropped, with {info.shown_rows} rows")


@app.command()
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

    What begins with a dash is an option, before `--`: embcache lookup item --values -- -1
    """
    from embcache.cli.show import rows_table
    from embcache.cli.tables import opened

    wanted = ids if values else [_feature_id(text) for text in ids]
    with opened(*_place(config, url), token) as tables:
        found = tables.lookup(table, wanted)
    _print(rows_table(ids, found, whole))


@app.command()
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
    kinds = get_args(Dtype) if kind is None else [_dtype(kind)]
    needs = [need(count, dim, kind, add=add) for kind in kinds]
    _print(plan_table(needs, settings, _disk_free(settings)))
    held = ", ".join(f"{each.hot_rows(settings.hot.capacity):,} as {each.dtype}" for each in needs)
    if settings.hot.device != "off":
        typer.echo(f"hot (GPU memory): {shown_size(settings.hot.capacity)} hold {held}, where there is a GPU")


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


def _print(table: Table) -> None:
    """To a terminal within its width, to a pipe a line for each row, however long."""
    Console(highlight=False, width=None if sys.stdout.isatty() else 1 << 16).print(table)


def _fail(message: str) -> None:
    print("\n".join(f"embcache: {line}" for line in message.splitlines()), file=sys.stderr)
    sys.exit(1)


def _place(config: Path | None, url: str | None) -> tuple[Path | None, str | None]:
    """Exactly one of the two, or a usage error. The environment's URL stands in where neither is given."""
    if config is None and url is None:
        url = os.environ.get("EMBCACHE_URL") or None
    if (config is None) == (url is None):
        raise typer.BadParameter(
            "give either --config CONFIG (a stopped service's data) or --url URL (a running one), "
            "or set EMBCACHE_URL in place of --url"
        )
    return config, url


def _dtype(text: str) -> Dtype:
    for known in get_args(Dtype):
        if text == known:
            kind: Dtype = known
            return kind
    raise typer.BadParameter(f"{text!r} is none of {DTYPES}", param_hint="DTYPE")


def _format(text: str | None) -> str | None:
    from embcache_storage.files import FORMATS

    names = [format.name for format in FORMATS]
    if text is not None and text not in names:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(names)}", param_hint="--format")
    return text


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
