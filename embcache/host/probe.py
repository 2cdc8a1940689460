"""The reader's kernels: find ids in the arena and copy their encoded rows out, without locks and without waiting.

A lookup is an array of segments, one row of int64 for each query, columns as below; one call does them all.
Ids are taken in groups: ask for every set's line first, then find ways and ask for rows, then copy, so that
memory latency overlaps (C. Chen et al., "Improving hash join performance through prefetching", 2004).

Invariant: a row counts as found only if its set's stamp was even and the same before the ways were read and
after the row was copied, and if the directory entry was the same before the first and after the last id.
An id counts as absent only under the same proof. Everything else is left to the owner, as a miss.
"""

from __future__ import annotations

import numpy as np

from embcache.host.jit import inlined, kernel
from embcache.host.layout import (
    ABSENT_SET,
    DIGESTS,
    DIRECTORY,
    ENTRY_ABSENT,
    ENTRY_ABSENT_COUNT,
    ENTRY_BYTES,
    ENTRY_HEADS,
    ENTRY_SET_COUNT,
    ENTRY_SLOTS,
    ENTRY_STRIDE,
    ENTRY_VERSION,
    HEAD,
    ID,
    LINE,
    WAYS,
)
from embcache.host.machine import (
    claim,
    fence_acquire,
    load_acquire,
    load_i32,
    load_i64,
    load_relaxed,
    load_u64,
    lowest_bit,
    match_digests,
    match_ways,
    prefetch,
    store_i32,
    store_i64,
    store_u8,
    store_u64,
)
from embcache.host.rows import copy_bytes

# Columns of a segment. From the table (DEFAULT_ROW: the address of an encoded row):
ENTRY, VERSION, ROW_BYTES, DEFAULT_ROW = range(4)
# From the query, addresses but for COUNT: ids u64 [n], encoded rows u8 [n, ROW_BYTES], status u8 [n], misses i32 [n].
COUNT, IDS, OUT, STATUS, MISSES = range(4, 9)
# Written by `probe`: how many ids are left, their places in the query being the first so many of MISSES.
LEFT = 9
SEGMENT_COLUMNS = 10

MISSING, HOT, WARM, COLD, LATE, FAILED, NEAR = range(7)

GROUP = 64
# What is noted for the ids of a group: set index, likely ways, stamp, and which ones to look at again. Words at an
# address and not arrays, since Numba would count references to an array at every inlined call.
INDICES, LIKELY, STAMPS, AGAIN = (8 * GROUP * i for i in range(4))
WORK_BYTES = 4 * 8 * GROUP
TRIES = 32
SAMPLE = np.uint64(31)  # one hit in 32 is reported as used
RING_HEAD = 64  # bytes before a ring's first word

# What a place in a set may turn out to hold.
FOUND, ABSENT, UNKNOWN = 0, 1, 2


@inlined
def hash_id(identifier):
    """Spread an id over 64 bits (Murmur3's finaliser, first half); the high half picks the first set."""
    h = np.uint64(identifier)
    h = np.uint64((h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD))
    h = np.uint64((h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53))
    return np.uint64(h ^ (h >> np.uint64(33)))


@inlined
def first_set(h, sets):
    """The index of an id's first set: the hash's high half scaled to [0, sets), without a division."""
    return np.int64(np.uint64(np.uint64(h >> np.uint64(32)) * np.uint64(sets)) >> np.uint64(32))


@inlined
def second_set(h, sets):
    """The index of an id's second set, from the hash's low half, mixed again so that it depends on all bits."""
    low = np.uint64(np.uint64(h * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32))
    return np.int64(np.uint64(low * np.uint64(sets)) >> np.uint64(32))


@inlined
def is_even(stamp):
    return (stamp & np.uint64(1)) == np.uint64(0)


@inlined
def has_spilled(stamp):
    return (stamp & np.uint64(0xFF0000)) != np.uint64(0)


@inlined
def digest_of(h):
    """The byte of an id's hash by which its way is told from most others of a set."""
    return np.uint8(h & np.uint64(0xFF))


@inlined
def likely_ways(head, h, stamp):
    """Bits 1..15: ways in use, by a stamp read before, whose digest is the hash's."""
    return np.uint64(match_digests(head + DIGESTS, digest_of(h)) & stamp & np.uint64(0xFFFE))


@inlined
def _without_lowest(mask):
    return np.uint64(mask & np.uint64(mask - np.uint64(1)))


@inlined
def find_way(head, slots, stride, key, h, stamp):
    """The way that holds `key` in a set (its head, its slots), or 15: by a stamp read before, to be checked after."""
    likely = likely_ways(head, h, stamp)
    while likely != np.uint64(0):
        way = np.int64(lowest_bit(likely) - 1)
        if np.uint64(load_u64(slots + way * stride)) == key:
            return way
        likely = _without_lowest(likely)
    return np.int64(WAYS)


