"""What a table in a file is to those who read it: ids and rows in the file's own order, a piece at a time.

Every format gives a `Source`; those that keep ids and rows as two arrays share `ArraySource`. Order, repeated ids and
values that are not finite are judged in files_read, once for all formats.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from embcache_storage.files_changes import Changes

U64Array = npt.NDArray[np.uint64]
F32Array = npt.NDArray[np.float32]

NUMBERED: Final = "-"
"""In place of a name for the ids: the number of a row, from 0, is its id."""

MAX_DIM: Final = 65_536

_ROW_DTYPES: Final = {2: "f16", 4: "f32", 8: "f32"}
"""The row dtype that holds what a float of this many bytes gives here: float64 is rounded to float32."""


class FileError(Exception):
    """A table file that cannot be read or written. The message says which, what is wrong, where, and what would do."""


@dataclass(frozen=True, slots=True)
class Names:
    """What ids and rows are called in a file (member, tensor, column, key), where it is not `ids` and `rows`.

    hashed: uint64 [n] of n words, for formats that know words and no ids.
    """

    ids: str | None = None
    rows: str | None = None
    hashed: Callable[[list[bytes]], U64Array] | None = None

    @property
    def numbered(self) -> bool:
        return self.ids == NUMBERED


class Source(ABC):
    """A table in a file, in the file's order. Nothing is kept open between calls."""

    path: Path
    count: int
    dim: int
    dtype: str
    """What the rows lose nothing in: "f16", "bf16" or "f32"; float64 is rounded to float32."""
    ascending = False
    """Whether the ids ascend by what they are, so that nobody need look."""
    changes: Changes | None = None
    """Of a file of changes what these are; None for one of a whole table."""

    @abstractmethod
    def pieces(self, items: int) -> Iterator[tuple[U64Array, npt.NDArray[Any]]]:
        """All (ids uint64 [n], rows float16, float32 or float64 [n, dim]) with 0 < n <= items. FileError at damage."""

    def ids(self, items: int) -> Iterator[U64Array] | None:
        """The ids alone; None where they cannot be read without the rows."""
        return None

    def deleted(self, items: int) -> Iterator[U64Array]:
        """The ids of a file of changes that have no row any more, at most `items` at a time."""
        yield from ()

    def place(self, number: int) -> str:
        """What messages call a row, from 0."""
        return f"row {number}"


class Column(Protocol):
    """An array in a file, read along its first axis."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pieces."""
        ...

    @property
    def bf16(self) -> bool:
        """Whether the file has bfloat16; the pieces are float32."""
        ...

    def pieces(self, items: int) -> Iterator[npt.NDArray[Any]]:
        """`items` of the first axis at a time, and what is left at the end; none for an empty array."""
        ...


class ArraySource(Source):
    """A table of two arrays, `ids` [n] and `rows` [n, dim], or of the rows alone, whose numbers are the ids then."""

    def __init__(
        self,
        path: Path,
        rows: Column,
        ids: Column | None,
        changes: Changes | None = None,
        deleted: Column | None = None,
    ) -> None:
        """FileError where they are not what a table is made of, or a file of changes with the ids that are gone."""
        _check_rows(rows)
        for column in filter(None, (ids, deleted)):
            _check_ids(column)
        if ids is not None and ids.shape[0] != rows.shape[0]:
            raise FileError(f"{path} has {ids.shape[0]:,} ids for {rows.shape[0]:,} rows; there must be one for each")
        self.path = path
        self.count, self.dim = rows.shape
        self.dtype = "bf16" if rows.bf16 else _ROW_DTYPES[rows.dtype.itemsize]
        self.ascending = ids is None
        self.changes = changes
        self._rows, self._ids, self._deleted = rows, ids, deleted

    def pieces(self, items: int) -> Iterator[tuple[U64Array, npt.NDArray[Any]]]:
        yield from zip(self.ids(items), self._rows.pieces(items), strict=True)

    def ids(self, items: int) -> Iterator[U64Array]:
        if self._ids is None:
            for start in range(0, self.count, items):
                yield np.arange(start, min(start + items, self.count), dtype=np.uint64)
            return
        yield from self._checked(self._ids, items)

    def deleted(self, items: int) -> Iterator[U64Array]:
        if self._deleted is not None:
            yield from self._checked(self._deleted, items)

    def _checked(self, ids: Column, items: int) -> Iterator[U64Array]:
        start = 0
        for piece in ids.pieces(items):
            yield checked_ids(piece, start, ids.name, self.place)
            start += len(piece)


