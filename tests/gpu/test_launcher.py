"""Launches of lookups: who comes while the device is busy joins the next, and what never ends loses the tier."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from embcache.gpu import launcher as launching
from embcache.gpu.device import DeviceError
from embcache.gpu.emulated.device import EmulatedDevice
from embcache.gpu.launcher import SLOTS, Launcher
from embcache.gpu.table import GpuTable
from tests.gpu.reader import GpuReader

if shutil.which("g++") is None:
    pytest.skip("no g++ to compile the kernels with", allow_module_level=True)

VERSION, ROW_BYTES = 3, 64
IDS = np.arange(100, dtype=np.uint64)
ROWS = np.random.default_rng(0).integers(0, 256, (IDS.size, ROW_BYTES), dtype=np.uint8)


def a_reader(device: EmulatedDevice, window_s: float = 0.0) -> GpuReader:
    launcher = Launcher(device, window_s)
    table = GpuTable(device, 1 << 20, launcher.hold_back)
    table.divide({ROW_BYTES: 1000})
    launcher.start(table.pools_address)
    table.insert(VERSION, IDS, ROWS)
    return GpuReader(device, launcher, table)


def test_lookups_that_come_while_the_device_is_busy_share_a_launch() -> None:
    device = EmulatedDevice()
    reader = a_reader(device)
    device.hang("look_up")
    pending = [reader.begin(VERSION, ROW_BYTES, IDS[turn::3]) for turn in range(9)]
    assert reader.launcher.launches == SLOTS
    device.release()
    for turn, each in enumerate(pending):
        rows, found = reader.finish(each)
        assert found.all()
        np.testing.assert_array_equal(rows, ROWS[turn::3])
    assert reader.launcher.launches == SLOTS + 1
    assert reader.launcher.lookups == 9


def test_an_idle_device_waits_for_others_as_long_as_it_is_told_to() -> None:
    reader = a_reader(EmulatedDevice(), window_s=0.2)
    pending = [reader.begin(VERSION, ROW_BYTES, IDS) for _ in range(4)]
    assert reader.launcher.launches == 0
    assert all(reader.finish(each)[1].all() for each in pending)
    assert reader.launcher.launches == 1


def test_a_launch_that_never_ends_fails_its_lookups_and_keeps_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "LIMIT_S", 0.2)
    device = EmulatedDevice()
    reader = a_reader(device)
    device.hang("look_up")
    pending = [reader.begin(VERSION, ROW_BYTES, IDS) for _ in range(3)]
    for each in pending:
        with pytest.raises(DeviceError, match="did not end within"):
            reader.finish(each)
    assert pending[0].ticket.keep is not None
    assert not reader.launcher.submit(pending[0].ticket)


def test_tiles_for_another_division_of_the_memory_are_not_launched() -> None:
    reader = a_reader(EmulatedDevice())
    pending = reader.begin(VERSION, ROW_BYTES, IDS)  # holds the memory that the ticket lets go of
    ticket = pending.ticket
    reader.launcher.wait(ticket)
    reader.launcher.close()
    assert not reader.launcher.submit(ticket)
    reader.launcher.reopen(1)
    assert not reader.launcher.submit(ticket)
    ticket.done = False
    assert reader.launcher.submit(ticket, 1)
    assert reader.finish(pending)[1].all()
