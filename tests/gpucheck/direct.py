"""Lookups without the host's share: launches that are ready, with ids, rows and statuses in device memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.device import Device, Memory, Stream
from embcache.gpu.layout import CONTROL, COPY, TILE, form_of
from embcache.gpu.tiles import rows_a_tile
from embcache.host.memory import address_of
from tests.gpucheck.check import VERSION, Check
from tests.gpucheck.filled import Filled

WARPS, BLOCKS = 4, 1024  # of the launcher's largest launches
COUNTED = 8 + 32 + 32 + 1  # bytes that must move for an id besides its row, twice: id, digests, slot's sector, status


def tiles_of(filled: Filled, ids: int, out: int, status: int, misses: int, count: int, step: int) -> NDArray[np.void]:
    """A lookup of ids at an address, `step` a tile."""
    first = np.arange(0, count, step)
    tiles = np.zeros(first.size, TILE)
    addresses = (("ids", ids, 8), ("out", out, filled.row_bytes), ("status", status, 1), ("misses", misses, 4))
    for name, base, width in addresses:
        tiles[name] = np.uint64(base) + first.astype(np.uint64) * np.uint64(width)
    tiles["count"], tiles["first"] = np.minimum(step, count - first), first
    tiles["version"], tiles["pool"], tiles["row_bytes"] = VERSION, filled.pool.index, filled.row_bytes
    tiles["form"] = form_of(0, 0, COPY)
    return tiles


class Direct:
    """The same lookups again and again, in turns of one for each set of ids: caches do not know them."""

    def __init__(
        self,
        check: Check,
        filled: Filled,
        sets: Sequence[Memory],
        count: int,
        *,
        step: int = 0,
        warps: int = WARPS,
        blocks: int = BLOCKS,
        device: Device | None = None,
    ) -> None:
        """step: ids of a tile, 0 for the launcher's. device: whose kernels, if not the check's."""
        self._check, self._filled, self._sets, self.count = check, filled, sets, count
        device = device or check.device
        self._scratch = device.allocate(256)
        self.out, self._misses = device.allocate(count * filled.row_bytes), device.allocate(4 * count)
        self._status = device.allocate(count)
        self._kept, self._missed, self._replays = [], [], []
        for tick, ids in enumerate(sets):
            addresses = (ids.address, self.out.address, self._status.address, self._misses.address)
            tiles = tiles_of(filled, *addresses, count, step or rows_a_tile(count))
            memory = device.pinned(CONTROL.itemsize + tiles.nbytes + 4 * tiles.size)
            control = memory[: CONTROL.itemsize].view(CONTROL)
            at = memory[CONTROL.itemsize : CONTROL.itemsize + tiles.nbytes]
            at[:] = tiles.view(np.uint8)
            missed = memory[CONTROL.itemsize + tiles.nbytes :].view(np.uint32)
            control["tiles"], control["missed"] = address_of(at), address_of(missed)
            control["pools"], control["finished"] = filled.table.pools_address, self._scratch.address
            control["tile_count"], control["tick"], control["number"] = tiles.size, tick, 1
            self._kept.append(memory)
            self._missed.append(missed)
            self._replays.append(device.capture("look_up_stored", blocks, 32 * warps, (address_of(memory),)))

    def turn(self, stream: Stream, k: int) -> None:
        """Launch lookup number k."""
        self._replays[k % len(self._replays)](stream)

    def prove(self, stream: Stream, least: int) -> None:
        """Run each once: every id is found, with its row, of this writing or a later one."""
        check, device, pieces = self._check, self._check.device, self._filled.row_bytes // 16
        counts = device.allocate(12)
        for k, ids in enumerate(self._sets):
            device.clear(self.out.address, self.out.nbytes, stream)
            device.clear(self._status.address, self.count, stream)
            device.clear(counts.address, 12, stream)
            self.turn(stream, k)
            arguments = (ids.address, self.count, self._status.address, self.out.address, pieces, least, counts.address)
            check.threads("prove_rows", stream, 32 * self.count, arguments)
            seen, broken, older = check.get(counts.address, 3, np.uint32, stream).tolist()
            missed = int(self._missed[k].sum())
            if (seen, broken, older, missed) != (self.count, 0, 0, 0):
                raise AssertionError(f"of {self.count} ids {missed} missed; {seen} rows, {broken} broken, {older} old")
