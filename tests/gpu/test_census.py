"""How many rows of each table version are in: counted on the device, against what was put in and taken out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.gpu.sanitized import no_compiler

if no_compiler():
    pytest.skip(str(no_compiler()), allow_module_level=True)

from embcache.gpu.emulated.device import EmulatedDevice
from embcache.gpu.launcher import Launcher
from embcache.gpu.table import GpuTable


def test_rows_are_counted_by_version_over_all_widths() -> None:
    device = EmulatedDevice(threaded=False)
    launcher = Launcher(device)
    table = GpuTable(device, 1 << 20, launcher.hold_back)
    table.divide({16: 2000, 72: 2000})
    launcher.start(table.pools_address)
    chance, held = np.random.default_rng(0), Counter[int]()
    for version in (1, 2, 5, 2**31, 2**32 - 1):
        row_bytes, ids = (16, 72)[version % 2], np.arange(chance.integers(1, 300), dtype=np.uint64)
        gone = table.insert(version, ids, np.zeros((ids.size, row_bytes), np.uint8))
        held[version] += ids.size
        held.subtract(gone.versions.tolist())
        table.delete(version, row_bytes, ids[: ids.size // 3])
        held[version] -= ids.size // 3 - int(np.isin(gone.ids[gone.versions == version], ids[: ids.size // 3]).sum())
    asked = np.array([0, 1, 2, 3, 5, 6, 2**31, 2**32 - 1], np.uint32)
    assert table.census(asked).tolist() == [held[version] for version in asked.tolist()]
    assert table.census(asked[:0]).size == 0
    assert table.check() == sum(held.values())


def test_more_versions_than_are_counted_at_once() -> None:
    device = EmulatedDevice(threaded=False)
    launcher = Launcher(device)
    table = GpuTable(device, 1 << 20, launcher.hold_back)
    table.divide({16: 4000})
    launcher.start(table.pools_address)
    versions = np.arange(1, 1500, dtype=np.uint32)
    for version in (1, 1000, 1025, 1499):
        table.insert(version, np.arange(version % 7 + 1, dtype=np.uint64), np.zeros((version % 7 + 1, 16), np.uint8))
    counts = table.census(versions)
    assert {int(version): int(count) for version, count in zip(versions, counts, strict=True) if count} == {
        version: version % 7 + 1 for version in (1, 1000, 1025, 1499)
    }
