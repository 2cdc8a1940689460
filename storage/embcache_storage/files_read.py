"""Reading table files: checked, in order of ids, a chunk at a time, whatever their format and order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from embcache_storage.files_formats import recognised
from embcache_storage.files_sort import SORT_BYTES, RepeatedId, RowSorter
from embcache_storage.files_source import F32Array, FileError, Names, Source, U64Array

_STEP: Final = 1 << 20
"""Ids looked at together."""


class TableFile:
    """A table in a file. Nothing is kept open between calls."""

    def __init__(self, source: Source, format: str) -> None:
        self.path = source.path
        self.format = format
        self.count = source.count
        self.dim = source.dim
        self.dtype = source.dtype
        """What the rows lose nothing in: "f16", "bf16" or "f32"; float64 is rounded to float32."""
        self.changes = source.changes
        """Of a file of changes what these are; None for one of a whole table."""
        self._source = source

    def deleted(self, items: int) -> Iterator[U64Array]:
        """The ids of a file of changes that have no row any more, at most `items` at a time."""
        return self._source.deleted(items)

    def sorted_chunks(
        self,
        rows_per_chunk: int,
        *,
        sort_bytes: int = SORT_BYTES,
        temporary: Path | None = None,
        sorting: Callable[[int], object] = lambda rows: None,
    ) -> Iterator[tuple[U64Array, F32Array]]:
        """Yields (ids uint64 [n] ascending and unique over all chunks, rows float32 [n, dim]), n <= rows_per_chunk.

        Rows whose ids are not in order are sorted first, within `sort_bytes` of memory and in files of the folder
        `temporary` (TMPDIR or /var/tmp); `sorting` is told the rows of each piece that went in. FileError names a
        repeated id with its rows, a negative id, a value that is not finite or too large for float32, and damage: of
        rows that are sorted in memory or not at all, ids before the first chunk, else each as it is met.
        """
        if self._ascends():
            for _, ids, rows in self._finite(rows_per_chunk):
                yield ids, rows
            return
        try:
            with RowSorter(self.path, self.dim, sort_bytes, temporary) as sorter:
                for first, ids, rows in self._finite(rows_per_chunk):
                    sorter.add(ids, first, rows)
                    sorting(len(ids))
                yield from sorter.chunks(rows_per_chunk)
        except RepeatedId as repeated:
            raise self._repeated(*repeated.args) from None

    def _ascends(self) -> bool:
        """Whether the ids are known to ascend strictly. Looks at all, so that a bad one is met before any row."""
        if self._source.ascending:
            return True
        pieces = self._source.ids(_STEP)
        if pieces is None:
            return False
        ascends = True
        first, last = 0, None
        for ids in pieces:
            joined = ids if last is None else np.concatenate([last, ids])
            if ascends:
                equal = np.flatnonzero(joined[1:] == joined[:-1])
                if len(equal):
                    at = first + int(equal[0])
                    raise self._repeated(int(joined[equal[0]]), at, at + 1)
                ascends = bool(np.all(joined[1:] > joined[:-1]))
            first += len(joined) - 1
            last = ids[-1:].copy()
        return ascends

    def _finite(self, step: int) -> Iterator[tuple[int, U64Array, F32Array]]:
        """(number of the first row, ids, rows as float32), or FileError naming the first value that is none."""
        first = 0
        for ids, rows in self._source.pieces(step):
            with np.errstate(over="ignore", invalid="ignore"):
                floats = np.require(rows, np.float32, ["C", "A"])
            finite = np.isfinite(floats).all(axis=1)
            if not finite.all():
                raise self._not_finite(rows, floats, ids, first, int(np.argmin(finite)))
            yield first, ids, floats
            first += len(ids)
        if first != self.count:
            raise FileError(f"{self.path} is damaged: {first:,} rows can be read, and it tells of {self.count:,}")

    def _not_finite(self, rows: npt.NDArray[Any], floats: F32Array, ids: U64Array, first: int, at: int) -> FileError:
        column = int(np.argmin(np.isfinite(floats[at])))
        value = rows[at, column]
        problem = "too large for float32" if np.isfinite(value) else "not finite"
        place = self._source.place(first + at)
        return FileError(f"{self.path}: id {ids[at]} ({place}) has {value} in column {column}: {problem}")

    def _repeated(self, id: int, first: int, second: int) -> FileError:
        place = self._source.place
        return FileError(f"{self.path}: id {id} is in {place(first)} and again in {place(second)}; ids must be unique")


def open_table(path: str | Path, format: str | None = None, names: Names = Names()) -> TableFile:  # noqa: B008
    """Open a table of any format that is known here; what it is shows in its contents, or `format` says it.

    FileError where it is none, damaged, or of the wrong shape or dtype; OSError where it cannot be opened.
    """
    path = Path(path)
    known = recognised(path, format)
    return TableFile(known.open(path, names), known.name)
