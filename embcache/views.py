"""Table versions as a reader sees them: built from the owner's catalogue, ready to be put into a lookup's segment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache.defaults import default_row_of
from embcache.host.memory import address_of
from embcache.spec import TableSpec, Uniform
from embcache.validation import no_table, no_version


@dataclass(frozen=True, slots=True, eq=False)
class TableView:
    """One version of a table.

    columns: the first columns of a segment; they point into default_row. bound: of uniform default rows, which are
    made for each id, else None.
    """

    spec: TableSpec
    label: str
    number: int
    state: str
    rows: int
    columns: NDArray[np.int64] = field(repr=False)
    default_row: NDArray[np.uint8] = field(repr=False)
    bound: np.float32 | None

    @property
    def live(self) -> bool:
        """Whether lookups that name no version get this one."""
        return self.state == "live"


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
            there = [label for name, label in self.versions if name == table]
            raise no_version(table, version, there)
        raise no_table(table, self.live)


def _view(version: Mapping[str, Any]) -> TableView:
    spec = TableSpec.parse(version["spec"])
    default_row = default_row_of(spec)
    columns = np.array((version["entry"], version["number"], spec.row_bytes, address_of(default_row)), np.int64)
    bound = np.float32(spec.default.uniform) if isinstance(spec.default, Uniform) else None
    number, label, state = int(version["number"]), str(version["label"]), str(version["state"])
    return TableView(spec, label, number, state, int(version["rows"]), columns, default_row, bound)


def parse_catalogue(message: Mapping[str, Any]) -> Views:
    """The views of the owner's catalogue message."""
    views = [_view(version) for version in message["versions"]]
    return Views(
        generation=int(message["generation"]),
        history=str(message["history"]),
        live={view.spec.name: view for view in views if view.live},
        versions={(view.spec.name, view.label): view for view in views},
    )
