"""Writing Parquet and Arrow IPC (Feather): a column of ids and a column of lists, as files_arrow.py reads them."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from embcache_storage import files_write
from embcache_storage.files_arrow import INSTALL
from embcache_storage.files_changes import DELETED, KEY, Changes
from embcache_storage.files_source import Names, U64Array, library

_GROUP_BYTES: Final = 32 << 20
"""Of rows in a row group that is written."""


class _ArrowSink(files_write.Sink):
    """A column of uint64 and a column of fixed-size lists of float32, or float16 for a table of that; of changes, a
    column that says which are gone, and null for their rows."""

    def __init__(
        self, target: Path, work: Path, dim: int, dtype: str, names: Names, changes: Changes | None = None
    ) -> None:
        super().__init__(target, work, dim, dtype, names)
        self._changes = changes
        self._arrow = library("pyarrow", target, INSTALL)
        self._kept = files_write.float_dtype(dtype)
        arrow = self._arrow
        kind = arrow.list_(arrow.field("item", arrow.from_numpy_dtype(self._kept), nullable=False), dim)
        fields = [] if names.numbered else [arrow.field(names.ids or "ids", arrow.uint64(), nullable=False)]
        fields.append(arrow.field(names.rows or "rows", kind, nullable=changes is not None))
        if changes is not None:
            fields.append(arrow.field(DELETED, arrow.bool_(), nullable=False))
        self._lists = kind
        self._schema = arrow.schema(fields, None if changes is None else {KEY: changes.to_text()})
        self._whole = work / "whole"
        self._writer = self._opened()

    def write(self, ids: U64Array, rows: npt.NDArray[np.floating[Any]]) -> None:
        arrow = self._arrow
        values = arrow.array(np.ascontiguousarray(rows, self._kept).reshape(-1))
        lists = arrow.FixedSizeListArray.from_arrays(values, type=self._lists)
        columns = [lists] if self.names.numbered else [arrow.array(ids), lists]
        if self._changes is not None:
            columns.append(arrow.array(np.zeros(len(ids), np.bool_)))
        self._append(arrow.RecordBatch.from_arrays(columns, schema=self._schema))

    def delete(self, ids: U64Array) -> None:
        arrow, step = self._arrow, max(1, _GROUP_BYTES // (self._kept.itemsize * self.dim))
        for start in range(0, len(ids), step):  # a null takes as much memory as a row, for as long
            piece = ids[start : start + step]
            gone = arrow.array(np.ones(len(piece), np.bool_))
            columns = [arrow.array(piece), arrow.nulls(len(piece), self._lists), gone]
            self._append(arrow.RecordBatch.from_arrays(columns, schema=self._schema))

    def finish(self) -> Path:
        self._writer.close()
        with self._whole.open("rb") as file:
            os.fsync(file.fileno())
        return self._whole

    def close(self) -> None:
        self._writer.close()

    @abstractmethod
    def _opened(self) -> Any: ...

    def _append(self, batch: Any) -> None:
        self._writer.write_batch(batch)


class ParquetSink(_ArrowSink):
    """Not compressed, since floats hardly are smaller then; with a checksum for each page."""

    def _opened(self) -> Any:
        parquet = library("pyarrow.parquet", self.target, INSTALL)
        return parquet.ParquetWriter(
            self._whole, self._schema, compression="none", use_dictionary=False, write_page_checksum=True
        )

    def _append(self, batch: Any) -> None:
        self._writer.write_batch(batch, row_group_size=max(1, _GROUP_BYTES // (self._kept.itemsize * self.dim)))


class IpcSink(_ArrowSink):
    """An Arrow IPC file, which is Feather 2: a record batch for each piece."""

    def _opened(self) -> Any:
        return self._arrow.ipc.new_file(str(self._whole), self._schema)
