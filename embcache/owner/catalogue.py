"""Which tables and versions there are: an immutable value, and its form on disk. Touches neither store nor arena.

tables.py replaces the whole value at each change and writes it under KEY with one call, so that what is on disk is
always one catalogue or the next. Where a version stands in memory is not part of it: that is new in every arena.
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
        """Bytes of one encoded row."""
        return self.spec.row_bytes


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

    def with_table(self, table: Table) -> Catalogue:
        """This catalogue with `table` in it, in place of one of its name."""
        return dataclasses.replace(self, tables=MappingProxyType({**self.tables, table.spec.name: table}))

    def without_table(self, name: str) -> Catalogue:
        """This catalogue without the table `name`."""
        left = {other: table for other, table in self.tables.items() if other != name}
        return dataclasses.replace(self, tables=MappingProxyType(left))

    def versions(self) -> Iterator[tuple[Table, Version]]:
        """Every version with its table."""
        return ((table, table.version) for table in self.tables.values())

    def to_bytes(self) -> bytes:
        """JSON for the store, which `parse` takes back."""
        tables = [_table_to_json(table) for table in self.tables.values()]
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
            tables = [_table_from_json(entry) for entry in value["tables"]]
            by_name = MappingProxyType({table.spec.name: table for table in tables})
            return cls(str(value["history"]), int(value["numbers"]), by_name)
        except (ValueError, TypeError, LookupError) as error:
            raise StorageCorrupt(f"the catalogue in the data folder cannot be read: {error!r}") from error
        except StorageCorrupt:
            raise
        except EmbcacheError as error:
            raise StorageCorrupt(f"the catalogue in the data folder holds a bad {error.message}") from error


def _table_to_json(table: Table) -> dict[str, Any]:
    version = {"number": table.version.number, "label": table.version.label, "live": True}
    return {"spec": table.spec.to_json(), "born": table.born, "versions": [version]}


def _table_from_json(entry: Mapping[str, Any]) -> Table:
    [version] = entry["versions"]  # format 1 keeps one version a table, the live one
    return Table(
        TableSpec.parse(entry["spec"]), int(entry["born"]), Version(int(version["number"]), str(version["label"]))
    )
