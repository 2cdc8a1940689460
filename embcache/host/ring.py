"""Use rings: how a reader tells the owner which slots it hit, without either waiting for the other.

A ring is a small memfd that the owner makes for one reader and both map: a head word that counts what was
ever written, then WORDS words, a hit each (sweep.py). The reader's threads claim places by an
atomic add and write over what the owner has not read in time: use is a sample, so losing some of it is
harmless, and so is a word that is read while it is written or that a broken reader made up - the owner
checks every slot against its table before it counts. The third word of the head says how much the owner has read: where
it falls behind, readers note fewer hits (sweep.py).

The second word of the head goes the other way: there the owner says which feed of changed rows this reader may
rely on, 0 for none (owner/feeds.py).
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from embcache.host.memory import address_of, map_shared, new_memfd
from embcache.host.probe import read_word
from embcache.host.sweep import RING_HEAD, RING_HEARD
from embcache.host.writer import publish

WORDS = 1 << 14
BYTES = RING_HEAD + 8 * WORDS
MASK = np.uint64(WORDS - 1)
_FEED = 8  # where the head's second word stands


def new_ring() -> int:
    """A new ring's descriptor; the caller closes it."""
    return new_memfd("embcache-use", BYTES)


class UseRing:
    """One side's mapping of a ring, at `address`, where kernels find it. Descriptors stay the caller's."""

    def __init__(self, fd: int) -> None:
        if os.fstat(fd).st_size != BYTES:
            raise ValueError(f"a use ring has {BYTES} bytes, this file has {os.fstat(fd).st_size}")
        self._bytes = map_shared(fd, writable=True)
        self.address = address_of(self._bytes)
        self._words: NDArray[np.uint64] = self._bytes.view(np.uint64)
        self._read = int(self._words[0])

    @property
    def feed(self) -> int:
        """The feed that this reader may rely on, 0 for none. Look after the arena's position was read, not before."""
        return int(read_word(self.address + _FEED))

    def publish_feed(self, number: int) -> None:
        """Say which feed is valid, before any position that is published afterwards. The owner's side."""
        publish(self.address + _FEED, np.uint64(number))

    @property
    def silent(self) -> bool:
        """Whether nothing was written since the last `drain`. The owner's side."""
        return int(self._words[0]) == self._read

    def drain(self) -> NDArray[np.uint64]:
        """The words that were written since the last call, u64 [n] (reports.py). The owner's side."""
        head = int(self._words[0])  # any u64, if the reader is broken
        count = min((head - self._read) % (1 << 64), WORDS)
        self._read = head
        self._words[RING_HEARD // 8] = head
        places = ((head - count) % WORDS + np.arange(count)) % WORDS
        return self._words[RING_HEAD // 8 :][places]


def private_ring() -> UseRing:
    """A ring that nobody drains, for readers that stand alone (tests, benchmarks)."""
    fd = new_ring()
    try:
        return UseRing(fd)
    finally:
        os.close(fd)