@inlined
def find_mark(at, key, stamp):
    """The way that holds `key` in an absent set, or 15; as `find_way`."""
    mask = np.uint64(match_ways(at, key) & stamp)
    return np.int64(lowest_bit(mask) - 1) if mask != np.uint64(0) else np.int64(WAYS)


@inlined
def _search_set(head, slots, stride, key, h):
    """Look for an id in one set, again while the owner changes it: (way or 15, stamp); an odd stamp is no answer."""
    for _ in range(TRIES):
        stamp = np.uint64(load_acquire(head))
        if not is_even(stamp):
            continue
        way = find_way(head, slots, stride, key, h, stamp)
        fence_acquire()
        if np.uint64(load_relaxed(head)) == stamp:
            return way, stamp
    return np.int64(WAYS), np.uint64(1)


@inlined
def _is_marked(at, key):
    """Whether an id is in an absent set for certain."""
    for _ in range(TRIES):
        stamp = np.uint64(load_acquire(at))
        if not is_even(stamp):
            continue
        way = find_mark(at, key, stamp)
        fence_acquire()
        if np.uint64(load_relaxed(at)) == stamp:
            return way < WAYS
    return False


@kernel
def _search(key, place):
    """Look for an id with all care, in both its sets and the absent marks: (what, set index, way, stamp)."""
    heads, count, slots, stride, absent, absent_count = place
    h = hash_id(key)
    index = first_set(h, count)
    for turn in range(2):
        way, stamp = _search_set(heads + index * HEAD, slots + index * WAYS * stride, stride, key, h)
        if way < WAYS:
            return FOUND, index, way, stamp
        if not is_even(stamp):
            return UNKNOWN, index, way, stamp
        if turn == 1 or not has_spilled(stamp):
            break
        index = second_set(h, count)
    marked = _is_marked(absent + first_set(h, absent_count) * ABSENT_SET, key)
    return (ABSENT if marked else UNKNOWN), index, np.int64(WAYS), stamp


@inlined
def note_use(ring, mask, entry, slot):
    """Put a used slot into the reader's ring; what the owner has not read in time is written over."""
    place = np.int64(claim(ring, np.uint64(1)) & mask)
    store_u64(ring + RING_HEAD + 8 * place, np.uint64(np.uint64(entry) << np.uint64(48)) | np.uint64(slot))


@inlined
def _ask_for_slot(slot, offsets):
    """Ask for the first lines of a slot, all that a row of 256 bytes has, without a branch."""
    prefetch(slot)
    prefetch(slot + offsets[0])
    prefetch(slot + offsets[1])
    prefetch(slot + offsets[2])
    prefetch(slot + offsets[3])


@inlined
def _note_set(place, index, h, noted):
    """Read a set's head and note what it says of an id; -> (likely ways, stamp)."""
    head = place[0] + index * HEAD
    stamp = np.uint64(load_acquire(head))
    likely = likely_ways(head, h, stamp)
    store_u64(noted + STAMPS, stamp)
    store_u64(noted + LIKELY, likely)
    return likely, stamp


@inlined
def _ask_ahead(ids, size, place, work):
    """Ask for the heads of a group's sets, then for the slots that their digests point at.

    What is noted (set index, likely ways, stamp) is a hint: nothing has been checked yet. The first two loops have no
    branch that depends on what they read: a wrong guess would wait for memory, and all that was asked for behind it.
    """
    heads, count, slots, stride = place[0], place[1], place[2], place[3]
    last = stride - 1
    offsets = (min(LINE, last), min(2 * LINE, last), min(3 * LINE, last), min(4 * LINE, last))
    for t in range(size):
        index = first_set(hash_id(load_u64(ids + 8 * t)), count)
        store_i64(work + INDICES + 8 * t, index)
        prefetch(heads + index * HEAD)
    elsewhere = np.int64(0)
    for t in range(size):
        index = load_i64(work + INDICES + 8 * t)
        likely, stamp = _note_set(place, index, hash_id(load_u64(ids + 8 * t)), work + 8 * t)
        # Of several likely ways the first is asked for; with none it is the sixteenth, somebody else's, to no harm.
        _ask_for_slot(slots + (index * WAYS + ((lowest_bit(likely) - 1) & 15)) * stride, offsets)
        store_i64(work + AGAIN + 8 * elsewhere, t)
        elsewhere += np.int64(likely == np.uint64(0)) & np.int64(has_spilled(stamp))
    for e in range(elsewhere):
        t = load_i64(work + AGAIN + 8 * e)
        h = hash_id(load_u64(ids + 8 * t))
        index = second_set(h, count)
        store_i64(work + INDICES + 8 * t, index)
        prefetch(heads + index * HEAD)
    for e in range(elsewhere):
        t = load_i64(work + AGAIN + 8 * e)
        index = load_i64(work + INDICES + 8 * t)
        likely, _ = _note_set(place, index, hash_id(load_u64(ids + 8 * t)), work + 8 * t)
        _ask_for_slot(slots + (index * WAYS + ((lowest_bit(likely) - 1) & 15)) * stride, offsets)


