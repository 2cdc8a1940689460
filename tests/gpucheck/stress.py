"""No lookup sees a torn row, another id's, or one older than what was invalidated before it began.

Each row proves itself. And the check would notice: a writer that does not wait for lookups must be caught.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from embcache.gpu.device import Stream
from embcache.gpu.launcher import Launcher, Ticket
from embcache.gpu.table import Change, GpuTable
from embcache.gpu.tiles import rows_a_tile
from embcache.host.memory import address_of
from tests.gpucheck.check import VERSION, Check, Line, Lines
from tests.gpucheck.direct import tiles_of
from tests.gpucheck.filled import Filled
from tests.gpucheck.writing import DeviceWriter
from tests.host.proving import ROW_BYTES, proving_rows

_READERS = 2


def run(check: Check) -> Lines:
    seconds = 0.7 if check.small else 8.0
    yield _Scene(check).run("from the host", seconds, _from_the_host)
    yield _Scene(check).run("from the device", seconds, partial(_from_the_device, wait=True))
    without = _Scene(check).run("without the wait", 20.0, partial(_from_the_device, wait=False), until_caught=True)
    yield without
    if not without["broken"] + without["older"]:
        raise AssertionError("a writer that does not wait for lookups was not caught: the stress shows nothing")


class _Scene:
    """A full table, readers of its ids, and a writer of them in this thread."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.filled = Filled(check, ROW_BYTES, check.of(64 << 20, 1 << 18))
        self.count = min(check.of(1 << 17, 256), self.filled.held)
        (self.ids,) = self.filled.pick(self.count)
        self.least = 0  # the writing that was published last
        self._stop = threading.Event()
        self._readers = [_Reader(self) for _ in range(_READERS)]

    @property
    def table(self) -> GpuTable:
        return self.filled.table

    @property
    def launcher(self) -> Launcher:
        return self.filled.launcher

    @property
    def going_on(self) -> bool:
        return not self._stop.is_set()

    def run(
        self, name: str, seconds: float, write: Callable[[_Scene, Callable[[], bool]], int], until_caught: bool = False
    ) -> Line:
        """Write until `seconds` are over, or until something wrong was seen. write(scene, going on) -> writings."""
        end = time.monotonic() + seconds

        def going_on() -> bool:
            caught = until_caught and any(reader.broken + reader.older for reader in self._readers)
            return time.monotonic() < end and not caught and all(reader.error is None for reader in self._readers)

        threads = [threading.Thread(target=reader.run) for reader in self._readers]
        for thread in threads:
            thread.start()
        try:
            writings = write(self, going_on)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        for reader in self._readers:
            if reader.error is not None:
                raise reader.error
        sums = {word: sum(getattr(reader, word) for reader in self._readers) for word in ("seen", "broken", "older")}
        assert sums["seen"] > 0, "no row was seen"
        if not until_caught:
            assert not sums["broken"] + sums["older"], f"{name}: rows torn, of another id, or old: {sums}"
            self.table.check()
        return {"writer": name, "writings": writings, "lookups": sum(r.lookups for r in self._readers), **sums}


class _Reader:
    """Looks all ids up again and again, to rows in host memory: that takes long, so much is under way at a time."""

    def __init__(self, scene: _Scene) -> None:
        device, count = scene.check.device, scene.count
        self._scene = scene
        self._memory = device.pinned(count * (ROW_BYTES + 4 + 1))
        self._status = self._memory[count * (ROW_BYTES + 4) :]
        at = address_of(self._memory)
        self._rows_at, self._status_at = at, at + count * (ROW_BYTES + 4)
        addresses = (self._rows_at, self._status_at, at + count * ROW_BYTES)
        self._tiles = tiles_of(scene.filled, scene.ids.address, *addresses, count, rows_a_tile(count))
        self._counts, self._stream = device.allocate(12), device.stream()
        self._told = device.pinned(12)  # once: to pin memory waits for the device, and nothing would be under way
        self.lookups = self.seen = self.broken = self.older = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while self._scene.going_on:
                self._look_up()
        except BaseException as error:
            self.error = error

    def _look_up(self) -> None:
        check, scene = self._scene.check, self._scene
        self._status[:] = 0
        least = scene.least
        ticket = Ticket(self._tiles, 0, self._memory, stored=True)
        assert scene.launcher.submit(ticket), str(scene.launcher.error)
        scene.launcher.wait(ticket)
        check.device.clear(self._counts.address, 12, self._stream)
        arguments = (scene.ids.address, scene.count, self._status_at, self._rows_at, ROW_BYTES // 16, least)
        check.threads("prove_rows", self._stream, 32 * scene.count, (*arguments, self._counts.address))
        check.device.copy(address_of(self._told), self._counts.address, 12, self._stream)
        check.finish(self._stream)
        seen, broken, older = self._told.view(np.uint32).tolist()
        self.lookups += 1
        self.seen, self.broken, self.older = self.seen + seen, self.broken + broken, self.older + older


def _from_the_host(scene: _Scene, going_on: Callable[[], bool]) -> int:
    """Changes through GpuTable, of all ids, in the pieces in which it takes them."""
    check = scene.check
    ids = check.get(scene.ids.address, scene.count, np.uint64, check.device.stream())
    writing = 1  # what the table was filled with
    while going_on():
        writing += 1
        change = Change(VERSION, ROW_BYTES, ids, proving_rows(ids, writing))
        scene.table.apply([change], partial(setattr, scene, "least", writing))
    return writing


def _from_the_device(scene: _Scene, going_on: Callable[[], bool], *, wait: bool) -> int:
    """Changes from device memory, far more often: of all ids, and now and then of new ones that push others out."""
    device, count = scene.check.device, scene.count
    writer = DeviceWriter(scene.check, scene.table, ROW_BYTES, count)
    rows, new = device.allocate(count * ROW_BYTES), device.allocate(8 * count)
    writing = 1

    def hold_back(stream: Stream) -> None:
        if wait:
            scene.launcher.hold_back(stream)

    while going_on():
        writing += 1
        pushes_out = writing % 16 == 0
        if pushes_out:
            scene.filled.new_ids(count // 8, new.address, writer)
            writer.make(new.address, count // 8, writing, rows.address)
            writer.claim(VERSION, new.address, count // 8)
        else:
            writer.make(scene.ids.address, count, writing, rows.address)
            writer.invalidate(VERSION, scene.ids.address, count)
        scene.check.finish(writer.stream)
        hold_back(writer.stream)
        if pushes_out:
            writer.write(VERSION, new.address, count // 8, rows.address, fresh=True)
        else:
            scene.least = writing
            writer.write(VERSION, scene.ids.address, count, rows.address, fresh=False)
    scene.check.finish(writer.stream)
    return writing
