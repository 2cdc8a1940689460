"""Sorting rows by id in bounded memory: sorted runs in temporary files, merged.

What fits into the budget is sorted in memory and touches no disk. What does not is cut into runs of that size, each
sorted and written; then all runs are merged, a window of each in memory. Of the windows, everything up to the smallest
last id of a window whose run goes on may leave: no run can still bring a smaller one. So each step is a handful of
NumPy calls over many rows. More runs than FAN_IN are merged in several passes, so that windows stay large.
(External merge sort: Knuth, The Art of Computer Programming, vol. 3, 5.4.)
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import numpy as np
import numpy.typing as npt

from embcache_storage.files_source import F32Array, FileError, U64Array

SORT_BYTES: Final = 64 << 20
"""Most memory that sorting takes."""
FAN_IN: Final = 128
_WRITE_BYTES: Final = 4 << 20

Records = npt.NDArray[np.void]
"""[n] of (id uint64, number uint64, row float32 [dim]): number is the row's place in the file, for messages."""


class RepeatedId(Exception):
    """An id stands in two rows: (id, number of the first, number of the second)."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Sorted records in the spool: the first one's place and their number."""

    start: int
    count: int


class RowSorter:
    """Takes rows in any order and gives them by ascending id. A context manager: leaving it deletes what it wrote."""

    def __init__(self, path: Path, dim: int, budget: int = SORT_BYTES, folder: Path | None = None) -> None:
        """path: of the file, for messages. budget: bytes of memory. folder: for temporary files."""
        self._path = path
        self._record = np.dtype([("id", "<u8"), ("number", "<u8"), ("row", "<f4", (dim,))])
        self._folder = folder or temporary_folder()
        # All windows together: while a step is put together, there are they, what follows them, and two steps' records.
        self._window_rows = max(2, budget // 5 // self._record.itemsize)
        self._buffer = np.empty(max(2, budget * 3 // 4 // self._record.itemsize), self._record)
        self._filled = 0
        self._spool: IO[bytes] | None = None
        self._runs: list[_Run] = []

    def add(self, ids: U64Array, first: int, rows: F32Array) -> None:
        """ids [n] and rows [n, dim], numbered `first`, `first` + 1, ... in their file. RepeatedId, FileError."""
        done = 0
        while done < len(ids):
            if self._filled == len(self._buffer):
                self._write_run()
            n = min(len(ids) - done, len(self._buffer) - self._filled)
            place = self._buffer[self._filled : self._filled + n]
            place["id"] = ids[done : done + n]
            place["number"] = np.arange(first + done, first + done + n, dtype=np.uint64)
            place["row"] = rows[done : done + n]
            done += n
            self._filled += n

    def chunks(self, items: int) -> Iterator[tuple[U64Array, F32Array]]:
        """All rows by ascending id, `items` at a time. RepeatedId, FileError. Once only."""
        if self._spool is None:
            records = self._buffer[: self._filled]
            yield from _cut(records, _order(records), items)
            return
        self._write_run()
        self._buffer = np.empty(0, self._record)
        while len(self._runs) > FAN_IN:
            self._merge_some()
        for records, order in self._merged(self._spool, self._runs):
            yield from _cut(records, order, items)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._spool is not None:
            self._spool.close()

    def _write_run(self) -> None:
        records = self._buffer[: self._filled]
        order = _order(records)
        with self._full_disk():
            if self._spool is None:
                self._spool = self._temporary()
            start = self._runs[-1].start + self._runs[-1].count if self._runs else 0
            _write(self._spool, records, order)
        self._runs.append(_Run(start, self._filled))
        self._filled = 0

    def _temporary(self) -> IO[bytes]:
        """A file without a name, which is gone when it is closed, or its process ends."""
        return tempfile.TemporaryFile(dir=self._folder)

    def _merge_some(self) -> None:
        """One pass: each FAN_IN runs become one, in a new spool."""
        assert self._spool is not None
        runs: list[_Run] = []
        start = 0
        with self._full_disk():
            merged = self._temporary()
            try:
                for at in range(0, len(self._runs), FAN_IN):
                    group = self._runs[at : at + FAN_IN]
                    for records, order in self._merged(self._spool, group):
                        _write(merged, records, order)
                    runs.append(_Run(start, sum(run.count for run in group)))
                    start += runs[-1].count
            except BaseException:
                merged.close()
                raise
        self._spool.close()
        self._spool, self._runs = merged, runs

    def _merged(self, spool: IO[bytes], runs: list[_Run]) -> Iterator[tuple[Records, npt.NDArray[np.intp]]]:
        """(records, their order by id): all of one step are before all of the next."""
        spool.flush()
        items = max(1, self._window_rows // len(runs))
        windows = [_Window(spool, run, self._record, items) for run in runs]
        while windows:
            bound = min((window.ids[-1] for window in windows if window.goes_on), default=None)
            records = np.concatenate([window.take(bound) for window in windows])
            yield records, _order(records)
            windows = [window for window in windows if len(window.ids)]

    @contextmanager
    def _full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise FileError(
                f"{self._path}: its ids are not in order, and sorting it filled the disk of {self._folder}; set TMPDIR "
                "to a folder with room for twice the file, or sort the file by id"
            ) from error


class _Window:
    """The records of a run that are in memory, at least one unless the run has ended."""

    def __init__(self, spool: IO[bytes], run: _Run, record: np.dtype[Any], items: int) -> None:
        self._spool, self._record, self._items = spool, record, items
        self._at, self._end = run.start, run.start + run.count
        self._records: Records = np.empty(0, record)
        self.ids: U64Array = np.empty(0, np.uint64)
        self._read()

    @property
    def goes_on(self) -> bool:
        """Whether the run has records behind the window."""
        return self._at < self._end

    def take(self, bound: np.uint64 | None) -> Records:
        """The records whose ids are at most `bound`, or all of them."""
        n = len(self.ids) if bound is None else int(np.searchsorted(self.ids, bound, "right"))
        taken: Records = self._records[:n]
        self.ids, self._records = self.ids[n:], self._records[n:]
        if not len(self.ids):
            self._read()
        return taken

    def _read(self) -> None:
        n = min(self._items, self._end - self._at)
        self._records = np.empty(n, self._record)
        self._spool.seek(self._at * self._record.itemsize)
        if self._spool.readinto(self._records.view(np.uint8).data) != self._records.nbytes:  # type: ignore[attr-defined]
            raise OSError(errno.EIO, "a temporary file is shorter than what was written to it")
        self.ids = np.ascontiguousarray(self._records["id"])
        self._at += n


def temporary_folder() -> Path:
    """Where large temporary files go: TMPDIR, or /var/tmp, which is on a disk where /tmp may be memory."""
    if os.environ.get("TMPDIR") or not os.access("/var/tmp", os.W_OK):
        return Path(tempfile.gettempdir())
    return Path("/var/tmp")


def _order(records: Records) -> npt.NDArray[np.intp]:
    """What sorts records by id. RepeatedId."""
    ids = np.ascontiguousarray(records["id"])
    order = np.argsort(ids)
    ids = ids[order]
    repeated = np.flatnonzero(ids[1:] == ids[:-1])
    if len(repeated):
        at = repeated[0]
        raise RepeatedId(int(ids[at]), *sorted(records["number"][order[at : at + 2]].tolist()))
    return order


def _cut(records: Records, order: npt.NDArray[np.intp], items: int) -> Iterator[tuple[U64Array, F32Array]]:
    for start in range(0, len(order), items):
        piece = records[order[start : start + items]]
        yield np.ascontiguousarray(piece["id"]), np.ascontiguousarray(piece["row"])


def _write(file: IO[bytes], records: Records, order: npt.NDArray[np.intp]) -> None:
    step = max(1, _WRITE_BYTES // records.itemsize)
    for start in range(0, len(order), step):
        file.write(records[order[start : start + step]].view(np.uint8).data)
