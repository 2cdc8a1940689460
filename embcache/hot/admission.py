"""Which ids may move up: all that were missed while there is time to bring them up, else those asked for most lately.

The table itself keeps rows that are seen once from pushing out rows in use (gpu/kernels/queues.cu). What is chosen here
is how to spend the bytes that may move: the longer the line of ids that wait, the more often an id must have been asked
for to join it. How often is told by a sketch of counts, compiled; no object for an id.

Counts stand in two rows of small counters, of which the lesser is believed (count-min, Cormode and Muthukrishnan,
2005); all are halved every now and then, so that only what is asked for now counts (TinyLFU, Einziger et al., 2017).
Several threads may count at once: what is lost then is noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embcache.host.jit import kernel
from embcache.host.sets import hash_id

_COUNTERS = 1 << 20  # of each row
_MOST = np.uint8(15)
_HALVE_AFTER = 8 * _COUNTERS  # ids counted
_LINE = 1 << 14  # ids that wait, from which on not every one joins them
_MOST_TIMES = 4  # that are asked for, however long the line is
_MASK = np.uint64(_COUNTERS - 1)


@kernel
def count_and_pick(counters, version, ids, picked, enough):
    """Count ids u64 [n] of a table version in counters u8 [2, c]; -> how many of them were asked for so often.

    picked: u64 [n], whose first places get those ids.
    """
    found, of_version = 0, hash_id(np.uint64(version))
    for i in range(ids.shape[0]):
        h = hash_id(ids[i] ^ of_version)
        first, second = np.int64(h & _MASK), np.int64((h >> np.uint64(32)) & _MASK)
        if counters[0, first] < _MOST:
            counters[0, first] += np.uint8(1)
        if counters[1, second] < _MOST:
            counters[1, second] += np.uint8(1)
        if min(counters[0, first], counters[1, second]) >= enough:
            picked[found] = ids[i]
            found += 1
    return found


def enough(waiting: int) -> int:
    """How often an id must have been asked for where so many wait: once, and more with each doubling of the line."""
    return min(_MOST_TIMES, 1 + (waiting // _LINE).bit_length())


class Admission:
    """Counts what lookups asked for, and picks what is worth a place in the hot tier."""

    def __init__(self) -> None:
        self._counters = np.zeros((2, _COUNTERS), np.uint8)
        self._counted = 0

    def pick(self, version: int, ids: NDArray[np.uint64], enough: int) -> NDArray[np.uint64]:
        """Of ids u64 [n] that were just answered from below, those that were asked for so often, this time included."""
        picked = np.empty(ids.size, np.uint64)
        found = count_and_pick(self._counters, version, ids, picked, enough)
        self._counted += ids.size
        if self._counted >= _HALVE_AFTER:
            self._counted = 0
            self._counters >>= 1
        return picked[:found]
