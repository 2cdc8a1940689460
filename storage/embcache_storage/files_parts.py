"""A folder of Parquet files that are one table, as Spark and others write it: part-00000....parquet and so on.

Names that begin with `_` or `.` are the writer's own (`_SUCCESS`, checksums) and left aside. All parts have one schema;
those without a row, of which such folders have some, have nothing to say beside it. Parts are opened one after the
other, in the order of their names, so that memory is that of one.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from embcache_storage.files_arrow import ParquetSource, opened_parquet
from embcache_storage.files_formats import PART_SUFFIXES, parts_in
from embcache_storage.files_source import FileError, Names, Source, U64Array


def open_parquet(path: Path, names: Names) -> Source:
    """The table of a Parquet file, or of a folder of them."""
    return _Parts(path, names) if path.is_dir() else ParquetSource(path, names)


class _Parts(Source):
    """The parts of a folder one after the other."""

    def __init__(self, folder: Path, names: Names) -> None:
        if names.numbered:
            raise FileError(f"{folder} is a folder of parts, whose rows have no numbers: --ids names a column of ids")
        self.path = folder
        paths = _parts(folder)
        filled = _filled(paths) or paths[:1]
        self._parts = [ParquetSource(path, names) for path in filled]
        self.dim, self.dtype = self._parts[0].dim, self._parts[0].dtype
        for part in self._parts:
            if part.dim != self.dim:
                raise FileError(f"{part.path} has rows of {part.dim}, {filled[0]} has rows of {self.dim}")
            if part.changes is not None:
                raise FileError(f"{part.path} is a file of changes since a position, and no part of a table")
        self._ends = list(itertools.accumulate(part.count for part in self._parts))
        self.count = self._ends[-1]

    def pieces(self, items: int) -> Iterator[tuple[U64Array, npt.NDArray[Any]]]:
        for part in self._parts:
            yield from part.pieces(items)

    def ids(self, items: int) -> Iterator[U64Array]:
        for part in self._parts:
            yield from part.ids(items)

    def place(self, number: int) -> str:
        at = bisect_right(self._ends, number)
        return f"row {number - (self._ends[at - 1] if at else 0)} of {self._parts[at].path.name}"


def _filled(paths: list[Path]) -> list[Path]:
    """The parts that have rows. FileError where the columns of one are not those of the first."""
    filled, first = [], None
    for path in paths:
        with opened_parquet(path) as file:
            schema, rows = file.schema_arrow, int(file.metadata.num_rows)
        first = schema if first is None else first
        if not schema.equals(first, check_metadata=False):
            raise FileError(
                f"{path} has other columns than {paths[0].name}, and all parts of a table must have the same: "
                f"{_columns(schema)}; not {_columns(first)}"
            )
        if rows:
            filled.append(path)
    return filled


def _parts(folder: Path) -> list[Path]:
    """The files of the parts, by name. FileError for what is none."""
    there = parts_in(folder)
    for path in there:
        if path.is_dir():
            raise FileError(
                f"{path} is a folder within a folder of parts: these lie beside each other, and what is told by the "
                "names of folders alone is not read"
            )
        if path.suffix not in PART_SUFFIXES:
            raise FileError(
                f"{path} is no part: what belongs to the table ends in {' or '.join(PART_SUFFIXES)}, and the names of "
                "all else begin with _ or ."
            )
    if not there:
        raise FileError(f"{folder} has no part, no file that ends in {' or '.join(PART_SUFFIXES)}")
    return there


def _columns(schema: Any) -> str:
    return ", ".join(f"`{field.name}` {field.type}{'' if field.nullable else ' not null'}" for field in schema)
