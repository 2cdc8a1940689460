"""A full table of rows that prove themselves, filled by the device: from the host it would take minutes."""

from __future__ import annotations

import numpy as np

from embcache.gpu.device import Memory
from embcache.gpu.launcher import Launcher
from embcache.gpu.layout import SLOT_BYTES
from embcache.gpu.table import GpuTable
from tests.gpucheck.check import VERSION, Check, distinct
from tests.gpucheck.writing import DeviceWriter

_OVER = 1.6  # rows put in for each that there is room for: then next to no set has an empty way
_BATCH_BYTES = 1 << 30
WRITING = 1


class Filled:
    """`table` holds rows of one width in `capacity` bytes, of version VERSION and writing WRITING."""

    def __init__(self, check: Check, row_bytes: int, capacity: int, over: float = _OVER) -> None:
        self._check = check
        self.row_bytes = row_bytes
        self.launcher = Launcher(check.device)
        self.table = GpuTable(check.device, capacity, self.launcher.hold_back)
        self.table.divide({row_bytes: capacity // row_bytes})
        pool = self.table.pool_of(row_bytes)
        assert pool is not None
        self.pool = pool
        self.launcher.start(self.table.pools_address)
        self.made = 0  # ids: later ones are new
        self._fill(int(over * pool.ways))
        self._listed = check.device.allocate(SLOT_BYTES * pool.ways)
        self.held = int(self.table.audit(pool, self._listed)[0])
        assert self.table.check() == self.held

    @property
    def full(self) -> float:
        """The share of its ways that hold a row."""
        return self.held / self.pool.ways

    def pick(self, count: int, sets: int = 1) -> list[Memory]:
        """`sets` arrays of `count` ids that are held, in device memory, no id twice; before anything else comes in."""
        device, stream = self._check.device, self._check.device.stream()
        places = distinct(np.random.default_rng(1), self.held, count * sets)
        picked = []
        for chosen in np.split(places, sets):
            at, ids = self._check.put(chosen, stream), device.allocate(8 * count)
            self._check.threads("pick_ids", stream, count, (self._listed.address, at.address, count, ids.address))
            self._check.finish(stream)
            picked.append(ids)
        return picked

    def new_ids(self, count: int, at: int, writer: DeviceWriter) -> None:
        """Write ids that never were in the table to an address, on the writer's stream."""
        self._check.threads("make_ids", writer.stream, count, (at, self.made, count))
        self.made += count

    def _fill(self, count: int) -> None:
        batch = min(count, max(1024, _BATCH_BYTES // (self.row_bytes + 64)))
        device, writer = self._check.device, DeviceWriter(self._check, self.table, self.row_bytes, batch)
        ids, rows = device.allocate(8 * batch), device.allocate(self.row_bytes * batch)
        while self.made < count:
            here = min(batch, count - self.made)
            self.new_ids(here, ids.address, writer)
            writer.make(ids.address, here, WRITING, rows.address)
            writer.claim(VERSION, ids.address, here)
            writer.write(VERSION, ids.address, here, rows.address, fresh=True)
            self._check.finish(writer.stream)
