"""The commands about versions of a table: list, stage, switch, drop. `register` adds them to the application."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from embcache.cli.options import ConfigOption, TableArgument, TokenOption, UrlOption, dtype_of, place, print_table

WARM_S = 30.0
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="The version's name.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, command in (("versions", versions), ("stage", stage), ("switch", switch), ("drop-version", drop_version)):
        app.command(name)(command)


def parse_default(text: str) -> object:
    """`zeros`, or the JSON of another default. typer.BadParameter."""
    if text == "zeros":
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise typer.BadParameter(
            f'{text!r} is neither zeros nor JSON such as {{"uniform": 0.01}}', param_hint="--default"
        ) from None


def parse_targets(texts: list[str]) -> dict[str, str]:
    """TABLE=VERSION, by table. typer.BadParameter."""
    targets: dict[str, str] = {}
    for text in texts:
        table, sign, version = text.partition("=")
        if not (table and sign and version):
            raise typer.BadParameter(f"{text!r} is not TABLE=VERSION", param_hint="TABLE=VERSION")
        if table in targets:
            raise typer.BadParameter(f"{table} is there twice", param_hint="TABLE=VERSION")
        targets[table] = version
    return targets


def own_keys(dtype: str | None, default: str | None, add: bool | None, **others: object) -> dict[str, Any]:
    """What a version's spec says of its own: all that is not None."""
    parsed = None if default is None else parse_default(default)
    told = {"dtype": dtype, "default": parsed, "add": add, **others}
    return {key: value for key, value in told.items() if value is not None}


def warmed_line(table: str, version: str, warmed: dict[str, int] | None) -> str:
    """What a switch did, for people."""
    if warmed is None:
        return f"{table}: {version} is live already"
    share = f", with {warmed['warmed']:,} of {warmed['ids']:,} rows in use in memory" if warmed["ids"] else ""
    return f"{table}: {version} is live{share}"


def versions(
    table: TableArgument, config: ConfigOption = None, url: UrlOption = None, token: TokenOption = None
) -> None:
    """List the versions of a table: live, staged to be so, or retired, to go back to."""
    from embcache.cli.show import versions_table
    from embcache.cli.tables import opened

    with opened(*place(config, url), token) as tables:
        infos = tables.versions(table)
    print_table(versions_table(infos))


def stage(
    table: TableArgument,
    version: VersionArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    dtype: Annotated[str | None, typer.Option(help="What the version keeps, where another than the live one.")] = None,
    default: Annotated[
        str | None, typer.Option(help='Its default row: zeros, {"uniform": 0.01} or {"constant": [...]}.')
    ] = None,
    add: Annotated[bool | None, typer.Option("--add/--no-add", help="Whether it takes `add`.")] = None,
    ttl_s: Annotated[
        int | None, typer.Option("--ttl-s", min=0, help="Its rows expire after so many seconds; 0: as changes say it.")
    ] = None,
    max_norm: Annotated[
        float | None, typer.Option("--max-norm", help="What no update may leave a row's norm over while it is live.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Updates of the table go to it, too.")] = False,
    source: Annotated[str | None, typer.Option("--source", help="The version whose rows it begins with.")] = None,
) -> None:
    """Add a version beside the live one: empty, for `embcache import --version` to fill, or with the rows of another.
    Lookups do not see it."""
    from embcache.cli.tables import opened

    spec = own_keys(None if dtype is None else dtype_of(dtype), default, add, ttl_s=ttl_s, max_norm=max_norm)
    with opened(*place(config, url), token) as tables:
        tables.stage(table, version, spec, follow, source)
    told = f" with the rows of {source}" if source is not None else ""
    typer.echo(f"{table}: {version} is staged{told}" + (", and follows" if follow else ""))


def switch(
    targets: Annotated[list[str], typer.Argument(metavar="TABLE=VERSION...", help="What is to be live.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    follow: Annotated[
        bool | None,
        typer.Option("--follow/--no-follow", help="Whether updates go on to the versions before; as staged without."),
    ] = None,
    warm: Annotated[float, typer.Option(help="Seconds that warming them may take.", min=0, max=300)] = WARM_S,
) -> None:
    """Make versions live, of any number of tables at once; the ones before stay to go back to, the same way.

    Before that, the rows that the ones before have in memory are brought there for the new ones.
    """
    from embcache.cli.tables import opened

    versions = parse_targets(targets)
    with opened(*place(config, url), token) as tables:
        warmed = tables.switch(versions, follow, warm)
    for table, version in versions.items():
        typer.echo(warmed_line(table, version, warmed.get(table)))


def drop_version(
    table: TableArgument,
    version: VersionArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Drop a version that is not live, for good. Asks first."""
    from embcache.cli.tables import opened

    with opened(*place(config, url), token) as tables:
        if not yes:
            typer.confirm(f"drop version {version} of {table} and its rows?", abort=True, err=True)
        tables.drop_version(table, version)
    typer.echo(f"{table}: version {version} is dropped")
