"""Receive buffers that are used again once nobody looks into them.

A reply's body is received into memory that earlier replies used: fresh memory for each would cost more in page faults
than the receiving itself. take() lends a buffer as a NumPy array; every array and memoryview cut from that array keeps
it alive, and when the last of them dies, the buffer comes back by itself. What the caller still holds is never written
over; a caller who keeps everything simply keeps the memory.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ALIGNMENT: Final = 64  # bytes: a cache line, and the widest vector
SMALLEST: Final = 4096
LARGEST: Final = 16 << 20  # larger ones are given back to the system
IDLE_BYTES: Final = 16 << 20  # kept idle of each size
IDLE_BUFFERS: Final = 64


class BufferPool:
    """Buffers in powers of two from SMALLEST bytes on. Safe to use from many threads: deques, no locks.

    There must be no lock, because a buffer comes back whenever the collector finds its array dead: at any point, in
    any thread, in the middle of take() too.
    """

    def __init__(
        self, allocate: Callable[[int], memoryview] | None = None, largest: int = LARGEST, idle_bytes: int = IDLE_BYTES
    ) -> None:
        """allocate: makes memory of so many bytes, at a multiple of ALIGNMENT, where it has to be of a special kind.

        largest: larger buffers are given back to the system; idle_bytes: so many are kept idle of each size.
        """
        self._allocate = allocate or _allocate
        self._idle: dict[int, deque[memoryview]] = {}
        self._lent: dict[int, weakref.ref[Any]] = {}
        size = SMALLEST
        while size <= largest:
            self._idle[size] = deque(maxlen=min(IDLE_BUFFERS, idle_bytes // size))
            size *= 2

    def take(self, count: int) -> NDArray[np.uint8]:
        """uint8 [count], aligned to ALIGNMENT, writable, with whatever it held before."""
        size = max(SMALLEST, 1 << (count - 1).bit_length()) if count else SMALLEST
        idle = self._idle.get(size)
        if idle is None:
            return np.frombuffer(self._allocate(count), np.uint8)
        try:
            buffer = idle.pop()
        except IndexError:
            buffer = self._allocate(size)
        # Not a slice of an array: slices of slices point past it, at the array that owns the memory, and would not
        # keep it alive. The base of this one is no array, so that all that is cut from it points at it.
        lease = np.frombuffer(buffer, np.uint8, count)

        def give_back(dead: weakref.ref[Any], key: int = id(buffer)) -> None:
            self._lent.pop(key, None)
            idle.append(buffer)  # a full deque lets its oldest go

        self._lent[id(buffer)] = weakref.ref(lease, give_back)
        return lease

    @property
    def idle_bytes(self) -> int:
        """Bytes that wait for their next use."""
        return sum(size * len(idle) for size, idle in self._idle.items())


def _allocate(size: int) -> memoryview:
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].data
