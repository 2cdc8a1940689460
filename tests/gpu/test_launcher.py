"""Launches of lookups: who comes while the device is busy joins the next, and what never ends loses the tier."""

from __future__ import annotations

import gc
import linecache
import shutil
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

from embcache.gpu import launcher as launching
from embcache.gpu.device import DeviceError
from embcache.gpu.emulated.device import EmulatedDevice
from embcache.gpu.launcher import SLOTS, Launcher
from embcache.gpu.table import GpuTable
from embcache.host.segment import HOT
from tests.gpu.reader import GpuReader, NotTaken

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


@pytest.mark.parametrize(("limit", "most"), [("MAX_TILES", 5), ("MAX_BAG_IDS", 250)])
def test_a_launch_takes_no_more_than_it_has_room_for(monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    monkeypatch.setattr(launching, limit, most)
    device = EmulatedDevice()
    reader = a_reader(device)
    device.hang("look_up")
    pending = [reader.begin(VERSION, ROW_BYTES, IDS) for _ in range(SLOTS)]
    for _ in range(6):  # two tiles each, or, as it is told here, 100 ids in bags
        pending.append(reader.begin(VERSION, ROW_BYTES, IDS))
        pending[-1].ticket.bag_ids = IDS.size if limit == "MAX_BAG_IDS" else 0
    device.release()
    assert all(reader.finish(each)[1].all() for each in pending)
    assert reader.launcher.launches == SLOTS + 3


def test_numbers_of_launches_may_begin_anew() -> None:
    reader = a_reader(EmulatedDevice())
    reader.launcher._tick = 2**32 - 2
    for slot in reader.launcher._slots:
        slot.number = 2**32 - 3
    for _ in range(10):
        pending = [reader.begin(VERSION, ROW_BYTES, IDS) for _ in range(3)]
        for each in pending:
            rows, found = reader.finish(each)
            assert found.all()
            np.testing.assert_array_equal(rows, ROWS)
    assert {slot.number < 100 for slot in reader.launcher._slots} == {True}


def test_closing_waits_for_lookups_under_way_and_those_in_line() -> None:
    device = EmulatedDevice()
    reader = a_reader(device)
    device.hang("look_up")
    pending = [reader.begin(VERSION, ROW_BYTES, IDS) for _ in range(5)]
    closing = threading.Thread(target=reader.launcher.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    device.release()
    closing.join(60)
    assert all(each.ticket.done for each in pending)
    assert all(reader.finish(each)[1].all() for each in pending)


def test_closing_waits_for_lookups_that_wait_for_others() -> None:
    reader = a_reader(EmulatedDevice(), window_s=0.1)
    pending = reader.begin(VERSION, ROW_BYTES, IDS)
    reader.launcher.close()
    assert pending.ticket.done
    assert reader.finish(pending)[1].all()


def test_lookups_go_on_while_the_memory_is_divided_anew() -> None:
    """Each is answered by the division that it was made for, or refused; none finds a row that is not its own."""
    reader = a_reader(EmulatedDevice())
    launcher, table = reader.launcher, reader.table
    stop, wrong, answered = threading.Event(), list[str](), [0, 0]

    def look_up(place: int) -> None:
        while not stop.is_set() or not answered[place]:
            division = launcher.division
            try:
                pending = reader.begin(VERSION, ROW_BYTES, IDS, division)
            except NotTaken:
                continue
            rows, found = reader.finish(pending)
            answered[place] += 1
            if not (rows[found] == ROWS[found]).all():
                wrong.append("another row")

    threads = [threading.Thread(target=look_up, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for division in range(1, 6):
        launcher.close()
        table.divide({ROW_BYTES: 1000, 32 * division: 500})
        launcher.reopen(division)
        table.insert(VERSION, IDS, ROWS)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert min(answered) > 0
    assert table.check() == IDS.size


def test_a_launch_that_fails_fails_its_lookups_and_all_after_it() -> None:
    device = EmulatedDevice()
    reader = a_reader(device)
    device.fail_next("look_up", "the launch has failed")
    with pytest.raises(DeviceError, match="the launch has failed"):
        reader.finish(reader.begin(VERSION, ROW_BYTES, IDS))
    with pytest.raises(NotTaken):
        reader.begin(VERSION, ROW_BYTES, IDS)
    assert str(reader.launcher.error) == "the launch has failed"


def test_who_waits_is_told_that_the_device_is_lost() -> None:
    device = EmulatedDevice()
    reader = a_reader(device)
    device.hang("look_up")
    pending = [reader.begin(VERSION, ROW_BYTES, IDS) for _ in range(4)]
    told: list[str] = []

    def wait_for(place: int) -> None:
        with pytest.raises(DeviceError) as raised:
            reader.finish(pending[place])
        told.append(str(raised.value))

    threads = [threading.Thread(target=wait_for, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    reader.launcher.lose(DeviceError("it fell off"))
    for thread in threads:
        thread.join(60)
    assert told == ["it fell off"] * 4
    with pytest.raises(DeviceError, match="it fell off"):
        reader.launcher.close()


def test_memory_that_a_lost_device_may_still_write_is_never_given_back() -> None:
    device = EmulatedDevice()
    reader = a_reader(device)
    device.hang("look_up")
    pending = [reader.begin(VERSION, ROW_BYTES, IDS) for _ in range(SLOTS + 1)]
    memory = [weakref.ref(each.ticket.keep) for each in pending]
    reader.launcher.lose(DeviceError("it fell off"))
    del pending
    gc.collect()
    assert [each() is not None for each in memory] == [True] * SLOTS + [False]  # the last one was not launched
    assert not reader.launcher._slots
    assert len(reader.launcher._stranded_slots) == SLOTS  # control blocks and tiles are kept, too
    device.release()
    for ticket in reader.launcher._stranded:
        assert ticket.place is not None
        assert device.wait(ticket.place.event, 60)
        assert isinstance(ticket.keep, np.ndarray)
        assert (ticket.keep[-IDS.size :] == HOT).all()  # the statuses: written late, to where nobody else is


class Interrupt(BaseException):
    """Comes out of nowhere, as a KeyboardInterrupt does."""


def interrupted_at(step: int, call: Callable[[], object]) -> bool:
    """Make a call, and have an exception come before its step-th line of the launcher; -> whether it has so many.

    Not where a `with` block is left: there no signal is looked for, and its lock would stay taken.
    """
    left = [step]

    def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename != launching.__file__:
            return None
        if event == "line" and not linecache.getline(launching.__file__, frame.f_lineno).strip().startswith("with "):
            left[0] -= 1
            if left[0] == 0:
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_exception_out_of_nowhere_costs_the_lookup_that_it_meets_and_no_other() -> None:
    """At every line of a lookup's way through the launcher, with another one in line."""
    reader = a_reader(EmulatedDevice())
    step, came = 0, True
    while came:
        step += 1
        other = reader.begin(VERSION, ROW_BYTES, IDS)
        came = interrupted_at(step, lambda: reader.lookup(VERSION, ROW_BYTES, IDS))
        rows, found = reader.finish(other)
        assert found.all()
        np.testing.assert_array_equal(rows, ROWS)
        assert reader.launcher.error is None
    assert step > 50
    reader.launcher.close()
    assert not reader.launcher._running
