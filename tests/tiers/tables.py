"""Tables of rows by feature ID, each behind the same few calls, so that one suite says what all of them promise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.device import Device
from embcache.gpu.launcher import Launcher
from embcache.gpu.table import GpuTable
from embcache.host.arena import Arena
from embcache.host.tables import HostTables, region_bytes
from tests.gpu.reader import GpuReader
from tests.host.reader import Reader

Ids = NDArray[np.uint64]
Rows = NDArray[np.uint8]
VERSION = 7


class Table(Protocol):
    """Encoded rows u8 [n, row_bytes] of ids u64 [n]."""

    def insert(self, ids: Ids, rows: Rows) -> int:
        """Put rows of distinct ids in; -> how many ids are not in any more for it, or did not come in."""

    def replace(self, ids: Ids, rows: Rows) -> None: ...

    def delete(self, ids: Ids) -> None: ...

    def lookup(self, ids: Ids) -> tuple[Rows, NDArray[np.bool_]]:
        """Rows, and which of the ids were found; the others' rows mean nothing."""

    def check(self) -> int:
        """Audit the table; -> rows held."""


class OnHost:
    """HostTable, read by the readers' kernels."""

    def __init__(self, row_bytes: int, rows: int) -> None:
        self._tables = HostTables(Arena.create(1 << 24), huge_pages=False)
        self._held = self._tables.add(VERSION, row_bytes, region_bytes(row_bytes, rows))
        self._reader = Reader(self._tables.arena)

    def insert(self, ids: Ids, rows: Rows) -> int:
        before = self._held.table.stats().evicted
        self._held.table.insert(ids, rows)
        return self._held.table.stats().evicted - before

    def replace(self, ids: Ids, rows: Rows) -> None:
        self._held.table.replace(ids, rows)

    def delete(self, ids: Ids) -> None:
        self._held.table.delete(ids)

    def lookup(self, ids: Ids) -> tuple[Rows, NDArray[np.bool_]]:
        rows, _, left = self._reader.lookup(self._held, ids)
        found = np.ones(ids.size, np.bool_)
        found[left] = False
        return rows, found

    def check(self) -> int:
        self._held.table.check()
        return len(self._held.table)


class OnDevice:
    """GpuTable, read through a launcher."""

    def __init__(self, device: Device, row_bytes: int, rows: int) -> None:
        self._row_bytes = row_bytes
        launcher = Launcher(device)
        capacity = 4096 + 2 * rows * (row_bytes + 64)
        self._table = GpuTable(device, capacity, launcher.hold_back)
        self._table.divide({row_bytes: rows})
        launcher.start(self._table.pools_address)
        self._reader = GpuReader(device, launcher, self._table)

    def insert(self, ids: Ids, rows: Rows) -> int:
        return int(self._table.insert(VERSION, ids, rows).ids.size)

    def replace(self, ids: Ids, rows: Rows) -> None:
        self._table.update(VERSION, ids, rows)

    def delete(self, ids: Ids) -> None:
        self._table.delete(VERSION, self._row_bytes, ids)

    def lookup(self, ids: Ids) -> tuple[Rows, NDArray[np.bool_]]:
        return self._reader.lookup(VERSION, self._row_bytes, ids)

    def check(self) -> int:
        return self._table.check()


@contextmanager
def a_table(device: Device | None, row_bytes: int, rows: int) -> Iterator[Table]:
    """A table for about so many rows: HostTable for no device."""
    yield OnHost(row_bytes, rows) if device is None else OnDevice(device, row_bytes, rows)
