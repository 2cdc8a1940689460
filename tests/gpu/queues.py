"""A table of a few sets, played with at random beside a naive one that says which rows stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.emulated.device import EmulatedDevice
from embcache.gpu.launcher import Launcher
from embcache.gpu.layout import HEADER_BYTES, MOST_USE, SET_BYTES, SLOT_BYTES, WAYS
from embcache.gpu.table import GpuTable
from embcache.host.memory import address_of
from tests.gpu.naive_queues import Key, NaiveQueues, set_of
from tests.gpu.reader import GpuReader

ROW_BYTES = 32
Ids = NDArray[np.uint64]
Make = Callable[..., EmulatedDevice]


class Scene:
    """A table of some sets, and what it holds, told without a lookup, which would be a hit."""

    def __init__(self, sets: int, seed: int = 0, make: Make = EmulatedDevice) -> None:
        self._device = make(threaded=False, seed=seed, stale_l1=True)
        launcher = Launcher(self._device)
        self.table = GpuTable(self._device, sets * (SET_BYTES + WAYS * ROW_BYTES) + 512, launcher.hold_back)
        self.table.divide({ROW_BYTES: sets * WAYS})
        launcher.start(self.table.pools_address)
        self.reader = GpuReader(self._device, launcher, self.table)
        pool = self.table.pool_of(ROW_BYTES)
        assert pool is not None
        assert pool.set_count == sets
        self._pool = pool
        self._copied = self._device.pinned(sets * SET_BYTES)
        self._stream, self._event = self._device.stream(), self._device.event()

    def sets(self) -> NDArray[np.uint8]:
        """The sets as they stand in memory, u8 [sets, SET_BYTES]."""
        size = self._copied.size
        self._device.copy(address_of(self._copied), self._pool.sets, size, self._stream)
        self._device.record(self._event, self._stream)
        assert self._device.wait(self._event, 60)
        return self._copied.reshape(-1, SET_BYTES)

    def put_back(self) -> None:
        """Write what `sets` gave out over the table's."""
        self._device.copy(self._pool.sets, address_of(self._copied), self._copied.size, self._stream)
        self._device.record(self._event, self._stream)
        assert self._device.wait(self._event, 60)

    def held(self) -> dict[Key, int]:
        """The use of each row."""
        sets = self.sets()
        digests, use = sets[:, :WAYS], sets[:, WAYS : 2 * WAYS]
        slots = np.ascontiguousarray(sets[:, HEADER_BYTES : HEADER_BYTES + WAYS * SLOT_BYTES]).view(np.uint32)
        slots = slots.reshape(-1, WAYS, 4)
        return {
            (int(slots[index, way, 2]), int(slots[index, way, 0]) | int(slots[index, way, 1]) << 32): int(
                use[index, way]
            )
            for index, way in zip(*np.nonzero(digests), strict=True)
        }

    def insert(self, version: int, ids: Sequence[int] | Ids, **how: Any) -> None:
        here = np.array(ids, np.uint64)
        self.table.insert(version, here, np.zeros((here.size, ROW_BYTES), np.uint8), **how)


def apart(ids: Ids, version: int, sets: int) -> Iterator[Ids]:
    """Distinct ids in groups, in order, no two of one set in a group: nobody says who of them would come first."""
    left = ids.tolist()
    while left:
        group: dict[int, int] = {}
        for each in left:
            group.setdefault(set_of((version, each), sets), each)
        yield np.array(list(group.values()), np.uint64)
        left = [each for each in left if each not in group.values()]


def play(seed: int, make: Make = EmulatedDevice, *, steps: int = 150, sets: int = 2) -> None:
    """Random accesses to a table and to a naive one: after each step both hold the same, in use as much."""
    choose = np.random.default_rng(seed)
    scene, naive = Scene(sets, seed, make), NaiveQueues(sets)
    for _ in range(steps):
        version = int(choose.integers(1, 3))
        ids = np.unique(np.minimum(choose.zipf(1.3, choose.integers(1, 24)), 150)).astype(np.uint64)
        asked = [(version, each) for each in ids.tolist()]
        what, how = choose.random(), dict[str, Any]()
        if what < 0.75:  # a lookup, and then what it missed comes in
            _, found = scene.reader.lookup(version, ROW_BYTES, ids)
            for key in asked:
                naive.hit(key)
            ids = ids[~found]
        elif what < 0.9:
            how |= {"keep": bool(choose.random() < 0.7), "pinned": bool(choose.random() < 0.1)}
            if choose.random() < 0.3:
                how["use"] = int(choose.integers(0, MOST_USE + 1))
        else:
            scene.table.delete(version, ROW_BYTES, ids[:3])
            for key in asked[:3]:
                naive.delete(key)
            continue
        for group in apart(ids, version, sets):
            scene.insert(version, group, **how)
            for each in group.tolist():
                naive.insert((version, each), **how)
        held = scene.held()
        if held != naive.held():
            raise AssertionError(f"other rows: {held.items() ^ naive.held().items()}")
    scene.table.check()
