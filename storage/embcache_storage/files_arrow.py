"""Reading Parquet and Arrow IPC (Feather): a column of integer ids and a column of lists of floats, all of one length.

Parquet is read batch by batch through a small buffer; its pages' checksums are verified where it has some, as those
written here have. An Arrow file is mapped; a compressed batch of it comes into memory whole.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from embcache_storage.files_changes import DELETED, KEY, Changes
from embcache_storage.files_source import (
    MAX_DIM,
    FileError,
    Names,
    Source,
    U64Array,
    checked_ids,
    chosen,
    library,
    unreadable,
)

INSTALL: Final = "pip install 'embcache[io]'"
_BUFFER_BYTES: Final = 1 << 20
_STEP: Final = 1 << 16


class _ArrowSource(Source):
    """A table of two columns; subclasses say how to come by batches of them."""

    form: str

    def __init__(self, path: Path, names: Names) -> None:
        self.path = path
        self.ascending = names.numbered
        self._arrow = library("pyarrow", path, INSTALL)
        with path.open("rb"), self._readable():
            schema = self._schema()
            there = schema.names
        repeated = sorted({name for name in there if there.count(name) > 1})
        if repeated:
            raise FileError(f"{path} has two columns `{repeated[0]}`; names of columns must be unique")
        self.changes = self._changes(schema)
        self._ids = None if names.numbered else self._ids_name(schema, names)
        self._rows = chosen(path, there, names.rows or "rows", "column", "--rows")
        kind = schema.field(self._rows).type
        self.dtype = self._row_dtype(kind)
        self.count = self._count() if self.changes is None else self._count_present()
        self.dim = kind.list_size if self._arrow.types.is_fixed_size_list(kind) else self._first_length()
        if not 1 <= self.dim <= MAX_DIM:
            raise FileError(f"{self._name(self._rows)} has lists of {self.dim}; rows must have 1 to {MAX_DIM} elements")

    def pieces(self, items: int) -> Iterator[tuple[U64Array, npt.NDArray[Any]]]:
        columns = [self._rows] if self._ids is None else [self._ids, self._rows]
        start = 0
        for batch in self._present(columns, items):
            rows = self._floats(batch.column(self._rows), start)
            yield self._id_piece(batch, start), rows
            start += batch.num_rows

    def ids(self, items: int) -> Iterator[U64Array]:
        start = 0
        for batch in self._present([self._ids or self._rows], items):
            yield self._id_piece(batch, start)
            start += batch.num_rows

    def deleted(self, items: int) -> Iterator[U64Array]:
        if self.changes is None or self._ids is None:
            return
        for batch in self._batches([self._ids, DELETED], items):
            gone = batch.filter(batch.column(DELETED))
            if gone.num_rows:
                yield self._id_piece(gone, self.count)

    def _changes(self, schema: Any) -> Changes | None:
        told = (schema.metadata or {}).get(KEY.encode())
        if told is None or DELETED not in schema.names or not self._arrow.types.is_boolean(schema.field(DELETED).type):
            return None
        return Changes.parse(told, self.path)

    def _present(self, columns: list[str], items: int) -> Iterator[Any]:
        """The batches, without what a file of changes tells to be gone."""
        if self.changes is None:
            yield from self._batches(columns, items)
            return
        invert = library("pyarrow.compute", self.path, INSTALL).invert
        for batch in self._batches([*columns, DELETED], items):
            there = batch.filter(invert(batch.column(DELETED)))
            if there.num_rows:
                yield there

    def _count_present(self) -> int:
        return sum(batch.num_rows for batch in self._present([], _STEP))

    @abstractmethod
    def _schema(self) -> Any:
        """The schema; opens and checks the file."""

    @abstractmethod
    def _count(self) -> int:
        """Rows in all."""

    @abstractmethod
    def _read(self, columns: list[str], items: int) -> Iterator[Any]:
        """Record batches of the columns, of any size; `items` is wished for."""

    def _batches(self, columns: list[str], items: int) -> Iterator[Any]:
        """Record batches of 1 to `items` rows."""
        with self._readable():
            for batch in self._read(columns, items):
                for start in range(0, batch.num_rows, items):
                    yield batch.slice(start, items)

    def _id_piece(self, batch: Any, start: int) -> U64Array:
        if self._ids is None:
            return np.arange(start, start + batch.num_rows, dtype=np.uint64)
        column = batch.column(self._ids)
        self._no_null(column, self._ids, start)
        return checked_ids(column.to_numpy(), start, self._name(self._ids), self.place)

    def _floats(self, column: Any, start: int) -> npt.NDArray[Any]:
        """[n, dim] of a column of lists."""
        self._no_null(column, self._rows, start)
        if not self._arrow.types.is_fixed_size_list(column.type):
            lengths = library("pyarrow.compute", self.path, INSTALL).list_value_length(column).to_numpy()
            if not np.all(lengths == self.dim):
                at = int(np.argmax(lengths != self.dim))
                raise FileError(
                    f"{self._name(self._rows)}: {self.place(start + at)} has {lengths[at]} elements, and those before "
                    f"it {self.dim}; all rows must have the same"
                )
        values = column.flatten()
        if values.null_count:
            at = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))) // self.dim
            raise FileError(
                f"{self._name(self._rows)}: {self.place(start + at)} has a null in it; rows must be numbers"
            )
        floats: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(len(column), self.dim)
        return floats

    def _no_null(self, column: Any, name: str, start: int) -> None:
        if column.null_count:
            at = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise FileError(f"{self._name(name)} has no value in {self.place(start + at)}; there must be one for each")

    def _ids_name(self, schema: Any, names: Names) -> str:
        name = chosen(self.path, schema.names, names.ids or "ids", "column", "--ids")
        kind = schema.field(name).type
        if not self._arrow.types.is_integer(kind):
            raise FileError(f"{self._name(name)} is of {kind}; ids must be integers, best uint64")
        return name

    def _row_dtype(self, kind: Any) -> str:
        types = self._arrow.types
        lists = types.is_fixed_size_list, types.is_list, types.is_large_list
        if any(is_one(kind) for is_one in lists):
            for is_one, dtype in ((types.is_float16, "f16"), (types.is_float32, "f32"), (types.is_float64, "f32")):
                if is_one(kind.value_type):
                    return dtype
        raise FileError(f"{self._name(self._rows)} is of {kind}; rows must be lists of float32, float16 or float64")

    def _first_length(self) -> int:
        for batch in self._batches([self._rows], 1):
            column = batch.column(self._rows)
            self._no_null(column, self._rows, 0)
            return len(column.flatten())
        raise FileError(f"{self._name(self._rows)} is empty, and its lists have no fixed size: nothing says its dim")

    def _name(self, column: str) -> str:
        return f"`{column}` of {self.path}"

    @contextmanager
    def _readable(self) -> Iterator[None]:
        with unreadable(self.path, self._arrow.ArrowException, OSError, UnicodeDecodeError, form=self.form):
            yield


class ParquetSource(_ArrowSource):
    """The table of a Parquet file."""

    form = "Parquet"

    def _schema(self) -> Any:
        with opened_parquet(self.path) as file:
            return file.schema_arrow

    def _count(self) -> int:
        with opened_parquet(self.path) as file:
            return int(file.metadata.num_rows)

    def _read(self, columns: list[str], items: int) -> Iterator[Any]:
        with opened_parquet(self.path) as file:
            yield from file.iter_batches(batch_size=items, columns=columns, use_threads=False)


@contextmanager
def opened_parquet(path: Path) -> Iterator[Any]:
    """pyarrow's view of a Parquet file, whose damage is a FileError within the block, too."""
    arrow, parquet = library("pyarrow", path, INSTALL), library("pyarrow.parquet", path, INSTALL)
    with (
        unreadable(path, arrow.ArrowException, OSError, UnicodeDecodeError, form="Parquet"),
        parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True) as file,
    ):
        yield file


