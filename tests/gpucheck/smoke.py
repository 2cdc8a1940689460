"""Rows come back as they went in, or are reported as gone."""

from __future__ import annotations

import numpy as np

from embcache.gpu.launcher import Launcher
from embcache.gpu.table import GpuTable
from tests.gpu.reader import GpuReader
from tests.gpucheck.check import VERSION, Check, Lines

_CAPACITY = 4 << 20


def run(check: Check) -> Lines:
    device = check.device
    for row_bytes in (4, 12, 64, 72, 256, 512):
        launcher = Launcher(device)
        table = GpuTable(device, _CAPACITY, launcher.hold_back)
        table.divide({row_bytes: _CAPACITY // (row_bytes + 64)})
        launcher.start(table.pools_address)
        ids = np.arange(1, check.of(60_000, 800) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        rows = np.random.default_rng(row_bytes).integers(0, 256, (ids.size, row_bytes), dtype=np.uint8)
        gone = table.insert(VERSION, ids, rows).ids
        got, found = GpuReader(device, launcher, table).lookup(VERSION, row_bytes, ids)
        assert (got[found] == rows[found]).all(), "rows came back as others than went in"
        assert set(ids[~found].tolist()) == set(gone.tolist()), "what is missing is not what was reported as gone"
        assert table.check() == int(found.sum())
        yield {"row_bytes": row_bytes, "held": int(found.sum()), "gone": int(gone.size)}
