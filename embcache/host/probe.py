"""The reader's kernels: find ids in the arena and copy their encoded rows out, without locks and without waiting.

Ids are swept for in their first sets, those that are left in their second ones (sweep.py), and what is still left is
looked for one by one with all care, absent marks included. One call does all segments of a lookup (segment.py). Another
tier may have answered some of the ids before (`settle_found`); then only those that it left are looked for.

Invariant: a row counts as found only if its set's stamp was even and the same before the ways were read and
after the row was copied, and if the directory entry was the same before the first and after the last id.
An id counts as absent only under the same proof. Everything else is left to the owner, as a miss.
Until that is proved, a segment's list of ids holds all of them (sweep.py): what a region that is gone seemed to answer
is asked for again. OUT and STATUS mean nothing at places that are left, nor do results that are not done.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embcache.host.express import TILE_BYTES, begin_of, forget_all, tile_from
from embcache.host.jit import inlined, kernel, merged, part
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
    HEAD_ALIVE,
    HEAD_GENERATION,
    HEAD_POSITION,
    SET_BYTES,
    WAYS,
)
from embcache.host.machine import (
    call_at,
    copy_bytes,
    fence_acquire,
    load_acquire,
    load_i32,
    load_i64,
    load_relaxed,
    load_u64,
    store_i32,
    store_i64,
    store_u8,
)
from embcache.host.segment import (
    COLD,
    COUNT,
    DEFAULT_ROW,
    ENTRY,
    EXPRESS,
    FAILED,
    FORM,
    IDS,
    KEPT,
    LATE,
    LEFT,
    MISSES,
    MISSING,
    NO_STATUS,
    OUT,
    ROW_BYTES,
    STATUS,
    UNITS,
    VERSION,
    WARM,
)
from embcache.host.sets import ABSENT, FIRST, SECOND, TRIES, UNKNOWN, is_even, search
from embcache.host.sweep import NOTE_BYTES, keep_in_list, sweep_first, sweep_listed

Segments = NDArray[np.int64]


@part
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


@part
def _probe_rows(listed, segment, place, ring, ring_mask, tick, notes):
    """Look up a segment's ids under one view of its directory entry; -> how many are left."""
    misses = segment[MISSES]
    if listed:
        unsettled = sweep_listed(FIRST, segment[LEFT], segment, place, ring, ring_mask, tick, notes)
    else:
        unsettled = sweep_first(segment, place, ring, ring_mask, tick, notes)
    unsettled = sweep_listed(SECOND, unsettled, segment, place, ring, ring_mask, tick, notes)
    left = np.int64(0)
    for u in range(unsettled):
        if not _settle(segment, np.int64(load_i32(misses + 4 * u)), place):
            keep_in_list(misses, left, u)
            left += 1
    return left


@inlined
def _mark_left(begin, end, segment, before):
    """Of ids that MISSES lists by their places in a tile, give the places in the query, and say that they are left."""
    for u in range(begin, end):
        i = load_i32(segment[MISSES] + 4 * u) + np.int32(before)
        store_i32(segment[MISSES] + 4 * u, i)
        store_u8(segment[STATUS] + i, np.uint8(NO_STATUS))