class _Ipc(_ArrowSource):
    form = "Arrow IPC (Feather)"

    def _schema(self) -> Any:
        with self._opened(None) as reader:
            return reader.schema

    def _count(self) -> int:
        column = self._ids or self._rows
        return sum(batch.num_rows for batch in self._batches([column], _STEP))

    def _read(self, columns: list[str], items: int) -> Iterator[Any]:
        with self._opened(columns) as reader:
            if hasattr(reader, "num_record_batches"):
                for at in range(reader.num_record_batches):
                    batch = reader.get_batch(at)
                    batch.validate(full=True)
                    yield batch
            else:
                for batch in reader:
                    batch.validate(full=True)
                    yield batch

    @contextmanager
    def _opened(self, columns: list[str] | None) -> Iterator[Any]:
        """A reader of a file, or of a stream, of which the columns alone are read."""
        arrow = self._arrow
        with self.path.open("rb") as file:
            opened = arrow.ipc.open_file if file.read(6) == b"ARROW1" else arrow.ipc.open_stream
        with arrow.memory_map(str(self.path)) as mapped:
            if columns is None:
                with opened(mapped) as reader:
                    yield reader
                return
            with opened(mapped) as reader:
                fields = sorted(reader.schema.get_field_index(name) for name in columns)
            mapped.seek(0)
            with opened(mapped, options=arrow.ipc.IpcReadOptions(included_fields=fields)) as reader:
                yield reader


def open_ipc(path: Path, names: Names) -> Source:
    """The table of an Arrow IPC file (Feather 2) or stream."""
    return _Ipc(path, names)
