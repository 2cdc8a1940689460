"""How the hot tier's memory is divided: a pool for each stride of rows, in one piece of device memory.

The division changes where tables of a new stride come. Which set an id stands in depends on how many sets there are, so
a new division begins empty; nothing may be under way while it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embcache.fairness import pour
from embcache.gpu.layout import POOL, SET_BYTES, WAYS, stride_of

MAX_POOLS = 64
MAX_SETS = (1 << 32) // WAYS - 1  # rows are numbered in 32 bits
_ALIGN = 256
_ROOM = 1.25  # sets fill unevenly, and tables grow


@dataclass(frozen=True, slots=True)
class Pool:
    """Where a pool lies: device addresses, sets, bytes from row to row."""

    index: int
    stride: int
    set_count: int
    sets: int
    rows: int

    @property
    def ways(self) -> int:
        """Rows that it has room for."""
        return self.set_count * WAYS

    @property
    def nbytes(self) -> int:
        return self.set_count * set_bytes(self.stride)


def set_bytes(stride: int) -> int:
    """Bytes of a set with its rows."""
    return SET_BYTES + WAYS * stride


def shares(rows: Mapping[int, int], capacity: int) -> dict[int, int]:
    """{stride: bytes} of a capacity, for {row_bytes: rows that tables have}: first what they need, then equal parts."""
    wants: dict[int, int] = {}
    for row_bytes, count in rows.items():
        stride = stride_of(row_bytes)
        sets = int(count * _ROOM) // WAYS + 1
        wants[stride] = wants.get(stride, 0) + sets * set_bytes(stride)
    given = pour(wants, capacity)
    spare = (capacity - sum(given.values())) // max(1, len(given))
    return {stride: share + spare for stride, share in given.items()}


def divide(address: int, capacity: int, rows: Mapping[int, int]) -> dict[int, Pool]:
    """{stride: its pool} in `capacity` bytes at a device address; a pool of a stride that gets no set is left out."""
    pools: dict[int, Pool] = {}
    at, end = -(-address // _ALIGN) * _ALIGN, address + capacity
    for stride, share in sorted(shares(rows, capacity).items())[:MAX_POOLS]:
        count = min(MAX_SETS, (share - 2 * _ALIGN) // set_bytes(stride))
        if count <= 0:
            continue
        sets, at = at, _aligned(at + count * SET_BYTES)
        pools[stride] = Pool(len(pools), stride, count, sets, at)
        at = _aligned(at + count * WAYS * stride)
    assert at <= _aligned(end)
    return pools


def _aligned(address: int) -> int:
    return -(-address // _ALIGN) * _ALIGN


def as_array(pools: Mapping[int, Pool]) -> NDArray[np.void]:
    """The pools as kernels see them: POOL [MAX_POOLS]."""
    array = np.zeros(MAX_POOLS, POOL)
    for pool in pools.values():
        array[pool.index] = (pool.sets, pool.rows, pool.set_count, pool.stride)
    return array
