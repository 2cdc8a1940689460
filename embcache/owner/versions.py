"""What may become of a table's versions: rules that change a table's value, or say why not. Touches nothing.

A version may differ from its table's spec in dtype, default, add, ttl_s and max_norm. Its dim is the table's, since
models are built for that, and so is its feature, since ids are hashed by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from embcache.errors import Conflict, MalformedRequest, UnknownTable
from embcache.owner.catalogue import LIVE, STAGED, Table, Version
from embcache.spec import NAME_PATTERN, TableSpec
from embcache.validation import no_version

OWN = ("dtype", "default", "add", "ttl_s", "max_norm")  # what a version's spec may have of its own
_LABEL = re.compile(NAME_PATTERN, re.ASCII)


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version that an import fills, of the table `name`.

    born: that of its table; None where that was not there. named: whether the import is into a version of that name,
    else into one that takes the live one's place; `target` is that version as it was, None where it was not there.
    """

    name: str
    version: Version
    born: int | None
    named: bool = False
    target: Version | None = None

    @property
    def spec(self) -> TableSpec:
        return self.version.spec


def check_label(label: str) -> str:
    """The name of a version. MalformedRequest."""
    if _LABEL.fullmatch(label) is None:
        raise MalformedRequest(
            f"version: {label[:80]!r} is no name of a version: 1 to 64 of a to z, 0 to 9 and _", {"version": label[:80]}
        )
    return label


def found(table: Table, label: str) -> Version:
    """A version of a table. UnknownTable says which are there."""
    version = table.find(label)
    if version is None:
        raise no_version(table.spec.name, label, (version.label for version in table.versions))
    return version


def own_spec(table: Table, keys: Mapping[str, Any]) -> TableSpec:
    """The spec of a version that differs from the live one in some keys. MalformedRequest, Conflict."""
    live = table.live.spec
    told = {key: value for key, value in live.to_json().items() if key not in keys}
    if keys.get("dtype") == "f32":
        told.pop("add", None)  # such a version takes it
    return check_spec(table, TableSpec.parse({**told, **keys}))


def limited(table: Table, max_norm: object) -> Table:
    """The table with another limit for its live version, None for none. MalformedRequest."""
    spec = TableSpec.parse({**table.live.spec.to_json(), "max_norm": max_norm})
    return table.with_live(replace(table.live, spec=spec))


def check_spec(table: Table, spec: TableSpec) -> TableSpec:
    """A spec that a version of the table may have. Conflict names what is the table's own."""
    for key in TableSpec.model_fields:
        ours, theirs = getattr(table.spec, key), getattr(spec, key)
        if key not in OWN and ours != theirs:
            raise Conflict(
                f"table {table.spec.name!r} has {key} {ours!r}, and all its versions have: {theirs!r} would be another "
                f"table; a version may differ in {', '.join(OWN)}",
                {"table": table.spec.name, "key": key},
            )
    return spec


def check_followers(table: Table) -> Table:
    """A table whose followers can take whatever updates its live version takes. Conflict."""
    for version in table.followers:
        if table.live.spec.add and not version.spec.add:
            raise Conflict(
                f"version {version.label!r} of table {table.spec.name!r} cannot follow: the live version takes `add`, "
                f"and it does not, since it keeps {version.spec.dtype} on disk; say add = true for it, or that it does "
                "not follow",
                {"table": table.spec.name, "version": version.label},
            )
        if table.live.spec.expires and not version.spec.expires:
            raise Conflict(
                f"version {version.label!r} of table {table.spec.name!r} cannot follow: rows of the live version "
                "expire, and its rows cannot; say a ttl_s for it, or that it does not follow",
                {"table": table.spec.name, "version": version.label},
            )
    return table


def staged(table: Table, version: Version) -> Table:
    """The table with one more version. Conflict where one has its name."""
    there = table.find(version.label)
    if there is not None:
        raise Conflict(
            f"table {table.spec.name!r} has a version {version.label!r}, which is {there.state}: drop it first, or "
            "choose another name",
            {"table": table.spec.name, "version": version.label},
        )
    return check_followers(table.with_version(version))


