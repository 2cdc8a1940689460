"""The arena: one memfd that the owner writes and every reader maps read-only. Head words and heap space.

The file is far larger than its capacity and sparse. Regions stand in it at addresses of their own, and what
is freed is given back to the system at once, so that a region can be replaced by one of another size without
both having to fit side by side within neighbouring space. Readers that still read a freed region find zeros
or another region's bytes, and notice by its directory entry (see probe.py).

Invariant: generation and position are published after what they announce is in place, and read before it.
"""

from __future__ import annotations

import mmap
import os
import weakref

import numpy as np

from embcache.host import layout
from embcache.host.memory import address_of, advise, map_shared, new_memfd, reopened_for_reading
from embcache.host.probe import read_word
from embcache.host.writer import publish

_SPREAD = 8  # bytes of address space for each byte of capacity
_LEAST_SPACE = 1 << 30


class ArenaError(Exception):
    """Not an arena, or one of another layout."""


class Arena:
    """A mapping of an arena. The descriptor given to `adopt` stays the caller's; that of `create` is the arena's."""

    def __init__(self, fd: int, *, writable: bool) -> None:
        self.fd = fd
        self.writable = writable
        self.bytes = map_shared(fd, writable=writable)
        self.address = address_of(self.bytes)
        if self.bytes.size < layout.HEAP or self._word(layout.HEAD_MAGIC) != layout.MAGIC:
            raise ArenaError("this file is not an arena")
        if self._word(layout.HEAD_LAYOUT) != layout.LAYOUT:
            raise ArenaError(f"the arena has layout {self._word(layout.HEAD_LAYOUT)}, this program {layout.LAYOUT}")

    @classmethod
    def create(cls, capacity: int) -> Arena:
        """A new arena for `capacity` bytes of sets and rows, alive, at generation and position 0."""
        space = layout.HEAP + max(_SPREAD * capacity, _LEAST_SPACE)
        fd = new_memfd("embcache-arena", -(-space // layout.PAGE) * layout.PAGE)
        words = map_shared(fd, writable=True)[: layout.HEAD_BYTES].view(np.uint64)
        for offset, value in (
            (layout.HEAD_LAYOUT, layout.LAYOUT),
            (layout.HEAD_SIZE, capacity),
            (layout.HEAD_ALIVE, 1),
            (layout.HEAD_MAGIC, layout.MAGIC),
        ):
            words[offset // 8] = value
        arena = cls(fd, writable=True)
        weakref.finalize(arena, os.close, fd)
        return arena

    @classmethod
    def adopt(cls, fd: int, *, writable: bool) -> Arena:
        """Map an arena that another process created."""
        return cls(fd, writable=writable)

    def readonly_fd(self) -> int:
        """A new descriptor that can only be mapped read-only; the caller closes it."""
        return reopened_for_reading(self.fd)

    @property
    def capacity(self) -> int:
        return self._word(layout.HEAD_SIZE)

    @property
    def alive(self) -> bool:
        """False once the owner has died: nothing may be answered from here any more."""
        return self._word(layout.HEAD_ALIVE) == 1

    @property
    def generation(self) -> int:
        """The catalogue's generation; a reader that knows an older one asks again before it looks up."""
        return self._word(layout.HEAD_GENERATION)

    @property
    def position(self) -> int:
        """The applied position: every lookup that starts now sees everything up to it."""
        return self._word(layout.HEAD_POSITION)

    def kill(self) -> None:
        """Say that the owner is dead. For the process that watches it, before another owner starts."""
        self._publish(layout.HEAD_ALIVE, 0)

    def publish_generation(self, generation: int) -> None:
        self._publish(layout.HEAD_GENERATION, generation)

    def publish_position(self, position: int) -> None:
        self._publish(layout.HEAD_POSITION, position)

    def give_back(self, begin: int, size: int) -> None:
        """Return a freed range of whole pages to the system; it reads as zeros from now on."""
        advise(self.bytes[begin : begin + size], mmap.MADV_REMOVE)

    def _word(self, offset: int) -> int:
        return int(read_word(self.address + offset))

    def _publish(self, offset: int, value: int) -> None:
        publish(self.address + offset, np.uint64(value))
