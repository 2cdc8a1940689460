"""Sets of ways: which sets an id may stand in, and how one is read while the owner changes it (layout.py).

A set is read between two looks at its stamp. Nothing that was read counts before the second one.
"""

from __future__ import annotations

import numpy as np

from embcache.host.jit import inlined, part
from embcache.host.layout import SET_BYTES, WAYS
from embcache.host.machine import (
    fence_acquire,
    load_acquire,
    load_relaxed,
    lowest_bit,
    match_line,
)

TRIES = 32

# By what an id's hash is multiplied, so that its high half picks the first set, or the second.
FIRST, SECOND = np.uint64(1), np.uint64(0x9E3779B97F4A7C15)

# Parts of a stamp (layout.py), and the bit above all ways.
OCCUPIED = np.uint64(0xFE)
SPILL_ONE = np.uint64(1 << 8)
SPILLED = np.uint64(0xFF00)
CHANGE_ONE = np.uint64(1 << 16)
NO_WAY = np.uint64(1 << (WAYS + 1))

# What a place in a set may turn out to hold.
FOUND, ABSENT, UNKNOWN = 0, 1, 2


@inlined
def hash_id(identifier):
    """Spread an id over 64 bits (Murmur3's finaliser, first half)."""
    h = np.uint64(identifier)
    h = np.uint64((h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD))
    h = np.uint64((h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53))
    return np.uint64(h ^ (h >> np.uint64(33)))


@inlined
def set_of(h, turn, sets):
    """The index of an id's FIRST or SECOND set: a hash's high half scaled to [0, sets), without a division."""
    return np.int64(np.uint64(np.uint64(np.uint64(h * turn) >> np.uint64(32)) * np.uint64(sets)) >> np.uint64(32))


@inlined
def is_even(stamp):
    return (stamp & np.uint64(1)) == np.uint64(0)


@inlined
def has_spilled(stamp):
    return (stamp & SPILLED) != np.uint64(0)


@inlined
def find_way(head, key, stamp):
    """The way of a set that holds `key`, or 7: by a stamp read before, to be checked after."""
    held = np.uint64(match_line(head, key) & stamp & OCCUPIED)
    return np.int64(lowest_bit(np.uint64(held | NO_WAY)) - 1)


@inlined
def _read_set(head, key):
    """Look for an id in a set, again while the owner changes it: (way or 7, stamp); an odd stamp is no answer."""
    for _ in range(TRIES):
        stamp = np.uint64(load_acquire(head))
        if not is_even(stamp):
            continue
        way = find_way(head, key, stamp)
        fence_acquire()
        if np.uint64(load_relaxed(head)) == stamp:
            return way, stamp
    return np.int64(WAYS), np.uint64(1)


@part
def search(key, place):
    """Look for an id with all care, in both its sets and the absent marks: (what, set index, way, stamp)."""
    heads, count, _, _, absent, absent_count = place
    h = hash_id(key)
    index = set_of(h, FIRST, count)
    for turn in range(2):
        way, stamp = _read_set(heads + index * SET_BYTES, key)
        if way < WAYS:
            return FOUND, index, way, stamp
        if not is_even(stamp):
            return UNKNOWN, index, way, stamp
        if turn == 1 or not has_spilled(stamp):
            break
        index = set_of(h, SECOND, count)
    mark, marks = _read_set(absent + set_of(h, FIRST, absent_count) * SET_BYTES, key)
    marked = mark < WAYS and is_even(marks)
    return (ABSENT if marked else UNKNOWN), index, way, stamp
