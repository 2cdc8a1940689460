"""Tables that share one memory, looked up together: how many of their rows have to be read, by how it is divided.

The owner's Memory and the kernels of readers and writer, without disk and clock: after each so many lookups the owner
looks at the shares as it does every half minute, and moves rows until all have theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embcache.host import probe
from embcache.host.arena import Arena
from embcache.host.memory import address_of
from embcache.host.ring import MASK, private_ring
from embcache.host.segment import (
    COUNT,
    DEFAULT_ROW,
    ENTRY,
    IDS,
    MISSES,
    OUT,
    ROW_BYTES,
    SEGMENT_COLUMNS,
    STATUS,
    VERSION,
)
from embcache.owner.memory import Memory
from embcache.owner.payoffs import Payoffs
from loadtest.load.zipf import Scatter, Zipf
from loadtest.workloads import U64s


@dataclass(frozen=True, slots=True)
class Asked:
    """A table of so many rows, of which each sample asks for so many ids, by a Zipf distribution."""

    rows: int
    ids: int
    alpha: float


class SharedMemory:
    """Tables in one arena of so many bytes; rows of `row_bytes` bytes."""

    def __init__(self, tables: Sequence[Asked], capacity: int, row_bytes: int, *, by_curve: bool) -> None:
        self._arena = Arena.create(capacity)
        self.memory = Memory(self._arena, huge_pages=False)
        self.memory.fill({number: (row_bytes, table.rows) for number, table in enumerate(tables, 1)})
        self._payoffs = Payoffs(self.memory, move=by_curve)
        self._ring, self._row_bytes, self._tick = private_ring(), row_bytes, 0
        self._default = np.zeros(row_bytes, np.uint8)
        self._loop = asyncio.Runner()

    def close(self) -> None:
        self._loop.close()

    def look_up(self, asked: Sequence[U64s]) -> int:
        """Look up the ids of each table, hear what was hit, put in what was not; -> how many rows had to be read."""
        read = 0
        for number, ids in enumerate(asked, 1):
            missed = np.unique(ids[self._missed(number, ids)])
            region = self.memory.region(number)
            assert region is not None
            if len(missed):
                region.insert(missed, np.zeros((len(missed), self._row_bytes), np.uint8))
            read += len(missed)
        return read

    def look(self) -> bool:
        """What the owner does from time to time; -> whether rows were moved."""
        if not self._payoffs.look():
            return False
        self._loop.run(self._divide())
        return True

    async def _divide(self) -> None:
        watching = asyncio.create_task(self.memory.watch())
        await self.memory.settled()
        watching.cancel()

    def _missed(self, number: int, ids: U64s) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        self._tick += 1
        out, status = np.empty((len(ids), self._row_bytes), np.uint8), np.empty(len(ids), np.uint8)
        misses = np.empty(len(ids), np.int32)
        segments = np.zeros((1, SEGMENT_COLUMNS), np.int64)
        columns = {
            ENTRY: self.memory.entry(number),
            VERSION: number,
            ROW_BYTES: self._row_bytes,
            DEFAULT_ROW: address_of(self._default),
            COUNT: len(ids),
            IDS: address_of(ids),
            OUT: address_of(out),
            STATUS: address_of(status),
            MISSES: address_of(misses),
        }
        for column, value in columns.items():
            segments[0, column] = value
        left = probe.probe(self._arena.address, segments, self._ring.address, MASK, np.uint64(self._tick))
        if not self._ring.silent:
            self.memory.count_use(self._ring.drain())
        return misses[:left]


class Asking:
    """Draws what lookups of `samples` samples ask of each table."""

    def __init__(self, tables: Sequence[Asked], samples: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._draws = [(Zipf(table.rows, table.alpha), Scatter(table.rows, seed), table.ids) for table in tables]
        self._samples = samples

    def lookup(self) -> list[U64s]:
        """u64 [samples x ids] of each table."""
        return [scatter.places(zipf.draw(self._rng, self._samples * ids)) for zipf, scatter, ids in self._draws]
