"""The commands that keep data: snapshot, restore, check. Registered by app.py; their work is in keeping.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="The config file of a service on this machine.", dir_okay=False)
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="A data folder, or a snapshot, in place of --config.", file_okay=False)
]
TargetOption = Annotated[
    Path | None, typer.Option("--data", help="The data folder to put it into, in place of --config.", file_okay=False)
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", help="A running service: http://host:port or http+unix:///path/of/socket; else EMBCACHE_URL."
    ),
]
TokenOption = Annotated[
    str | None, typer.Option("--token", envvar="EMBCACHE_TOKEN", help="Bearer token of an admin, where one is needed.")
]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The snapshot.")]


def register(app: typer.Typer) -> None:
    """Make the commands of this file commands of the app."""
    for command in (snapshot, restore, check):
        app.command()(command)


def snapshot(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there yet.")],
    config: ConfigOption = None,
    data: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Copy all data, at one position, into a new folder, while the service runs or not.

    DIR is a data folder of its own, which `embcache restore` puts back, and `embcache check --data` audits. It appears
    when it is whole. With --url it is a path on the service's machine. Files that never change are shared by hard links
    where DIR is on the data's file system.
    """
    from embcache.cli.keeping import Place, shown_snapshot, take_snapshot

    with Place.opened(_cold(config, data, url), _url(config, data, url), token) as place:
        typer.echo(shown_snapshot(take_snapshot(place, folder.absolute())))


def restore(
    folder: FolderArgument,
    config: ConfigOption = None,
    data: TargetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Also one in which the audit finds damage.")] = False,
) -> None:
    """Put a snapshot in the place of the data of a service that is stopped. It is audited first.

    The rows that were there are kept beside the new ones; a new history of positions begins.
    """
    from embcache.cli.keeping import restore_snapshot, shown_restored

    if (config is None) == (data is None):
        raise typer.BadParameter("give either --config CONFIG or --data DIR, the data folder to restore")
    cold = _cold(config, data, None)
    assert cold is not None
    typer.echo(shown_restored(restore_snapshot(cold, folder.absolute(), force=force)))


def check(
    config: ConfigOption = None, data: DataOption = None, url: UrlOption = None, token: TokenOption = None
) -> None:
    """Audit the data: every row on disk, the catalogue, the update log, and what is in memory of a running service.

    Exit code 1 if anything is wrong. With --url, only what is in memory is looked at, and compared with the disk.
    """
    from embcache.cli.keeping import Place, audit, shown_audit

    with Place.opened(_cold(config, data, url), _url(config, data, url), token) as place:
        found = audit(place)
    typer.echo(shown_audit(found))
    if found["findings"]:
        raise typer.Exit(1)


def _url(config: Path | None, data: Path | None, url: str | None) -> str | None:
    """The service that is meant; a usage error unless exactly one place is."""
    if config is None and data is None and url is None:
        url = os.environ.get("EMBCACHE_URL") or None
    if sum(each is not None for each in (config, data, url)) != 1:
        raise typer.BadParameter("give one of --config CONFIG, --data DIR and --url URL, or set EMBCACHE_URL")
    return url


def _cold(config: Path | None, data: Path | None, url: str | None) -> str | None:
    """The [cold] settings that are meant, as JSON."""
    from embcache.config import Cold, Settings

    if url is not None:
        return None
    if config is not None:
        return Settings.load(config).cold.model_dump_json()
    return None if data is None else Cold(path=data.absolute()).model_dump_json()
