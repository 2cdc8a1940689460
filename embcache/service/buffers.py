"""Memory for replies, used again and again: a new array for each reply spends most of its time in page faults.

Invariant: a buffer is lent to one reply at a time, and comes back only once nobody reads it any more. What cannot be
known to be unread (a connection that broke while sending) is dropped, never given back. Buffers have a power-of-two
size and are anonymous maps, or pinned memory where there is a GPU that writes rows into them; their memory returns to
the system as soon as they are dropped. For one event loop: no locks.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from embcache.errors import Overloaded, TooLarge
from embcache.gpu.device import DeviceError

SMALLEST = 64 << 10
_RETRY_AFTER_MS = 50


class Buffer:
    """`array` u8[capacity] and `view`, the same bytes as a memoryview; both begin at a page's start, or a cache line's.

    pinned: whether a GPU reaches it.
    """

    __slots__ = ("array", "pinned", "view")

    def __init__(self, view: memoryview, pinned: bool) -> None:
        self.view = view
        self.pinned = pinned
        self.array: NDArray[np.uint8] = np.frombuffer(self.view, np.uint8)

    @property
    def capacity(self) -> int:
        return self.array.size


class BufferPool:
    """Lends buffers, at most `limit` bytes of them at once, and keeps those that came back for the next replies.

    `trim`, called every now and then, gives back what was not needed since the last call.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pin: Callable[[int], memoryview] | None = None
        self.lent = 0  # bytes
        self.kept = 0  # bytes
        self._free: dict[int, list[Buffer]] = {}
        self._idle: dict[int, int] = {}  # the fewest free buffers of a size since the last trim

    def pin(self, allocate: Callable[[int], memoryview]) -> None:
        """From now on make buffers that a GPU reaches, by `allocate(bytes)`."""
        self._pin = allocate
        self.kept = 0
        self._free.clear()
        self._idle.clear()

    def take(self, size: int) -> Buffer:
        """A buffer of at least `size` bytes, with whatever it held before.

        Raises TooLarge for more than the pool may ever lend, Overloaded where too much is lent already.
        """
        capacity = max(SMALLEST, 1 << (size - 1).bit_length())
        if capacity > self.limit:
            raise TooLarge(
                f"the reply would take {size} bytes, more than server.reply_pool ({self.limit}) has: split the request",
                {"reply_bytes": size, "limit": self.limit},
            )
        if self.lent + capacity > self.limit:
            raise Overloaded(
                f"replies under way hold {self.lent} bytes of the {self.limit} of server.reply_pool: try again",
                {"retry_after_ms": _RETRY_AFTER_MS},
            )
        free = self._free.get(capacity)
        if not free:
            self._make_room(capacity)
            self._idle[capacity] = 0
            self.lent += capacity
            return self._made(capacity)
        buffer = free.pop()
        self._idle[capacity] = min(self._idle[capacity], len(free))
        self.kept -= capacity
        self.lent += capacity
        return buffer

    def give(self, buffer: Buffer) -> None:
        """Takes back a buffer that nobody reads or writes any more."""
        self.lent -= buffer.capacity
        self.kept += buffer.capacity
        self._free.setdefault(buffer.capacity, []).append(buffer)

    def drop(self, buffer: Buffer) -> None:
        """Forgets a buffer that somebody may still read; its memory goes when the last of them lets go."""
        self.lent -= buffer.capacity

    def settle(self, buffer: Buffer, free: bool) -> None:
        """`give` or `drop`."""
        (self.give if free else self.drop)(buffer)

    def trim(self) -> None:
        """Gives back the memory of buffers that lay unused since the last call."""
        for capacity, free in self._free.items():
            del free[: self._idle[capacity]]  # the oldest; the newest are warm in the CPU's cache
            self._idle[capacity] = len(free)
        self.kept = sum(capacity * len(free) for capacity, free in self._free.items())

    def _made(self, capacity: int) -> Buffer:
        if self._pin is not None:
            try:
                return Buffer(self._pin(capacity), pinned=True)
            except DeviceError:  # it is gone, and so is the hot tier
                self._pin = None
        return Buffer(memoryview(mmap.mmap(-1, capacity)), pinned=False)

    def _make_room(self, needed: int) -> None:
        """Frees kept buffers, the largest first, until `needed` bytes more stay within the limit."""
        for capacity in sorted(self._free, reverse=True):
            free = self._free[capacity]
            while free and self.lent + self.kept + needed > self.limit:
                free.pop()
                self.kept -= capacity
            self._idle[capacity] = min(self._idle[capacity], len(free))