def check_target(table: Table, target: Version) -> Version:
    """A version that an import may fill. Conflict for one that is live, or was: it is what there is to go back to."""
    if target.state != STAGED:
        raise Conflict(
            f"version {target.label!r} of table {table.spec.name!r} is {target.state}: an import by name fills a "
            "version that is staged, or a new one",
            {"table": table.spec.name, "version": target.label},
        )
    return target


def copied_no_more(name: str, origin: Version) -> Conflict:
    """The error for a version that went, or has other rows now, while it was copied."""
    return Conflict(
        f"version {origin.label!r} of table {name!r} was dropped or filled anew while it was copied",
        {"table": name, "version": origin.label},
    )


def without(table: Table, label: str) -> Table:
    """The table without a version. UnknownTable; Conflict for the live one."""
    if found(table, label).state == LIVE:
        raise Conflict(
            f"version {label!r} of table {table.spec.name!r} is live: switch to another one before you drop it, or "
            "drop the table",
            {"table": table.spec.name, "version": label},
        )
    return table.without(label)


def filled(new: NewVersion, table: Table | None) -> tuple[Table, Version | None]:
    """(The table with an import's version, the version that goes for it). UnknownTable, Conflict.

    `table` is as it is now: it may have changed while rows came.
    """
    labels = 0 if new.named else int(new.version.label)
    if table is None:
        if new.born is not None:
            raise UnknownTable(f"table {new.name!r} was dropped while rows were imported into it", {"table": new.name})
        return Table(new.spec, new.version.number, (new.version,), labels), None
    if new.born is None:  # another one created meanwhile what this one would have
        same_spec(new.spec, table)
    elif table.born != new.born:
        raise Conflict(
            f"table {new.name!r} was dropped and made anew while rows were imported into it", {"table": new.name}
        )
    if new.named:
        return _filled_by_name(new, table)
    table = replace(table, labels=max(table.labels, labels))
    limit = table.live.spec.max_norm  # of now: it may have got another one meanwhile, and the rows are the same
    new = replace(new, version=replace(new.version, spec=new.spec.model_copy(update={"max_norm": limit})))
    return check_followers(table.with_live(replace(new.version, follow=table.live.follow))), table.live


def _filled_by_name(new: NewVersion, table: Table) -> tuple[Table, Version | None]:
    label, target = new.version.label, table.find(new.version.label)
    if target is None:
        if new.target is not None:
            raise _dropped(new, UnknownTable, "was dropped")
        return staged(table, replace(new.version, state=STAGED)), None
    check_target(table, target)
    if target.spec != new.spec or (new.target is not None and target.born != new.target.born):
        raise _dropped(new, Conflict, "was made anew")
    version = replace(target, number=new.version.number)
    return table.with_version(version), found(table, label)


def _dropped(new: NewVersion, kind: type[UnknownTable | Conflict], what: str) -> UnknownTable | Conflict:
    label = new.version.label
    return kind(
        f"version {label!r} of table {new.name!r} {what} while rows were imported into it",
        {"table": new.name, "version": label},
    )


def same_spec(spec: TableSpec, table: Table) -> None:
    """Conflict unless a table is there as a spec says: as it was declared, or as its live version is."""
    if spec not in (table.spec, table.live.spec):
        raise Conflict(f"table {difference(spec, table.live.spec)}", {"table": spec.name})


def difference(spec: TableSpec, there: TableSpec) -> str:
    """What of a table that is there a spec says otherwise, for people."""
    keys = [key for key in TableSpec.model_fields if getattr(spec, key) != getattr(there, key)]
    told = ", ".join(f"{key} {_short(getattr(there, key))}, not {_short(getattr(spec, key))}" for key in keys)
    return f"{spec.name!r} is there with {told}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