@merged
def _probe_tiles(listed, segment, place, ring, ring_mask, tick, notes):
    """`_probe_rows` for a segment with a form: results are made of a tile's rows before those of the next are found.

    listed: False, but no constant, of which Numba would make another function.
    """
    form, row_bytes, piece = segment[FORM], segment[ROW_BYTES], segment.copy()
    most = max(TILE_BYTES // row_bytes, 1)
    tile = begin_of(form)
    first, before, left, undone = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    while first < load_i64(form + 8 * UNITS):
        units, ids = tile_from(form, first, most)
        kept = segment[OUT] + before * row_bytes
        piece[COUNT], piece[IDS] = ids, segment[IDS] + 8 * before
        piece[STATUS], piece[MISSES] = segment[STATUS] + before, segment[MISSES] + 4 * left
        piece[OUT] = tile if ids <= most else kept
        here = _probe_rows(listed, piece, place, ring, ring_mask, tick, notes)
        _mark_left(left, left + here, segment, before)
        undone += call_at(load_i64(form + 8 * EXPRESS), form, first, units, before, piece[OUT], piece[STATUS], kept)
        first, before, left = first + units, before + ids, left + here
    store_i64(form + 8 * KEPT, undone)
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


@merged
def _probe_segment(listed, arena, segment, ring, ring_mask, tick, notes):
    """Look up one segment, again if its region was replaced meanwhile; -> how many ids are left.

    listed: whether only the LEFT ids are looked for whose places MISSES lists.
    """
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
        if listed or segment[FORM] == 0:
            left = _probe_rows(listed, segment, place, ring, ring_mask, tick, notes)
        else:
            left = _probe_tiles(listed, segment, place, ring, ring_mask, tick, notes)
        fence_acquire()
        if np.uint64(load_relaxed(entry)) == stamp:
            return left
    if listed:
        return segment[LEFT]
    if segment[FORM] != 0:
        forget_all(segment[FORM])
    for i in range(segment[COUNT]):
        store_i32(segment[MISSES] + 4 * i, np.int32(i))
    return segment[COUNT]


@kernel
def _probe(listed, arena, segments, ring, ring_mask, tick, generation, position_at):
    """`probe`, `probe_listed` and `probe_now` in one, so that the sweeps are compiled once; position_at: 0 for two."""
    if position_at != 0:
        if load_acquire(arena + HEAD_ALIVE) != np.uint64(1):
            return np.int64(-1)
        if load_acquire(arena + HEAD_GENERATION) != np.uint64(generation):
            return np.int64(-1)
        position = np.uint64(load_acquire(arena + HEAD_POSITION))
        for i in range(8):
            store_u8(position_at + i, np.uint8(position >> np.uint64(56 - 8 * i)))
    noted = np.empty(NOTE_BYTES, np.uint8)
    notes = np.int64(noted.ctypes.data)
    left = np.int64(0)
    for s in range(segments.shape[0]):
        if listed and segments[s, LEFT] == 0:
            continue
        segments[s, LEFT] = _probe_segment(listed, arena, segments[s], ring, ring_mask, tick, notes)
        left += segments[s, LEFT]
    noted[0] = 0  # Numba frees an array after its last use, and an address taken from it is none
    return left


def probe(arena: int, segments: Segments, ring: int, ring_mask: np.uint64, tick: np.uint64) -> int:
    """Look up all segments in the arena, writing encoded rows and status of what it holds; -> ids left in all.

    arena: address of the mapping. segments: int64 [queries, SEGMENT_COLUMNS]; LEFT is written. Where one has a form,
    rows of results that are done are not at OUT.
    ring: address of the reader's use ring, of ring_mask + 1 words; tick: any number that changes from call to call.
    """
    left: int = _probe(False, arena, segments, ring, ring_mask, tick, 0, 0)
    return left


def probe_listed(arena: int, segments: Segments, ring: int, ring_mask: np.uint64, tick: np.uint64) -> int:
    """`probe` for what another tier has left: of each segment the LEFT ids whose places in the query MISSES lists.

    LEFT and MISSES are rewritten to what is left now; nothing is written at places that were not listed.
    """
    left: int = _probe(True, arena, segments, ring, ring_mask, tick, 0, 0)
    return left


def probe_now(
    arena: int,
    segments: Segments,
    ring: int,
    ring_mask: np.uint64,
    tick: np.uint64,
    generation: int,
    position_at: int,
) -> int:
    """`probe` with all that stands before it: -1, if the arena is dead or its catalogue of another generation.

    Else the applied position as it is before, u64 big-endian, goes to the address `position_at`.
    """
    left: int = _probe(False, arena, segments, ring, ring_mask, tick, generation, position_at)
    return left


@kernel
def settle_found(segment, rows, found, status):
    """Copy what another tier found of a segment's LEFT ids; -> how many are left. MISSES and LEFT become those.

    rows: the address of encoded rows [left], in the order of MISSES; found u8 [left], 0 for ids without one, whose rows
    are not read; status: what STATUS says of the others from now on.
    """
    row_bytes, misses = segment[ROW_BYTES], segment[MISSES]
    left = np.int64(0)
    for j in range(segment[LEFT]):
        i = load_i32(misses + 4 * j)
        if found[j]:
            copy_bytes(segment[OUT] + np.int64(i) * row_bytes, rows + j * row_bytes, row_bytes)
            store_u8(segment[STATUS] + i, np.uint8(status))
        else:
            store_i32(misses + 4 * left, i)
            left += 1
    segment[LEFT] = left
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
