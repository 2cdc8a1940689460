"""The warm lookup's inner loops: many ids looked for in one of their two sets each, and the rows that are there copied.

Three steps, each LAG ids behind the one before: ask for the head of an id's set; read the head and ask for the row;
copy the row. So memory is always busy and little waits for it (C. Chen et al., "Improving hash join performance through
prefetching", 2004). All three are in one short loop: a processor looks a few hundred instructions ahead, and finds
some that need not wait. The first two have no branch that depends on what they read: a wrong guess would wait for
memory, and all that was asked for behind it. Words stand at addresses and not in arrays, since Numba would count
references to an array at every inlined call.

Invariant: a row counts only if the stamp under which its way was found was even and is the same after the row was
copied. What one sweep leaves over is not absent; it is looked for elsewhere.
A list of places is never cut short, only put into another order: so it can be gone through again, from its beginning.
"""

from __future__ import annotations

import numpy as np

from embcache.host.jit import inlined, part
from embcache.host.layout import LINE, SET_BYTES, WAYS
from embcache.host.machine import (
    claim,
    copy_line,
    fence_acquire,
    load_acquire,
    load_i32,
    load_i64,
    load_relaxed,
    load_u64,
    lowest_bit,
    match_line,
    prefetch,
    store_i32,
    store_i64,
    store_u8,
    store_u64,
)
from embcache.host.rows import copy_lines
from embcache.host.segment import COUNT, ENTRY, IDS, MISSES, OUT, ROW_BYTES, STATUS, WARM
from embcache.host.sets import FIRST, OCCUPIED, SECOND, hash_id, is_even, set_of

LAG = 12  # ids from one step to the next
BLOCK = 64  # ids whose use is reported together
SAMPLE = 32  # one id in so many is looked at for use where the owner cannot hear of all (a power of two)
RING_HEAD = 64  # bytes before a use ring's first word (ring.py)
RING_HEARD = 16  # where the owner says how much it has heard

# What a word in a use ring says, from which bit on: a slot, its directory entry, a tag, and whether the hit stands for
# SAMPLE of them. The tag is 0 where the id stands in its first set, which says what its hash begins with; in its second
# one it is in which of TAGS parts of all hashes the id's is, from 1 on.
ENTRY_SHIFT, TAG_SHIFT, SAMPLED_SHIFT = 42, 52, 63
TAGS = np.uint64((1 << (SAMPLED_SHIFT - TAG_SHIFT)) - 1)

# What is noted of the latest NOTES ids: the addresses of head and row, the stamp, and the tagged slot.
NOTES = 128  # a power of two, and at least 2 * LAG + BLOCK
_HEADS, _ROWS, _STAMPS, _SLOTS, _USED = (8 * NOTES * i for i in range(5))
NOTE_BYTES = _USED + 8 * BLOCK  # behind them, what a block has to report of use
_LAST_WAY = np.uint64(1 << WAYS)


@inlined
def _note(t, notes):
    """Where the t-th id's notes are."""
    return notes + 8 * (t & (NOTES - 1))


@inlined
def _ask_for_head(key, turn, place, note):
    head = place[0] + set_of(hash_id(key), turn, place[1]) * SET_BYTES
    store_i64(note + _HEADS, head)
    prefetch(head)


@inlined
def tag_of(h):
    """In which part of the hashes one is, 1 to TAGS: they ascend with the first sets of ids."""
    return np.uint64(np.uint64(np.uint64(np.uint64(h >> np.uint64(32)) * TAGS) >> np.uint64(32)) + np.uint64(1))


@inlined
def _tagged(slot, turn, key):
    """What is reported of a slot in which an id was found."""
    tag = tag_of(hash_id(key)) if turn == SECOND else np.uint64(0)
    return np.uint64(np.uint64(slot) | np.uint64(tag << np.uint64(TAG_SHIFT)))


@inlined
def _ask_for_row(key, turn, place, note, lines):
    """Note an id's row and ask for its first lines, all that a row of 256 bytes has.

    Where the set does not hold the id, some row of it is noted and a stamp that is odd: nothing is found by that. Asked
    for is the head then, which is here.
    """
    head = load_i64(note + _HEADS)
    stamp = np.uint64(load_acquire(head))
    held = np.uint64(match_line(head, key) & stamp & OCCUPIED)
    slot = (head - place[0]) // SET_BYTES * WAYS + lowest_bit(np.uint64(held | _LAST_WAY)) - 1
    row = place[2] + slot * place[3]
    lacks = np.int64(held == np.uint64(0))
    store_i64(note + _ROWS, row)
    store_u64(note + _SLOTS, _tagged(slot, turn, key))
    store_u64(note + _STAMPS, np.uint64(stamp | np.uint64(lacks)))
    if_held = lacks - 1  # all bits, or none
    asked = head + ((row - head) & if_held)
    prefetch(asked)
    prefetch(asked + (lines[0] & if_held))
    prefetch(asked + (lines[1] & if_held))
    prefetch(asked + (lines[2] & if_held))


@inlined
def _copy_row(out, row, row_bytes):
    """Copy a row: by 256 bytes, which most rows are a multiple of, and the rest."""
    done = np.int64(0)
    while row_bytes - done >= 256:
        for line in range(4):
            copy_line(out + done + 64 * line, row + done + 64 * line)
        done += 256
    if done < row_bytes:
        copy_lines(out + done, row + done, row_bytes - done)