@dataclass(frozen=True, slots=True)
class RawColumn:
    """An array that lies in a file as it is: row-major, little-endian, from a byte offset on."""

    path: Path
    name: str
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    """As it lies; uint16 for bfloat16."""
    offset: int = 0
    bf16: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32) if self.bf16 else self.stored

    def pieces(self, items: int) -> Iterator[npt.NDArray[Any]]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for start in range(0, self.shape[0], items):
                piece = np.empty((min(items, self.shape[0] - start), *self.shape[1:]), self.stored)
                if file.readinto(piece.reshape(-1).view(np.uint8).data) != piece.nbytes:
                    raise FileError(f"{self.name} is truncated: it ends within rows {start} to {start + len(piece)}")
                yield widened(piece) if self.bf16 else piece


def widened(bits: npt.NDArray[np.uint16]) -> F32Array:
    """float32 of the bits of bfloat16."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrowed(rows: F32Array) -> npt.NDArray[np.uint16]:
    """The bits of bfloat16 nearest to finite float32, ties to even."""
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def checked_ids(piece: npt.NDArray[Any], start: int, name: str, place: Callable[[int], str]) -> U64Array:
    """Integers [n] as uint64; FileError names the first negative one, whose row is counted from `start`."""
    if piece.dtype.kind == "i" and len(piece) and piece.min() < 0:
        at = int(np.argmax(piece < 0))
        raise FileError(f"{name} has {piece[at]} in {place(start + at)}; ids must be 0 to 2^64 - 1")
    return piece.astype(np.uint64, copy=False)


def chosen(path: Path, there: Mapping[str, Any] | Sequence[str], name: str, what: str, option: str) -> str:
    """`name`, which must be one of those that are there; FileError lists them. what: "tensor", "column", ..."""
    if name in there:
        return name
    names = ", ".join(f"`{each}`" for each in list(there)[:40]) or "nothing"
    more = f" and {len(there) - 40} more" if len(there) > 40 else ""
    raise FileError(
        f"{path} has no {what} `{name}`: it holds {names}{more}; a table is `ids` [n] and `rows` [n, dim], {option} "
        "names another"
    )


def library(name: str, path: Path, install: str) -> Any:
    """An optional library; FileError says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        root = name.partition(".")[0]
        raise FileError(f"{path}: that takes {root}, which is not installed here: {install}") from error


@contextmanager
def unreadable(path: Path, *kinds: type[Exception], form: str) -> Iterator[None]:
    """Turns what a library raises at damaged bytes into a FileError that names the file. OSErrors of files pass."""
    try:
        yield
    except kinds as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        told = " ".join(str(error).split())
        raise FileError(f"{path} cannot be read as {form}, it is damaged or another format: {told[:400]}") from error


def _check_rows(rows: Column) -> None:
    if rows.dtype.kind != "f" or rows.dtype.itemsize not in _ROW_DTYPES:
        raise FileError(f"{rows.name} is of {rows.dtype}; rows must be float32, float16 or float64")
    if len(rows.shape) != 2 or not 1 <= rows.shape[1] <= MAX_DIM:
        raise FileError(f"{rows.name} has shape {list(rows.shape)}; rows must be [n, dim] with a dim of 1 to {MAX_DIM}")


def _check_ids(ids: Column) -> None:
    if ids.dtype.kind not in "iu":
        raise FileError(f"{ids.name} is of {ids.dtype}; ids must be integers, best uint64")
    if len(ids.shape) != 1:
        raise FileError(f"{ids.name} has shape {list(ids.shape)}; ids must be [n]")
