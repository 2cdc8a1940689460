"""`embcache quarantine`: batches of updates that are set aside, listed, shown, released and dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeAlias

import typer

from embcache.cli.numbers import NumbersCommand
from embcache.cli.options import ConfigOption, TableArgument, TokenOption, UrlOption, place, print_table
from embcache.cli.words import counted

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Batches of updates that would have left a row with a greater norm than its table's max_norm. They are set "
    "aside as a whole; nothing of them counts until they are released.",
)

PAGE = 100
PositionArgument = Annotated[int, typer.Argument(metavar="POSITION", min=1, help="The batch's position.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

_Where: TypeAlias = tuple[Path | None, str | None, str | None]  # config, url, token


class Quarantine(Protocol):
    """What a client has of it, and a cache of one's own."""

    def quarantine(self, after: int = 0, limit: int = PAGE) -> dict[str, Any]: ...

    def quarantined(self, position: int) -> dict[str, Any]: ...

    def release(self, position: int) -> dict[str, Any]: ...

    def drop_quarantined(self, position: int) -> None: ...


@contextmanager
def _opened(config: Path | None, url: str | None, token: str | None) -> Iterator[Quarantine]:
    """Of a running service (`url`), or in a stopped one's data (`config`)."""
    config, url = place(config, url)
    if url is not None:
        from embcache.errors import MalformedRequest
        from embcache_client import Client

        try:
            client = Client(url, token=token)
        except ValueError as error:
            raise MalformedRequest(f"--url: {error}") from None
        with client:
            yield client
    elif config is not None:
        from embcache.cache import EmbeddingCache
        from embcache.config import Settings

        with EmbeddingCache.open(Settings.load(config)) as cache:
            yield cache


@app.command(cls=NumbersCommand)
def limit(
    table: TableArgument,
    max_norm: Annotated[str, typer.Argument(metavar="NORM", help="The largest L2 norm of a row; `none`: no limit.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Give a table that is there another max_norm. Its rows stay; updates are judged by it from now on."""
    from embcache.cli.tables import opened

    try:
        norm = None if max_norm == "none" else float(max_norm)
    except ValueError:
        raise typer.BadParameter(f"{max_norm!r} is neither a number nor none", param_hint="NORM") from None
    with opened(*place(config, url), token) as tables:
        tables.limit(table, norm)
    typer.echo(f"{table}: " + ("no limit" if norm is None else f"max_norm is {norm:g}"))


@app.command("list")
def list_(config: ConfigOption = None, url: UrlOption = None, token: TokenOption = None) -> None:
    """List all of them, the oldest first."""
    from embcache.cli.show import quarantine_table
    from embcache.config import shown_size

    batches: list[dict[str, Any]] = []
    with _opened(config, url, token) as there:
        page = there.quarantine(0, PAGE)
        batches += page["batches"]
        while page["next"] is not None:
            page = there.quarantine(page["next"], PAGE)
            batches += page["batches"]
    if batches:
        print_table(quarantine_table(batches))
        count = counted(len(batches), "batch", "batches")
        typer.echo(f"set aside: {count}, {shown_size(page['bytes'])} of updates.quarantine_bytes")
    else:
        typer.echo("no batch is set aside")


@app.command(cls=NumbersCommand)
def show(
    position: PositionArgument, config: ConfigOption = None, url: UrlOption = None, token: TokenOption = None
) -> None:
    """Show one: why it was set aside, its changes, and how many of their rows a release would leave alone."""
    from embcache.cli.show import quarantine_table, quarantined_changes_table

    with _opened(config, url, token) as there:
        batch = there.quarantined(position)
    print_table(quarantine_table([batch]))
    print_table(quarantined_changes_table(batch["changes"]))


@app.command(cls=NumbersCommand)
def release(
    position: PositionArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    yes: YesOption = False,
) -> None:
    """Apply one after all, as a new batch that no limit is for, but for rows that were changed since. Asks first."""
    with _confirmed("release {}?", position, (config, url, token), yes) as there:
        told = there.release(position)
    typer.echo(
        f"released at position {told['position']}: {counted(told['rows'], 'change')} of rows, {told['skipped']:,} "
        "left out, of which there is something newer"
    )


@app.command(cls=NumbersCommand)
def drop(
    position: PositionArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    yes: YesOption = False,
) -> None:
    """Forget one for good. Asks first."""
    with _confirmed("drop {} for good?", position, (config, url, token), yes) as there:
        there.drop_quarantined(position)
    typer.echo(f"dropped the batch of position {position}")


@contextmanager
def _confirmed(question: str, position: int, where: _Where, yes: bool) -> Iterator[Quarantine]:
    """The quarantine, once somebody has said that this is to happen to the batch of a position."""
    with _opened(*where) as there:
        if not yes:
            typer.confirm(question.format(_told(there.quarantined(position))), abort=True, err=True)
        yield there


def _told(batch: Mapping[str, Any]) -> str:
    skipped = sum(change["skipped"] for change in batch["changes"])
    return (
        f"the batch of position {batch['position']}, {counted(batch['rows'], 'change')} of rows by "
        f"{batch['producer']}, of which a release would leave out {skipped:,}"
    )