@inlined
def _take(note, out, row_bytes):
    """Copy the noted row; -> whether it is the id's, whole, for certain."""
    stamp = np.uint64(load_u64(note + _STAMPS))
    if not is_even(stamp):
        return False
    _copy_row(out, load_i64(note + _ROWS), row_bytes)
    fence_acquire()
    return np.uint64(load_relaxed(load_i64(note + _HEADS))) == stamp


@inlined
def _reported(count, ring, ring_mask):
    """One id of how many is looked at for use: each while the owner keeps up.

    So it knows of the rows that misses could push out. One in SAMPLE where half of the ring would be full of what it
    has not heard: then there are many hits to a miss.
    """
    unheard = np.uint64(np.uint64(load_relaxed(ring)) - np.uint64(load_relaxed(ring + RING_HEARD)))
    heard = np.uint64(unheard + np.uint64(count)) <= (ring_mask >> np.uint64(1))
    return np.int64(1) if heard else np.int64(SAMPLE)


@inlined
def _report_use(ring, mask, entry, notes, begin, end, step):
    """Put into the reader's ring, of the ids [begin, end, step), the noted slots of those that were found."""
    used = np.int64(0)
    for t in range(begin, end, step):
        note = _note(t, notes)
        store_u64(notes + _USED + 8 * used, np.uint64(load_u64(note + _SLOTS)))
        used += np.int64(is_even(np.uint64(load_u64(note + _STAMPS))))
    common = np.uint64(np.uint64(entry) << np.uint64(ENTRY_SHIFT)) | np.uint64(
        np.uint64(step > 1) << np.uint64(SAMPLED_SHIFT)
    )
    if used > 0:
        first = np.uint64(claim(ring, np.uint64(used)))
        for j in range(used):
            word = np.int64((first + np.uint64(j)) & mask)
            store_u64(ring + RING_HEAD + 8 * word, np.uint64(common | np.uint64(load_u64(notes + _USED + 8 * j))))


@inlined
def _place_of(t, listed, misses):
    """The place in the query of the t-th id that is looked for."""
    return np.int64(load_i32(misses + 4 * t)) if listed else t


@inlined
def _key_of(t, listed, misses, ids):
    """The t-th id that is looked for."""
    return np.uint64(load_u64(ids + 8 * _place_of(t, listed, misses)))


@inlined
def keep_in_list(misses, left, t):
    """Let the places at `left` and at t, which is not before it, change theirs: the t-th id is left."""
    place = load_i32(misses + 4 * t)
    store_i32(misses + 4 * t, load_i32(misses + 4 * left))
    store_i32(misses + 4 * left, place)


@inlined
def _sweep(listed, turn, count, segment, place, ring, ring_mask, tick, notes):
    """Look for `count` ids in the sets of a turn; -> how many are left, their places the first so many of MISSES.

    listed: whether the ids are those whose places stand in MISSES, or the query's first ones. A constant.
    """
    ids, out, status, misses = segment[IDS], segment[OUT], segment[STATUS], segment[MISSES]
    row_bytes, end = segment[ROW_BYTES], place[3] - 1
    lines = (min(LINE, end), min(2 * LINE, end), min(3 * LINE, end))
    step = _reported(count, ring, ring_mask)
    first, last, left = np.int64(tick) & (step - 1), count - 1, np.int64(0)
    if count == 0:
        return left
    # At the list's end its last id is asked for again, which costs less than to look where the end is.
    for t in range(2 * LAG):
        _ask_for_head(_key_of(min(t, last), listed, misses, ids), turn, place, _note(t, notes))
    for t in range(LAG):
        _ask_for_row(_key_of(min(t, last), listed, misses, ids), turn, place, _note(t, notes), lines)
    for begin in range(0, count, BLOCK):
        end = min(begin + BLOCK, count)
        for t in range(begin, end):
            ahead = t + 2 * LAG
            _ask_for_head(_key_of(min(ahead, last), listed, misses, ids), turn, place, _note(ahead, notes))
            ahead = t + LAG
            _ask_for_row(_key_of(min(ahead, last), listed, misses, ids), turn, place, _note(ahead, notes), lines)
            i, note = _place_of(t, listed, misses), _note(t, notes)
            if _take(note, out + i * row_bytes, row_bytes):
                store_u8(status + i, np.uint8(WARM))
            else:
                store_u64(note + _STAMPS, np.uint64(1))  # nothing to report
                if listed:
                    keep_in_list(misses, left, t)
                else:
                    store_i32(misses + 4 * left, np.int32(i))
                left += 1
        _report_use(ring, ring_mask, segment[ENTRY], notes, begin + first, end, step)
    return left


@part
def sweep_first(segment, place, ring, ring_mask, tick, notes):
    """Look for all ids of a segment in their first sets; -> how many are left, listed in MISSES.

    place: the region (probe.py). notes: the address of NOTE_BYTES bytes.
    """
    return _sweep(False, FIRST, segment[COUNT], segment, place, ring, ring_mask, tick, notes)


@part
def sweep_listed(turn, count, segment, place, ring, ring_mask, tick, notes):
    """Look for the first `count` ids that MISSES lists in their sets of a turn; -> how many are left.

    These come first in MISSES then, in the order in which they were, and behind them the others of the `count`.
    """
    return _sweep(True, turn, count, segment, place, ring, ring_mask, tick, notes)
