"""Which tables and versions there are: an immutable value, and its form on disk. Touches neither store nor arena.

tables.py replaces the whole value at each change and writes it under KEY with one call, beside the cursor of the update
log in which the change stands: what is on disk is always one catalogue or the next. Where a version stands in memory is
not part of it: that is new in every arena.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from embcache.errors import EmbcacheError, StorageCorrupt
from embcache.spec import TableSpec

KEY = "catalogue"
FORMAT = 2  # in format 1 each table had one version, the live one, of the table's spec
LAST_NUMBER = 2**32 - 1

LIVE, STAGED, RETIRED = "live", "staged", "retired"


@dataclass(frozen=True, slots=True)
class Version:
    """One generation of a table's rows. `number` is its key in store and arena and is never used again.

    state: LIVE for the one that lookups get, STAGED for one that has yet to be, RETIRED for one that was. follow:
    updates of the table go to it too, while it is not live. born: the number it was made with; an import into it gives
    it another one.
    """

    number: int
    label: str
    spec: TableSpec
    born: int
    state: str = LIVE
    follow: bool = False

    @property
    def row_bytes(self) -> int:
        """Bytes of one encoded row, as it is in memory."""
        return self.spec.row_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON and msgpack, which `from_json` takes back."""
        return {
            "number": self.number,
            "label": self.label,
            "spec": self.spec.to_json(),
            "state": self.state,
            "follow": self.follow,
            "born": self.born,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], spec: TableSpec) -> Version:
        """The version of `to_json`; of the spec of its table where it says none, as in format 1."""
        own = TableSpec.parse(entry["spec"]) if "spec" in entry else spec
        state, number = str(entry.get("state", LIVE)), int(entry["number"])
        if state not in (LIVE, STAGED, RETIRED):
            raise ValueError(f"no version is {state!r}")
        born = int(entry.get("born", number))
        return cls(number, str(entry["label"]), own, born, state, bool(entry.get("follow", False)))


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `spec`: as it was declared, which versions may differ from in dtype, default and add.

    versions: the live one first, then the others, the oldest first. born: the number of its first version, which tells
    a table from a later one of the same name. labels: labels that are numbers were given up to this one. since: the
    position from which on the live version is the live one; None in a catalogue that does not tell, see `settled`.
    """

    spec: TableSpec
    born: int
    versions: tuple[Version, ...]
    labels: int = 0
    since: int | None = None

    @property
    def live(self) -> Version:
        """The version that lookups get."""
        return self.versions[0]

    @property
    def followers(self) -> tuple[Version, ...]:
        """The versions that updates go to beside the live one."""
        return tuple(version for version in self.versions[1:] if version.follow)

    def find(self, label: str) -> Version | None:
        """The version of that name."""
        return next((version for version in self.versions if version.label == label), None)

    def with_version(self, version: Version) -> Table:
        """With a version in place of the one that has its name, or beside the others."""
        others = tuple(other for other in self.versions if other.label != version.label)
        versions = (version, *others[1:]) if version.state == LIVE else (*others, version)
        return replace(self, versions=versions)

    def with_live(self, version: Version) -> Table:
        """With a new version in place of the live one."""
        return replace(self, versions=(version, *self.versions[1:]))

    def without(self, label: str) -> Table:
        """Without a version that is not live."""
        return replace(self, versions=tuple(version for version in self.versions if version.label != label))

    def switched(self, label: str, follow: bool | None = None) -> Table:
        """With another version live and the one before retired; `follow`: whether that one follows, None: as it did."""
        live = self.find(label)
        assert live is not None
        keeps = self.live.follow if follow is None else follow
        retired = replace(self.live, state=RETIRED, follow=keeps)
        others = (other for other in self.versions[1:] if other.label != label)
        return replace(self, versions=(replace(live, state=LIVE), *others, retired))

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON and msgpack, which `from_json` takes back."""
        versions = [version.to_json() for version in self.versions]
        told = {"spec": self.spec.to_json(), "born": self.born, "labels": self.labels, "versions": versions}
        return told if self.since is None else {**told, "since": self.since}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Table:
        """The table of `to_json`, or of format 1."""
        spec = TableSpec.parse(entry["spec"])
        versions = tuple(Version.from_json(version, spec) for version in entry["versions"])
        if [version.state == LIVE for version in versions] != [True] + [False] * (len(versions) - 1):
            raise ValueError(f"of the versions of {spec.name} not the first alone is live")
        since = None if entry.get("since") is None else int(entry["since"])
        return cls(spec, int(entry["born"]), versions, int(entry.get("labels", versions[0].label)), since)


