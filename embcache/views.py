"""Table versions as a reader sees them: built from the owner's catalogue, ready to be put into a lookup's segment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache.errors import UnknownTable
from embcache.host import probe, rows
from embcache.host.convert import encode_rows
from embcache.host.memory import address_of
from embcache.spec import Constant, TableSpec, Uniform
from embcache.validation import nearest


@dataclass(frozen=True, slots=True, eq=False)
class TableView:
    """One version of a table. `columns` are the first columns of a segment; they point into `default_row`."""

    spec: TableSpec
    label: str
    number: int
    live: bool
    rows: int
    columns: NDArray[np.int64] = field(repr=False)
    default_row: NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Views:
    """A generation of the catalogue: the live version of each table, and every version by name and label."""

    generation: int
    history: str
    live: Mapping[str, TableView]
    versions: Mapping[tuple[str, str], TableView]

    def find(self, table: str, version: str | None) -> TableView:
        """A table's version, the live one for None. Raises UnknownTable that names the nearest."""
        view = self.live.get(table) if version is None else self.versions.get((table, version))
        if view is not None:
            return view
        if version is not None and table in self.live:
            raise UnknownTable(f"table {table!r} has no version {version[:64]!r}", {"table": table, "version": version})
        hint = f"; the nearest name is {nearest(table, self.live)}" if self.live else "; there are no tables yet"
        raise UnknownTable(f"there is no table {table[:64]!r}{hint}", {"table": table})


def default_columns(spec: TableSpec) -> tuple[int, NDArray[np.uint8], int]:
    """(kind, encoded default row, bits of a uniform row's bound) of a table."""
    row = np.zeros((1, spec.dim), np.float32)
    kind, bound = rows.ZEROS, np.float32(0)
    if isinstance(spec.default, Constant):
        kind, row[0] = rows.CONSTANT, spec.default.constant
    elif isinstance(spec.default, Uniform):
        kind, bound = rows.UNIFORM, np.float32(spec.default.uniform)
    encoded, _ = encode_rows(row, spec.dtype_code)
    return kind, encoded[0], int(bound.view(np.uint32))


def _view(spec: TableSpec, version: Mapping[str, Any]) -> TableView:
    kind, default_row, bound = default_columns(spec)
    columns = np.zeros(probe.COUNT, np.int64)
    columns[:] = (
        version["entry"],
        version["number"],
        spec.dtype_code,
        spec.dim,
        spec.row_bytes,
        kind,
        address_of(default_row),
        bound,
    )
    number, label, live = int(version["number"]), str(version["label"]), bool(version["live"])
    return TableView(spec, label, number, live, int(version["rows"]), columns, default_row)


def parse_catalogue(message: Mapping[str, Any]) -> Views:
    """The views of the owner's catalogue message."""
    views = [
        _view(TableSpec.parse(table["spec"]), version) for table in message["tables"] for version in table["versions"]
    ]
    return Views(
        generation=int(message["generation"]),
        history=str(message["history"]),
        live={view.spec.name: view for view in views if view.live},
        versions={(view.spec.name, view.label): view for view in views},
    )
