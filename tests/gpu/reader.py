"""A reader of a GpuTable for tests: it writes its tiles by hand, and asks for rows as they are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.device import Device
from embcache.gpu.launcher import Launcher, Ticket
from embcache.gpu.layout import BYTES, COPY, TILE, form_of
from embcache.gpu.table import GpuTable
from embcache.host.memory import address_of
from embcache.host.segment import HOT

IDS_A_TILE = 96
_UNWRITTEN = 0xEE


class NotTaken(Exception):
    """The launcher is closed, or lost, or serves another division of the memory."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A lookup that was submitted: what it asked for, and where its answer goes."""

    ids: NDArray[np.uint64]
    rows: NDArray[np.uint8]
    status: NDArray[np.uint8]
    misses: NDArray[np.int32]
    ticket: Ticket


class GpuReader:
    """Looks up encoded rows of one table."""

    def __init__(self, device: Device, launcher: Launcher, table: GpuTable) -> None:
        self.device = device
        self.launcher = launcher
        self.table = table

    def lookup(
        self, version: int, row_bytes: int, ids: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """(rows u8 [n, row_bytes], which of the ids were found)."""
        return self.finish(self.begin(version, row_bytes, ids))

    def begin(self, version: int, row_bytes: int, ids: NDArray[np.uint64], division: int = 0) -> Pending:
        """NotTaken where the launcher does not take it."""
        pool = self.table.pool_of(row_bytes)
        assert pool is not None
        ids_at = -(-ids.size * row_bytes // 64) * 64  # behind the rows, which begin at a cache line
        misses_at = ids_at + 8 * ids.size
        status_at = misses_at + 4 * ids.size
        memory = self.device.pinned(status_at + ids.size)
        memory[:] = _UNWRITTEN
        asked = memory[ids_at:misses_at].view(np.uint64)
        asked[:] = ids
        first = np.arange(0, ids.size, IDS_A_TILE)
        tiles = np.zeros(first.size, TILE)
        base = np.uint64(address_of(memory))
        tiles["ids"] = base + ids_at + first * 8
        tiles["out"] = base + first * row_bytes
        tiles["misses"] = base + misses_at + first * 4
        tiles["status"] = base + status_at + first
        tiles["count"] = np.minimum(IDS_A_TILE, ids.size - first)
        tiles["first"], tiles["version"], tiles["pool"], tiles["row_bytes"] = first, version, pool.index, row_bytes
        tiles["form"] = form_of(0, 0, COPY if row_bytes % 16 == 0 else BYTES)
        ticket = Ticket(tiles, 0, memory)
        rows = memory[: ids.size * row_bytes].reshape(ids.size, row_bytes)
        misses = memory[misses_at:status_at].view(np.int32)
        pending = Pending(ids, rows, memory[status_at : status_at + ids.size], misses, ticket)
        if not self.launcher.submit(ticket, division):
            raise NotTaken
        return pending

    def finish(self, pending: Pending) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        self.launcher.wait(pending.ticket)
        found = pending.status == HOT
        assert (pending.status[~found] == _UNWRITTEN).all()
        assert (pending.rows[~found] == _UNWRITTEN).all()
        missed = [
            pending.misses[first : first + count]
            for first, count in zip(range(0, pending.ids.size, IDS_A_TILE), pending.ticket.missed, strict=True)
        ]
        np.testing.assert_array_equal(np.concatenate([np.empty(0, np.int32), *missed]), np.flatnonzero(~found))
        return pending.rows.copy(), found
