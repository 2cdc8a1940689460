"""From how many ids on a lookup for the host asks the hot tier first: measured, once, on this machine.

A launch costs tens of microseconds whatever it is asked, and little for each id; host memory costs nothing to ask, and
more for each id. Where they meet depends on both machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from embcache.gpu.device import Device
from embcache.gpu.launcher import Launcher, Ticket
from embcache.gpu.layout import BAGS, COPY, SUM, TILE, form_of
from embcache.gpu.table import GpuTable
from embcache.gpu.tiles import COLUMNS, bags_a_tile, cut, rows_a_tile
from embcache.host import probe
from embcache.host.arena import Arena
from embcache.host.memory import address_of
from embcache.host.pool import SUM as POOL_SUM
from embcache.host.pool import pool_bags
from embcache.host.ring import MASK, private_ring
from embcache.host.rows import F32
from embcache.host.segment import COUNT, LEFT, SEGMENT_COLUMNS
from embcache.host.tables import HostTables

_IDS = 4096
_DIM = 64
_BAG = 16  # ids
_ROUNDS = 5
_VERSION = (1 << 32) - 1
_NEVER = 1 << 62
_LEAST = 256  # ids: below, what is measured is noise


class Crossover(NamedTuple):
    """Ids from which on the hot tier is asked first: for rows, and for bags, of which less comes back."""

    rows: int
    bags: int

    @classmethod
    def at(cls, setting: str | int) -> Crossover | None:
        """A setting's; None for "auto"."""
        return None if isinstance(setting, str) else cls(setting, setting)

    def __str__(self) -> str:
        told = [f"from {count} ids on" if count < _NEVER else "never" for count in self]
        return f"{told[0]} for rows, {told[1]} for bags"


def measure(device: Device, table: GpuTable, launcher: Launcher) -> Crossover:
    """Time both tiers with rows of 256 bytes that both have. The table is empty before, and after."""
    ids = np.random.default_rng(0).integers(0, 2**64, _IDS, dtype=np.uint64)
    ids = np.unique(ids)
    rows = np.zeros((ids.size, 4 * _DIM), np.uint8)
    table.divide({4 * _DIM: ids.size})
    table.insert(_VERSION, ids, rows)
    hot = _Hot(device, table, launcher, ids)
    warm = _Warm(ids, rows)
    few = ids.size // 16
    found = []
    for bags in (False, True):
        least, most = (_time(hot.look_up, count, bags) for count in (few, ids.size))
        a_hot_id = max(0.0, (most - least) / (ids.size - few))
        a_warm_id = _time(warm.look_up, ids.size, bags) / ids.size
        launch = max(0.0, least - few * a_hot_id)
        found.append(max(_LEAST, int(launch / (a_warm_id - a_hot_id))) if a_warm_id > a_hot_id else _NEVER)
    launcher.close()
    table.divide({})
    return Crossover(*found)


def _time(call: Callable[[int, bool], None], count: int, bags: bool) -> float:
    """The least of a few times, in seconds: the first ones wait for compilers and cold memory."""
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        call(count, bags)
        times.append(time.perf_counter() - began)
    return min(times)


class _Hot:
    """Lookups in the device's table."""

    def __init__(self, device: Device, table: GpuTable, launcher: Launcher, ids: np.ndarray) -> None:
        self._launcher = launcher
        self._memory = device.pinned(ids.size * (8 + 4 + 4 + 1 + 1 + 2 * 4 * _DIM))
        self._memory[: 8 * ids.size].view(np.uint64)[:] = ids
        self._size = ids.size
        pool = table.pool_of(4 * _DIM)
        assert pool is not None
        self._pool = pool.index

    def look_up(self, count: int, bags: bool) -> None:
        base, size, row = address_of(self._memory), self._size, 4 * _DIM
        misses, lengths, status, done, out = (base + size * each for each in (8, 12, 16, 17, 18))
        bag_count = count // _BAG if bags else 0
        self._memory[size * 12 : size * 12 + 4 * bag_count].view(np.uint32)[:] = _BAG
        columns = np.zeros((1, COLUMNS), np.int64)
        form = form_of(F32, F32, BAGS if bags else COPY, SUM)
        columns[0] = (
            *(base, out, status, misses, 0, 0, lengths, 0, out + size * row, done),
            *(count, _VERSION, self._pool, _DIM, row, form, bag_count, row),
        )
        tiles = np.empty(count // 32 + bag_count + 1, TILE)
        made = int(cut(columns, rows_a_tile(count), bags_a_tile(count, bag_count), address_of(tiles)))
        ticket = Ticket(tiles[:made], count if bags else 0, self._memory, stored=not bags)
        self._launcher.submit(ticket, 0)
        self._launcher.wait(ticket)


class _Warm:
    """Lookups in an arena of its own."""

    def __init__(self, ids: np.ndarray, rows: np.ndarray) -> None:
        self._tables = HostTables(Arena.create(8 * rows.nbytes), huge_pages=False)
        self._held = self._tables.add(1, rows.shape[1], 4 * rows.nbytes)
        self._held.table.insert(ids, rows)
        self._ring = private_ring()
        self._ids, self._out, self._default = ids, np.empty_like(rows), np.zeros(rows.shape[1], np.uint8)
        self._status, self._misses = np.empty(ids.size, np.uint8), np.empty(ids.size, np.int32)
        self._pooled = np.empty_like(rows)

    def look_up(self, count: int, bags: bool) -> None:
        segments = np.zeros((1, SEGMENT_COLUMNS), np.int64)
        segments[0, :COUNT] = (self._held.entry, 1, 4 * _DIM, address_of(self._default))
        arrays = (self._ids, self._out, self._status, self._misses)
        segments[0, COUNT:LEFT] = (count, *(address_of(array) for array in arrays))
        probe.probe(self._tables.arena.address, segments, self._ring.address, MASK, np.uint64(0))
        if bags:
            lengths = np.full(count // _BAG, _BAG, np.uint32)
            rows, status, out = address_of(self._out), address_of(self._status), address_of(self._pooled)
            pool_bags(F32, _DIM, rows, status, lengths, 0, POOL_SUM, F32, out, 0, 0, 0)