@inlined
def _found_way(key, t, place, work):
    """The way in which a group's t-th id was found, 15 for none: of the likely ways the one that holds the whole id."""
    likely = load_u64(work + LIKELY + 8 * t)
    if not is_even(load_u64(work + STAMPS + 8 * t)):
        return np.int64(WAYS)
    first = place[2] + load_i64(work + INDICES + 8 * t) * WAYS * place[3]
    while likely != np.uint64(0):
        way = np.int64(lowest_bit(likely) - 1)
        if np.uint64(load_u64(first + way * place[3])) == key:
            return way
        likely = _without_lowest(likely)
    return np.int64(WAYS)


@inlined
def _row_at(index, way, place):
    """The address of a way's row."""
    return np.int64(place[2] + (index * WAYS + way) * place[3] + ID)


@inlined
def _is_unchanged(t, place, work):
    """Whether the set of a group's t-th id is as it was when its row was found."""
    fence_acquire()
    now = np.uint64(load_relaxed(place[0] + load_i64(work + INDICES + 8 * t) * HEAD))
    return now == np.uint64(load_u64(work + STAMPS + 8 * t))


@kernel
def _take(segment, begin, size, place, work):
    """Copy the rows that `_ask_ahead` found; -> how many ids of the group to look at again.

    This loop is the warm lookup: it calls nothing and touches no array but by address.
    """
    ids, status, row_bytes = segment[IDS] + 8 * begin, segment[STATUS] + begin, segment[ROW_BYTES]
    out = segment[OUT] + begin * row_bytes
    unsettled = np.int64(0)
    for t in range(size):
        way = _found_way(np.uint64(load_u64(ids + 8 * t)), t, place, work)
        if way < WAYS:
            copy_bytes(out + t * row_bytes, _row_at(load_i64(work + INDICES + 8 * t), way, place), row_bytes)
            if _is_unchanged(t, place, work):
                store_u8(status + t, np.uint8(WARM))
                continue
        store_i64(work + AGAIN + 8 * unsettled, t)
        unsettled += 1
    return unsettled


@kernel
def _settle(segment, i, place):
    """Look for the segment's i-th id with all care; -> whether it is answered, by a row or as absent."""
    key, out = np.uint64(load_u64(segment[IDS] + 8 * i)), segment[OUT] + i * segment[ROW_BYTES]
    for _ in range(TRIES):
        what, index, way, stamp = _search(key, place)
        if what == UNKNOWN:
            return False
        row = segment[DEFAULT_ROW] if what == ABSENT else _row_at(index, way, place)
        copy_bytes(out, row, segment[ROW_BYTES])
        fence_acquire()
        if what == ABSENT or np.uint64(load_relaxed(place[0] + index * HEAD)) == stamp:
            store_u8(segment[STATUS] + i, np.uint8(MISSING if what == ABSENT else WARM))
            return True
    return False


@kernel
def _probe_rows(segment, place, ring, ring_mask, tick, work):
    """Look up all ids of a segment under one view of its directory entry; -> how many are left."""
    count, misses = segment[COUNT], segment[MISSES]
    left = np.int64(0)
    for begin in range(0, count, GROUP):
        size = min(GROUP, count - begin)
        _ask_ahead(segment[IDS] + 8 * begin, size, place, work)
        unsettled = _take(segment, begin, size, place, work)
        for u in range(unsettled):
            i = begin + load_i64(work + AGAIN + 8 * u)
            if not _settle(segment, i, place):
                store_i32(misses + 4 * left, np.int32(i))
                left += 1
        for t in range(np.int64(tick & SAMPLE), size, np.int64(SAMPLE) + 1):
            likely = np.uint64(load_u64(work + LIKELY + 8 * t))
            if likely != np.uint64(0):
                slot = load_i64(work + INDICES + 8 * t) * WAYS + lowest_bit(likely) - 1
                note_use(ring, ring_mask, segment[ENTRY], slot)
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
def _probe_segment(arena, segment, ring, ring_mask, tick, work):
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
        left = _probe_rows(segment, place, ring, ring_mask, tick, work)
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
    noted = np.empty(WORK_BYTES, np.uint8)
    work = np.int64(noted.ctypes.data)
    left = np.int64(0)
    for s in range(segments.shape[0]):
        segments[s, LEFT] = _probe_segment(arena, segments[s], ring, ring_mask, tick, work)
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
