"""Lookups while a writer updates rows, against the same without it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from embcache.gpu.device import Memory
from embcache.gpu.launcher import Ticket
from embcache.gpu.tiles import rows_a_tile
from loadtest.gpu import measured
from tests.gpucheck.check import VERSION, Check, Lines
from tests.gpucheck.direct import tiles_of
from tests.gpucheck.filled import WRITING, Filled
from tests.gpucheck.writing import DeviceWriter

_ROWS_A_SECOND = 105e6  # so that 100 million come of it
_LEAD_S = 0.1  # of a writer before the first lookup that counts


def measure(check: Check, filled: Filled, sets: list[Memory]) -> Lines:
    """The figures "beside". sets: arrays of ids that are held, which are looked up, and their rows written anew."""
    lookups = _Lookups(check, filled, sets)
    writer = _Writer(check, filled, sets)
    seconds = 0.2 if check.small else 1.0
    lookups.run(seconds)  # what comes first is not counted
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(check.of(4, 1)):
        alone += lookups.run(seconds)
        with writer.at_work():
            beside += lookups.run(seconds)
    p99_alone, p99_beside = (float(np.percentile(took, 99)) for took in (alone, beside))
    ids_alone, ids_beside = (lookups.count * len(took) / sum(took) for took in (alone, beside))
    more = {"ids_per_s": ids_beside, "ids_per_s_alone": ids_alone, "missed_in_flux": lookups.missed}
    yield measured("beside-rate", ids_beside / ids_alone) | more
    yield measured("beside-p99", p99_beside / p99_alone) | {"us": p99_beside * 1e6, "us_alone": p99_alone * 1e6}
    yield measured("beside-writer", writer.rate / 1e6)


class _Lookups:
    """Random ids to rows in device memory through the launcher, one lookup after the other."""

    def __init__(self, check: Check, filled: Filled, sets: list[Memory]) -> None:
        self.count = check.of(1 << 16, 500)
        self.missed = 0
        self._launcher = filled.launcher
        out, status, misses = (check.device.allocate(self.count * size) for size in (filled.row_bytes, 1, 4))
        self._kept = (out, status, misses)
        at = (out.address, status.address, misses.address)
        self._tiles = [
            tiles_of(filled, ids.address + 8 * first, *at, self.count, rows_a_tile(self.count))
            for ids in sets
            for first in range(0, ids.nbytes // 8 - self.count + 1, self.count)
        ]

    def run(self, seconds: float) -> list[float]:
        """What each took, by the host's clock."""
        took: list[float] = []
        end = time.perf_counter() + seconds
        began = time.perf_counter()
        while began < end or not took:
            ticket = Ticket(self._tiles[len(took) % len(self._tiles)], 0, None, stored=True)
            assert self._launcher.submit(ticket), str(self._launcher.error)
            self._launcher.wait(ticket)
            done = time.perf_counter()
            took.append(done - began)
            self.missed += int(ticket.missed.sum())  # rows that the writer had taken just then
            began = time.perf_counter()
        return took


class _Writer:
    """Writes rows anew in the order of embcache/gpu/table.py, so many a second at most."""

    def __init__(self, check: Check, filled: Filled, sets: list[Memory]) -> None:
        self._check, self._filled = check, filled
        self._batch = check.of(1 << 18, 500)
        self._ids = [
            ids.address + 8 * first
            for ids in sets
            for first in range(0, ids.nbytes // 8 - self._batch + 1, self._batch)
        ]
        self._writer = DeviceWriter(check, filled.table, filled.row_bytes, self._batch)
        self._rows = check.device.allocate(filled.row_bytes * self._batch * len(self._ids))
        for place, ids in enumerate(self._ids):
            self._writer.make(ids, self._batch, WRITING, self._rows_of(place))
        check.finish(self._writer.stream)
        self._written, self._seconds = 0, 0.0
        self._stop = threading.Event()
        self._error: BaseException | None = None

    @property
    def rate(self) -> float:
        """Rows that were written a second."""
        return self._written / self._seconds

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While the body runs, a thread writes."""
        self._stop.clear()
        thread = threading.Thread(target=self._write)
        thread.start()
        try:
            time.sleep(_LEAD_S)
            yield
        finally:
            self._stop.set()
            thread.join()
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        began, written = time.perf_counter(), 0
        try:
            while not self._stop.is_set():
                self._change(written // self._batch % len(self._ids))
                written += self._batch
                ahead = written / _ROWS_A_SECOND - (time.perf_counter() - began)
                if ahead > 0:
                    time.sleep(ahead)
        except BaseException as error:
            self._error = error
        self._written += written
        self._seconds += time.perf_counter() - began

    def _change(self, place: int) -> None:
        """One change: taken from the readers, waited for them, written, published."""
        ids = self._ids[place]
        self._writer.invalidate(VERSION, ids, self._batch)
        self._check.finish(self._writer.stream)
        self._filled.launcher.hold_back(self._writer.stream)
        self._writer.write(VERSION, ids, self._batch, self._rows_of(place), fresh=False)
        self._check.finish(self._writer.stream)

    def _rows_of(self, place: int) -> int:
        return self._rows.address + place * self._batch * self._filled.row_bytes
