"""Tables of rows by feature ID, each behind the same few calls, so that one suite says what all of them promise."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.device import Device
from embcache.gpu.launcher import Launcher
from embcache.gpu.table import GpuTable
from embcache.host.arena import Arena
from embcache.host.tables import Held, HostTables, region_bytes
from embcache.hot.opening import open_device
from tests.gpu.reader import GpuReader
from tests.host.reader import Reader

Ids = NDArray[np.uint64]
Rows = NDArray[np.uint8]
VERSION = 7


class Table(Protocol):
    """Encoded rows u8 [n, row_bytes] of ids u64 [n], in versions that have nothing to do with each other."""

    def insert(self, ids: Ids, rows: Rows, version: int = VERSION) -> int:
        """Put rows of distinct ids in; -> how many ids are not in any more for it, or did not come in."""

    def replace(self, ids: Ids, rows: Rows, version: int = VERSION) -> None: ...

    def delete(self, ids: Ids, version: int = VERSION) -> None: ...

    def lookup(self, ids: Ids, version: int = VERSION) -> tuple[Rows, NDArray[np.bool_]]:
        """Rows, and which of the ids were found; the others' rows mean nothing."""

    def check(self) -> int:
        """Audit the table; -> rows held."""

    def counted(self) -> tuple[int, int]:
        """How many rows came in, and how many others pushed out."""


class OnHost:
    """HostTable, read by the readers' kernels."""

    def __init__(self, row_bytes: int, rows: int) -> None:
        self._row_bytes, self._rows = row_bytes, rows
        self._tables = HostTables(Arena.create(1 << 24), huge_pages=False)
        self._reader = Reader(self._tables.arena)

    def insert(self, ids: Ids, rows: Rows, version: int = VERSION) -> int:
        table = self._held(version).table
        before = table.stats().evicted
        table.insert(ids, rows)
        return table.stats().evicted - before

    def replace(self, ids: Ids, rows: Rows, version: int = VERSION) -> None:
        self._held(version).table.replace(ids, rows)

    def delete(self, ids: Ids, version: int = VERSION) -> None:
        self._held(version).table.delete(ids)

    def lookup(self, ids: Ids, version: int = VERSION) -> tuple[Rows, NDArray[np.bool_]]:
        rows, _, left = self._reader.lookup(self._held(version), ids)
        found = np.ones(ids.size, np.bool_)
        found[left] = False
        return rows, found

    def check(self) -> int:
        for held in self._tables:
            held.table.check()
        return sum(len(held.table) for held in self._tables)

    def counted(self) -> tuple[int, int]:
        stats = [held.table.stats() for held in self._tables]
        return sum(each.inserted for each in stats), sum(each.evicted for each in stats)

    def _held(self, version: int) -> Held:
        size = region_bytes(self._row_bytes, self._rows)
        return self._tables.get(version) or self._tables.add(version, self._row_bytes, size)


class OnDevice:
    """GpuTable, read through a launcher."""

    def __init__(self, device: Device, row_bytes: int, rows: int) -> None:
        self._row_bytes = row_bytes
        launcher = Launcher(device)
        capacity = 4096 + 2 * rows * (row_bytes + 64)
        self.table = GpuTable(device, capacity, launcher.hold_back)
        self.table.divide({row_bytes: rows})
        launcher.start(self.table.pools_address)
        self._reader = GpuReader(device, launcher, self.table)

    def insert(self, ids: Ids, rows: Rows, version: int = VERSION) -> int:
        return int(self.table.insert(version, ids, rows).ids.size)

    def replace(self, ids: Ids, rows: Rows, version: int = VERSION) -> None:
        self.table.update(version, ids, rows)

    def delete(self, ids: Ids, version: int = VERSION) -> None:
        self.table.delete(version, self._row_bytes, ids)

    def lookup(self, ids: Ids, version: int = VERSION) -> tuple[Rows, NDArray[np.bool_]]:
        return self._reader.lookup(version, self._row_bytes, ids)

    def check(self) -> int:
        return self.table.check()

    def counted(self) -> tuple[int, int]:
        return self.table.counts.inserted, self.table.counts.evicted


def device_to_test() -> Device:
    """The one that EMBCACHE_TEST_DEVICE names: "emulated", the default, or the number of a GPU."""
    wanted = os.environ.get("EMBCACHE_TEST_DEVICE", "emulated")
    device = open_device("emulated" if wanted == "emulated" else int(wanted))
    assert not isinstance(device, str)
    return device
