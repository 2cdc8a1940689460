"""Reading table files: checked, in order of ids, a chunk at a time. Touches nothing but the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from embcache_storage.files_arrays import FileError, StoredArray, npy_file, npz_members

U64Array = npt.NDArray[np.uint64]
F32Array = npt.NDArray[np.float32]

_DTYPES: Final = {2: "f16", 4: "f32", 8: "f32"}
"""The row dtype that holds what a float of this many bytes gives here: float64 is rounded to float32."""
_STEP: Final = 1 << 20
"""Ids looked at together."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table in a file. Nothing is kept open between calls."""

    path: Path
    count: int
    dim: int
    dtype: str
    """What the rows lose nothing in: "f16" or "f32"; float64 is rounded to float32."""
    rows: StoredArray
    ids: StoredArray | None
    """None where the row number is the id."""

    def sorted_chunks(self, rows_per_chunk: int) -> Iterator[tuple[U64Array, F32Array]]:
        """Yields (ids uint64 [n] ascending and unique over all chunks, rows float32 [n, dim]), n <= rows_per_chunk.

        Arrays may be read-only. FileError names a repeated id with its rows, a negative id, a value that is not finite
        or too large for float32, and damage; the ids are all checked before the first chunk.
        """
        if self.ids is None:
            yield from self._numbered(rows_per_chunk)
            return
        ids = _read_ids(self.ids)
        order = None if _ascends(ids) else np.argsort(ids)
        if order is None:
            yield from self._in_order(ids, rows_per_chunk)
            return
        _check_unique(ids, order, self.path)
        if self.rows.compressed:
            raise FileError(
                f"{self.path}: its ids are not in order, and its rows are compressed, so that they can only be read as "
                "they come; save it with numpy.savez, or sorted by id"
            )
        yield from self._reordered(ids, order, rows_per_chunk)

    def _numbered(self, step: int) -> Iterator[tuple[U64Array, F32Array]]:
        mapped = self.rows.mapped()
        for start in range(0, self.count, step):
            ids = np.arange(start, min(start + step, self.count), dtype=np.uint64)
            yield ids, self._floats(mapped[start : start + step], ids, ids)

    def _in_order(self, ids: U64Array, step: int) -> Iterator[tuple[U64Array, F32Array]]:
        start = 0
        for rows in self._row_pieces(step):
            piece = ids[start : start + len(rows)]
            yield piece, self._floats(rows, piece, np.arange(start, start + len(rows)))
            start += len(rows)

    def _row_pieces(self, step: int) -> Iterator[npt.NDArray[Any]]:
        if not self.rows.column_major:
            yield from self.rows.pieces(step)  # checks the archive's checksum on the way
            return
        self.rows.check()
        mapped = self.rows.mapped()
        for start in range(0, self.count, step):
            yield mapped[start : start + step]

    def _reordered(self, ids: U64Array, order: npt.NDArray[np.intp], step: int) -> Iterator[tuple[U64Array, F32Array]]:
        self.rows.check()
        mapped = self.rows.mapped()
        for start in range(0, self.count, step):
            numbers = order[start : start + step]
            piece = ids[numbers]
            yield piece, self._floats(mapped[numbers], piece, numbers)

    def _floats(self, rows: npt.NDArray[Any], ids: U64Array, numbers: npt.NDArray[Any]) -> F32Array:
        """Rows as float32, or FileError naming the first value that is none."""
        with np.errstate(over="ignore", invalid="ignore"):
            floats = np.require(rows, np.float32, ["C", "A"])
        finite = np.isfinite(floats).all(axis=1)
        if not finite.all():
            at = int(np.argmin(finite))
            column = int(np.argmin(np.isfinite(floats[at])))
            value = rows[at, column]
            problem = "too large for float32" if np.isfinite(value) else "not finite"
            raise FileError(f"{self.path}: id {ids[at]} (row {numbers[at]}) has {value} in column {column}: {problem}")
        return floats


def open_table(path: str | Path) -> TableFile:
    """Open an .npy or .npz table; what it is shows in its first bytes, not in its name.

    FileError where it is neither, damaged, or of the wrong shape or dtype; OSError where it cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as file:
        magic = file.read(6)
    if magic == b"\x93NUMPY":
        rows, ids = npy_file(path), None
    elif magic.startswith(b"PK"):
        ids, rows = npz_members(path, ("ids", "rows"))
        _check_ids(ids)
    else:
        raise FileError(f"{path} is neither an .npy nor an .npz file")
    _check_rows(rows)
    if ids is not None and ids.shape[0] != rows.shape[0]:
        raise FileError(f"{path} has {ids.shape[0]:,} ids for {rows.shape[0]:,} rows; there must be one for each")
    return TableFile(path, rows.shape[0], rows.shape[1], _DTYPES[rows.dtype.itemsize], rows, ids)


def _check_rows(rows: StoredArray) -> None:
    if rows.dtype.kind != "f" or rows.dtype.itemsize not in _DTYPES:
        raise FileError(f"{rows.name} is of {rows.dtype}; rows must be float32, float16 or float64")
    if len(rows.shape) != 2 or not rows.shape[1]:
        raise FileError(f"{rows.name} has shape {list(rows.shape)}; rows must be [n, dim] with a dim of at least 1")
    if rows.compressed and rows.column_major:
        raise FileError(f"{rows.name} is compressed and column-major; save it with numpy.savez, or row-major")


def _check_ids(ids: StoredArray) -> None:
    if ids.dtype.kind not in "iu":
        raise FileError(f"{ids.name} is of {ids.dtype}; ids must be integers, best uint64")
    if len(ids.shape) != 1:
        raise FileError(f"{ids.name} has shape {list(ids.shape)}; ids must be [n]")


def _read_ids(stored: StoredArray) -> U64Array:
    """All ids as uint64 [n]. FileError names the first negative one."""
    ids = np.empty(stored.shape[0], np.uint64)
    start = 0
    for piece in stored.pieces(_STEP):
        if stored.dtype.kind == "i" and piece.min() < 0:
            at = int(np.argmax(piece < 0))
            raise FileError(f"{stored.name} has {piece[at]} in row {start + at}; ids must be 0 to 2^64 - 1")
        ids[start : start + len(piece)] = piece
        start += len(piece)
    return ids


def _ascends(ids: U64Array) -> bool:
    """Whether ids ascend strictly, looked at in steps that overlap by one."""
    steps = (ids[at : at + _STEP + 1] for at in range(0, len(ids), _STEP))
    return all(bool(np.all(step[1:] > step[:-1])) for step in steps)


def _check_unique(ids: U64Array, order: npt.NDArray[np.intp], path: Path) -> None:
    for start in range(0, len(ids), _STEP):
        numbers = order[start : start + _STEP + 1]
        piece = ids[numbers]
        repeated = np.flatnonzero(piece[1:] == piece[:-1])
        if len(repeated):
            first, second = sorted(numbers[repeated[0] : repeated[0] + 2].tolist())
            repeated_id = piece[repeated[0]]
            raise FileError(f"{path}: id {repeated_id} is in row {first} and again in row {second}; ids must be unique")
