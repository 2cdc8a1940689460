"""What several commands take, and how it is understood."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from embcache.spec import Dtype

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


def print_table(table: Table) -> None:
    """To a terminal within its width, to a pipe a line for each row, however long."""
    Console(highlight=False, width=None if sys.stdout.isatty() else 1 << 16).print(table)


def place(config: Path | None, url: str | None) -> tuple[Path | None, str | None]:
    """Exactly one of the two, or a usage error. The environment's URL stands in where neither is given."""
    if config is None and url is None:
        url = os.environ.get("EMBCACHE_URL") or None
    if (config is None) == (url is None):
        raise typer.BadParameter(
            "give either --config CONFIG (a stopped service's data) or --url URL (a running one), "
            "or set EMBCACHE_URL in place of --url"
        )
    return config, url


def dtype_of(text: str) -> Dtype:
    for known in get_args(Dtype):
        if text == known:
            kind: Dtype = known
            return kind
    raise typer.BadParameter(f"{text!r} is none of {DTYPES}", param_hint="DTYPE")


def format_of(text: str | None) -> str | None:
    """A format of files by its name. typer.BadParameter."""
    from embcache_storage.files import FORMATS

    names = [format.name for format in FORMATS]
    if text is not None and text not in names:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(names)}", param_hint="--format")
    return text
