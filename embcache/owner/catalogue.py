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
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from embcache.errors import EmbcacheError, StorageCorrupt
from embcache.spec import TableSpec

KEY = "catalogue"
FORMAT = 1
LAST_NUMBER = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Version:
    """One generation of a table's rows. `number` is its key in store and arena and is never used again."""

    number: int
    label: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `born` is the number of its first version: it tells a table from a later one of the same name."""

    spec: TableSpec
    born: int
    version: Version

    @property
    def row_bytes(self) -> int:
        """Bytes of one encoded row, as it is in memory."""
        return self.spec.row_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON and msgpack, which `from_json` takes back."""
        version = {"number": self.version.number, "label": self.version.label, "live": True}
        return {"spec": self.spec.to_json(), "born": self.born, "versions": [version]}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Table:
        """The table of `to_json`."""
        [version] = entry["versions"]  # format 1 keeps one version a table, the live one
        spec = TableSpec.parse(entry["spec"])
        return cls(spec, int(entry["born"]), Version(int(version["number"]), str(version["label"])))


@dataclass(frozen=True, slots=True)
class TableChange:
    """An entry of the update log: from its position on `name` is this table, with a new version of so many rows.

    It is gone where `table` is None.
    """

    name: str
    table: Table | None
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

    def after(self, change: TableChange) -> Catalogue:
        """This catalogue after a change."""
        tables = dict(self.tables)
        if change.table is None:
            tables.pop(change.name, None)
        else:
            tables[change.name] = change.table
        return dataclasses.replace(self, tables=MappingProxyType(tables))

    def with_history(self, history: str) -> Catalogue:
        """This catalogue in another history."""
        return dataclasses.replace(self, history=history)

    def versions(self) -> Iterator[tuple[Table, Version]]:
        """Every version with its table."""
        return ((table, table.version) for table in self.tables.values())

    def to_bytes(self) -> bytes:
        """JSON for the store, which `parse` takes back."""
        tables = [table.to_json() for table in self.tables.values()]
        value = {"format": FORMAT, "history": self.history, "numbers": self.numbers, "tables": tables}
        return json.dumps(value).encode()

    @classmethod
    def parse(cls, data: bytes) -> Catalogue:
        """The catalogue of `to_bytes`. StorageCorrupt says what about it is wrong."""
        try:
            value = json.loads(data)
            if value["format"] != FORMAT:
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
