"""The reader's kernels: find ids in the arena and copy their encoded rows out, without locks and without waiting.

Ids are swept for in their first sets, those that are left in their second ones (sweep.py), and what is still left is
looked for one by one with all care, absent marks included. One call does all segments of a lookup (segment.py).

Invariant: a row counts as found only if its set's stamp was even and the same before the ways were read and
after the row was copied, and if the directory entry was the same before the first and after the last id.
An id counts as absent only under the same proof. Everything else is left to the owner, as a miss.
"""

from __future__ import annotations

import numpy as np

from embcache.host.jit import inlined, kernel
from embcache.host.layout import (
    DIRECTORY,
    ENTRY_ABSENT,
    ENTRY_ABSENT_COUNT,
    ENTRY_BYTES,
    ENTRY_HEADS,
    ENTRY_SET_COUNT,
    ENTRY_SLOTS,
    ENTRY_STRIDE,
    ENTRY_VERSION,
    SET_BYTES,
    WAYS,
)
from embcache.host.machine import (
    fence_acquire,
    load_acquire,
    load_i32,
    load_relaxed,
    load_u64,
    store_i32,
    store_u8,
)
from embcache.host.rows import copy_bytes
from embcache.host.segment import (
    COLD,
    COUNT,
    DEFAULT_ROW,
    ENTRY,
    FAILED,
    IDS,
    LATE,
    LEFT,
    MISSES,
    MISSING,
    OUT,
    ROW_BYTES,
    STATUS,
    VERSION,
    WARM,
)
from embcache.host.sets import ABSENT, TRIES, UNKNOWN, is_even, search
from embcache.host.sweep import NOTE_BYTES, sweep_first, sweep_second


@kernel
def _settle(segment, i, place):
    """Look for the segment's i-th id with all care; -> whether it is answered, by a row or as absent."""
    key, out = np.uint64(load_u64(segment[IDS] + 8 * i)), segment[OUT] + i * segment[ROW_BYTES]
    for _ in range(TRIES):
        what, index, way, stamp = search(key, place)
        if what == UNKNOWN:
            return False
        row = segment[DEFAULT_ROW] if what == ABSENT else np.int64(place[2] + (index * WAYS + way) * place[3])
        copy_bytes(out, row, segment[ROW_BYTES])
        fence_acquire()
        if what == ABSENT or np.uint64(load_relaxed(place[0] + index * SET_BYTES)) == stamp:
            store_u8(segment[STATUS] + i, np.uint8(MISSING if what == ABSENT else WARM))
            return True
    return False


@kernel
def _probe_rows(segment, place, ring, ring_mask, tick, notes):
    """Look up all ids of a segment under one view of its directory entry; -> how many are left."""
    misses = segment[MISSES]
    unsettled = sweep_first(segment, place, ring, ring_mask, tick, notes)
    unsettled = sweep_second(segment, unsettled, place, ring, ring_mask, tick, notes)
    left = np.int64(0)
    for u in range(unsettled):
        i = np.int64(load_i32(misses + 4 * u))
        if not _settle(segment, i, place):
            store_i32(misses + 4 * left, np.int32(i))
            left += 1
    return left


@inlined
def _place(arena, entry):
    """A directory entry's region: (heads, set count, slots, stride, absent sets, absent set count)."""
    return (
        arena + np.int64(load_u64(entry + ENTRY_HEADS)),
        np.int64(load_u64(entry + ENTRY_SET_COUNT)),
        arena + np.int64(load_u64(entry + ENTRY_SLOTS)),
        np.int64(load_u64(entry + ENTRY_STRIDE)),
        arena + np.int64(load_u64(entry + ENTRY_ABSENT)),
        np.int64(load_u64(entry + ENTRY_ABSENT_COUNT)),
    )


@kernel
def _probe_segment(arena, segment, ring, ring_mask, tick, notes):
    """Look up one segment, again if its region was replaced meanwhile; -> how many ids are left."""
    entry = arena + DIRECTORY + segment[ENTRY] * ENTRY_BYTES
    for _ in range(TRIES):
        stamp = np.uint64(load_acquire(entry))
        version = np.int64(load_u64(entry + ENTRY_VERSION))
        place = _place(arena, entry)
        fence_acquire()
        # The fields must be of one region before an address made of them is read.
        if not is_even(stamp) or np.uint64(load_relaxed(entry)) != stamp:
            continue
        if version != segment[VERSION]:
            break
        left = _probe_rows(segment, place, ring, ring_mask, tick, notes)
        fence_acquire()
        if np.uint64(load_relaxed(entry)) == stamp:
            return left
    for i in range(segment[COUNT]):
        store_i32(segment[MISSES] + 4 * i, np.int32(i))
    return segment[COUNT]


@kernel
def probe(arena, segments, ring, ring_mask, tick):
    """Look up all segments in the arena, writing encoded rows and status of what it holds; -> ids left in all.

    arena: address of the mapping. segments: int64 [queries, SEGMENT_COLUMNS]; LEFT is written.
    ring: address of the reader's use ring, of ring_mask + 1 words; tick: any number that changes from call to call.
    """
    noted = np.empty(NOTE_BYTES, np.uint8)
    notes = np.int64(noted.ctypes.data)
    left = np.int64(0)
    for s in range(segments.shape[0]):
        segments[s, LEFT] = _probe_segment(arena, segments[s], ring, ring_mask, tick, notes)
        left += segments[s, LEFT]
    noted[0] = 0  # Numba frees an array after its last use, and an address taken from it is none
    return left


@kernel
def settle_misses(segment, rows, states):
    """Copy what the owner answered for a segment's LEFT ids: encoded rows [left] at an address, states u8 [left].

    States are 0 absent, 1 found, 2 damaged, 4 not answered in time.
    """
    row_bytes = segment[ROW_BYTES]
    for j in range(segment[LEFT]):
        i = np.int64(load_i32(segment[MISSES] + 4 * j))
        state = states[j]
        row = rows + j * row_bytes if state == 1 else segment[DEFAULT_ROW]
        status = COLD if state == 1 else LATE if state == 4 else FAILED if state == 2 else MISSING
        copy_bytes(segment[OUT] + i * row_bytes, row, row_bytes)
        store_u8(segment[STATUS] + i, np.uint8(status))


@kernel
def read_word(address):
    """Load a word of the arena's head, before all that is read because of it."""
    return load_acquire(address)