@dataclass(frozen=True, slots=True)
class TableChange:
    """An entry of the update log: from its position on the tables of these names are these, and gone where None.

    new: the number of the version that it brings, which has so many rows; 0 where it brings none.
    """

    tables: Mapping[str, Table | None]
    new: int = 0
    rows: int = 0

    @property
    def nbytes(self) -> int:
        """What it counts as among updates that wait."""
        return 0


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All tables by name. `numbers`: version numbers up to this one may have been used, above it none has."""

    history: str
    numbers: int
    tables: Mapping[str, Table]

    @classmethod
    def new(cls) -> Catalogue:
        """The catalogue of a new data folder, with a history of its own."""
        return cls(secrets.token_hex(8), 0, MappingProxyType({}))

    def with_numbers(self, numbers: int) -> Catalogue:
        """This catalogue with version numbers up to `numbers` taken."""
        return dataclasses.replace(self, numbers=numbers)

    def after(self, change: TableChange, position: int) -> Catalogue:
        """This catalogue after a change, whose entry stands at a position."""
        tables = dict(self.tables)
        for name, table in change.tables.items():
            before = tables.get(name)
            if table is None:
                tables.pop(name, None)
            elif before is not None and before.live.number == table.live.number:
                tables[name] = replace(table, since=before.since)
            else:
                tables[name] = replace(table, since=position)
        return dataclasses.replace(self, tables=MappingProxyType(tables))

    def settled(self, position: int) -> Catalogue:
        """With tables of which it is not known since when their live version is that since `position`, the applied
        one: what was before is unknown then, and nobody takes it for known."""
        tables = {
            name: replace(table, since=position) if table.since is None else table
            for name, table in self.tables.items()
        }
        return dataclasses.replace(self, tables=MappingProxyType(tables))

    def with_history(self, history: str) -> Catalogue:
        """This catalogue in another history."""
        return dataclasses.replace(self, history=history)

    def versions(self) -> Iterator[Version]:
        """Every version of every table."""
        return (version for table in self.tables.values() for version in table.versions)

    def numbered(self) -> dict[int, Version]:
        """Every version by its number."""
        return {version.number: version for version in self.versions()}

    def to_bytes(self) -> bytes:
        """JSON for the store, which `parse` takes back."""
        tables = [table.to_json() for table in self.tables.values()]
        value = {"format": FORMAT, "history": self.history, "numbers": self.numbers, "tables": tables}
        return json.dumps(value).encode()

    @classmethod
    def parse(cls, data: bytes) -> Catalogue:
        """The catalogue of `to_bytes`, or of format 1. StorageCorrupt says what about it is wrong."""
        try:
            value = json.loads(data)
            if value["format"] not in (1, FORMAT):
                raise StorageCorrupt(
                    f"the catalogue has format {value['format']}, this release reads {FORMAT}: use the newer release"
                )
            tables = [Table.from_json(entry) for entry in value["tables"]]
            by_name = MappingProxyType({table.spec.name: table for table in tables})
            return cls(str(value["history"]), int(value["numbers"]), by_name)
        except (ValueError, TypeError, LookupError) as error:
            raise StorageCorrupt(f"the catalogue in the data folder cannot be read: {error!r}") from error
        except StorageCorrupt:
            raise
        except EmbcacheError as error:
            raise StorageCorrupt(f"the catalogue in the data folder holds a bad {error.message}") from error
