"""Loading a new version in bulk: sorted table files beside the database, taken in by one call at the end."""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from rocksdict import SstFileWriter

from embcache_storage.cells import CHECKSUM_BYTES, encode_cells
from embcache_storage.rocks_errors import engine_errors
from embcache_storage.rocks_read import keys_of
from embcache_storage.store import StoreError, U8Array, U64Array

_STEP_BYTES: Final = 256 << 10
"""Encoded and written before other threads get the GIL, which the file writer holds."""
_SYNC_BYTES: Final = 16 << 20
"""Sent to the disk at once, without the GIL, so that the writer's own sync at the end of a file, under it, is short."""


class RocksBulkLoad:
    """A BulkLoad into files of a staging folder of its own. `ingest(files, rows)` makes them a version."""

    def __init__(
        self, folder: Path, row_bytes: int, sst_bytes: int, options: Any, ingest: Callable[[list[str], int], None]
    ) -> None:
        self._folder = folder
        self._row_bytes = row_bytes
        self._sst_bytes = sst_bytes
        self._options = options
        self._ingest = ingest
        self._step = max(1, _STEP_BYTES // (row_bytes + CHECKSUM_BYTES))
        self._files: list[str] = []
        self._writer: Any = None
        self._descriptor = -1
        self._synced = 0
        self._last: int | None = None
        self._rows = 0
        self._ended: str | None = None
        folder.mkdir(parents=True)

    @property
    def rows(self) -> int:
        return self._rows

    def add(self, ids: U64Array, rows: U8Array) -> None:
        self._check_open()
        try:
            self._check(ids, rows)
            with engine_errors("cannot write rows of a bulk load"):
                for start in range(0, len(ids), self._step):
                    self._write(ids[start : start + self._step], rows[start : start + self._step])
        except BaseException:
            self._ended = "failed"
            raise

    def commit(self) -> int:
        self._check_open()
        self._ended = "failed"
        with engine_errors("cannot commit a bulk load"):
            self._finish_file()
            self._ingest(self._files, self._rows)
        self._ended = "was committed"
        self._clean()
        return self._rows

    def abort(self) -> None:
        if self._ended not in ("was committed", "was aborted"):
            self._ended = "was aborted"
            self._clean()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise StoreError(f"the bulk load {self._ended}; begin another")

    def _check(self, ids: U64Array, rows: U8Array) -> None:
        """ValueError unless rows fit the ids and ids ascend, also after those of earlier calls."""
        if ids.dtype != np.uint64 or ids.ndim != 1:
            raise ValueError(f"ids must be uint64 [n], not {ids.dtype} {list(ids.shape)}")
        if rows.dtype != np.uint8 or rows.shape != (len(ids), self._row_bytes):
            wanted = [len(ids), self._row_bytes]
            raise ValueError(f"rows must be uint8 {wanted}, not {rows.dtype} {list(rows.shape)}")
        if not len(ids):
            return
        if self._last is not None and int(ids[0]) <= self._last:
            raise ValueError(f"ids must ascend over all calls: id {ids[0]} comes after id {self._last}")
        descents = np.flatnonzero(ids[1:] <= ids[:-1])
        if len(descents):
            at = int(descents[0])
            raise ValueError(f"ids must ascend strictly: id {ids[at + 1]}, at index {at + 1}, comes after id {ids[at]}")
        self._last = int(ids[-1])

    def _write(self, ids: U64Array, rows: U8Array) -> None:
        if self._writer is None:
            self._begin_file()
        ids = np.ascontiguousarray(ids)
        cells = encode_cells(ids, np.ascontiguousarray(rows))
        values = cells.view(f"V{cells.shape[1]}").ravel().tolist()
        deque(map(self._writer.__setitem__, keys_of(ids), values), maxlen=0)
        self._rows += len(ids)
        time.sleep(0)  # lets other threads have the GIL
        size = self._writer.file_size()
        if size - self._synced >= _SYNC_BYTES:
            os.fdatasync(self._descriptor)
            self._synced = size
        if size >= self._sst_bytes:
            self._finish_file()

    def _begin_file(self) -> None:
        path = str(self._folder / f"{len(self._files):06}.sst")
        self._writer = SstFileWriter(self._options)
        self._writer.open(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._synced = 0
        self._files.append(path)

    def _finish_file(self) -> None:
        if self._writer is None:
            return
        os.fdatasync(self._descriptor)
        self._writer.finish()
        self._drop_writer()

    def _drop_writer(self) -> None:
        self._writer = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _clean(self) -> None:
        self._drop_writer()
        shutil.rmtree(self._folder, ignore_errors=True)
