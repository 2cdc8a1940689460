"""Changes of rows as GpuTable makes them (its steps, its kernels), their ids and rows in device memory.

GpuTable takes them from pinned memory, as the service has them. What the device itself can do shows without that.
"""

from __future__ import annotations

from embcache.gpu.device import Stream
from embcache.gpu.layout import ESTABLISHED, SLOT_BYTES, WAYS
from embcache.gpu.table import GpuTable
from tests.gpucheck.check import Check


class DeviceWriter:
    """For rows of one width of one table. Whoever calls it keeps the order that embcache/gpu/table.py begins with."""

    def __init__(self, check: Check, table: GpuTable, row_bytes: int, most: int) -> None:
        """most: ids of one change."""
        pool = table.pool_of(row_bytes)
        assert pool is not None
        self._check, self._table, self._pool, self._row_bytes = check, table, pool, row_bytes
        self._numbers = check.device.allocate(4 * most)
        self._said = check.device.allocate(SLOT_BYTES * most)
        self.stream: Stream = check.device.stream()

    @property
    def said(self) -> int:
        """Where `claim` tells what became of each id, u32 [most, 4]."""
        return self._said.address

    def make(self, ids: int, count: int, writing: int, rows: int) -> None:
        """Rows that prove themselves, of the ids at an address, to another one."""
        pieces = self._row_bytes // 16
        self._check.threads("make_rows", self.stream, count * pieces, (ids, count, writing, rows, pieces))

    def claim(self, version: int, ids: int, count: int, *, in_use: bool = False) -> None:
        """Step 1 of rows that come in. in_use: whether they are known to be, and so begin in the main queue."""
        self._launch("claim", version, ids, count, WAYS, self._said.address, ESTABLISHED if in_use else 0)

    def invalidate(self, version: int, ids: int, count: int) -> None:
        """Step 1 of rows that are written anew in place."""
        self._launch("invalidate", version, ids, count, 1)

    def write(self, version: int, ids: int, count: int, rows: int, *, fresh: bool) -> None:
        """Step 4, of rows without gaps at an address."""
        self._launch("write_rows", version, ids, count, WAYS, rows, self._row_bytes, self._row_bytes, 0)
        self._launch("publish", version, ids, count, 1, int(fresh))

    def _launch(self, kernel: str, version: int, ids: int, count: int, lanes: int, *more: int) -> None:
        arguments = (self._table.pools_address, self._pool.index, ids, version, count, self._numbers.address, *more)
        self._check.threads(kernel, self.stream, count * lanes, arguments)
