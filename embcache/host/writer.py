"""The owner's kernels: put rows into sets, take them out, mark ids absent, note use, audit.

One thread writes an arena, ever. What readers must not see half-done stands between `_open` and `_close`
of the set's stamp. A region is a tuple of addresses and counts, made by HostTable:
    (heads, set count, slots, stride, row bytes, absent sets, absent set count)
Beside it, in the owner's own memory: notes of which rows are in use, by which one leaves a full set (eviction.py);
absent_hand u8 [absent sets]; counters int64 [COUNTERS].

Invariants: an id stands in at most one way of its two sets; if it stands in the second, the first one's
spill count counts it (or stuck at 255); an id with a row has no absent mark.
"""

from __future__ import annotations

import numpy as np

from embcache.host.eviction import (
    CLOCK,
    MAIN,
    SMALL,
    age_elsewhere,
    ask_for_notes,
    came_back,
    choose_victim,
    forget_row,
    is_small,
    move_note,
    note_hit,
    note_row,
    note_use,
    remember_id,
    take_ghosts,
    tick_scale,
    use_of,
)
from embcache.host.jit import inlined, kernel, part
from embcache.host.layout import SET_BYTES, WAYS
from embcache.host.machine import (
    copy_bytes,
    fence_release,
    load_relaxed,
    load_u64,
    lowest_bit,
    prefetch,
    store_relaxed,
    store_release,
    store_u64,
)
from embcache.host.reports import slot_of
from embcache.host.rows import copy_lines
from embcache.host.sets import (
    CHANGE_ONE,
    FIRST,
    NO_WAY,
    OCCUPIED,
    SECOND,
    SPILL_ONE,
    SPILLED,
    find_way,
    hash_id,
    set_of,
)

AHEAD = 8  # how many ids ahead their sets are asked for
FAR_AHEAD = 16  # where little else is done with each

# What the kernels count, as indices into an int64 array.
INSERTED, REPLACED, EVICTED, DELETED, MARKED, UNMARKED, HELD = range(7)
MOVE_BELOW = 7  # not a count: with fewer rows than this, a full set makes room by moving a row before it evicts one
COUNTERS = 12  # the last ones are eviction.py's


@inlined
def _open(at):
    """Begin a change of the set whose head is at `at`: from here on readers try again. -> its stamp before."""
    stamp = np.uint64(load_relaxed(at))
    store_relaxed(at, np.uint64(stamp | np.uint64(1)))
    fence_release()
    return stamp


@inlined
def _close(at, stamp):
    """End it with this stamp (even, occupancy and spill count as they are now), counted as one change more."""
    store_release(at, np.uint64(stamp + CHANGE_ONE))


@inlined
def _change_spill(at, by_one):
    """Count one id more (+1) or less (-1) that stands in its second set; a count of 255 stays."""
    stamp = _open(at)
    if (stamp & SPILLED) != SPILLED:
        stamp = np.uint64(stamp + SPILL_ONE) if by_one > 0 else np.uint64(stamp - SPILL_ONE)
    _close(at, stamp)


@inlined
def _free_way(at):
    """A way of the set that holds no id; 7 for none."""
    free = np.uint64(~np.uint64(load_relaxed(at)) & OCCUPIED)
    return np.int64(lowest_bit(np.uint64(free | NO_WAY)) - 1)


@inlined
def _head(region, index):
    """The address of a set's head."""
    return region[0] + index * SET_BYTES


@inlined
def _row(region, index, way):
    """The address of a way's row."""
    return region[2] + (index * WAYS + way) * region[3]


@inlined
def _key_at(head, way):
    """The address of a way's id."""
    return head + 8 * (way + 1)


@inlined
def _key(region, index, way):
    """The id in a way."""
    return np.uint64(load_u64(_key_at(_head(region, index), way)))


@inlined
def _bit(way):
    """A way's bit in a stamp."""
    return np.uint64(np.uint64(2) << np.uint64(way))


@inlined
def _put(region, index, way, key, row):
    """Write id and row into a way, in one change of the set."""
    head = _head(region, index)
    stamp = _open(head)
    store_u64(_key_at(head, way), key)
    copy_lines(_row(region, index, way), row, region[4])
    _close(head, np.uint64(stamp | _bit(way)))


@part
def _clear(region, index, way):
    """Take the id out of a way; and out of its first set's spill count, if this was its second."""
    head = _head(region, index)
    stamp = _open(head)
    _close(head, np.uint64(stamp & np.uint64(~_bit(way))))
    first = set_of(hash_id(_key(region, index, way)), FIRST, region[1])
    if first != index:
        _change_spill(_head(region, first), -1)


@inlined
def _locate(region, key):
    """Where an id stands: (set index, way), way 7 if nowhere."""
    h = hash_id(key)
    index = set_of(h, FIRST, region[1])
    head = _head(region, index)
    way = find_way(head, key, np.uint64(load_relaxed(head)))
    if way == WAYS:
        index = set_of(h, SECOND, region[1])
        head = _head(region, index)
        way = find_way(head, key, np.uint64(load_relaxed(head)))
    return index, way


@inlined
def _absent_set(region, key):
    """The address of the absent set that an id's mark stands in, and its index."""
    index = set_of(hash_id(key), FIRST, region[6])
    return region[5] + index * SET_BYTES, index


@part
def _unmark(region, key):
    """Take away an id's absent mark; -> whether it had one."""
    at, _ = _absent_set(region, key)
    way = find_way(at, key, np.uint64(load_relaxed(at)))
    if way == WAYS:
        return False
    stamp = _open(at)
    _close(at, np.uint64(stamp & np.uint64(~_bit(way))))
    return True


@inlined
def _other_set(region, index, way):
    """The set of a row's two that it does not stand in, and its first one."""
    h = hash_id(_key(region, index, way))
    first = set_of(h, FIRST, region[1])
    return (set_of(h, SECOND, region[1]) if first == index else first), first


@inlined
def _move(region, index, way, other, first, free, notes):
    """Move a row into a free way of its other set.

    It is put into its new place before it leaves the old one, so that no reader misses it in between.
    """
    _put(region, other, free, _key(region, index, way), _row(region, index, way))
    if other != first:
        _change_spill(_head(region, first), 1)
    _clear(region, index, way)
    move_note(notes, index, way, other, free)


@part
def _move_one(region, index, notes):
    """Move one row of a full set to its other set, if one of these has a free way; -> the way it left, or 7."""
    for way in range(WAYS):
        other, first = _other_set(region, index, way)
        free = _free_way(_head(region, other))
        if other != index and free < WAYS:
            _move(region, index, way, other, first, free, notes)
            return np.int64(way)
    return np.int64(WAYS)


@part
def _make_room(region, index, notes):
    """Make a free way in a full set by moving one row out, or one out of where that one goes; -> the way, or 7.

    (Cuckoo hashing, Pagh and Rodler, 2001, two steps deep: enough to fill a table to over 95%.)
    """
    way = _move_one(region, index, notes)
    if way < WAYS:
        return way
    for way in range(WAYS):
        other, first = _other_set(region, index, way)
        if other == index:
            continue
        free = _move_one(region, other, notes)
        if free < WAYS:
            _move(region, index, way, other, first, free, notes)
            return np.int64(way)
    return np.int64(WAYS)


@part
def _evict(region, index, way, notes, counters):
    """Take out a row that has to leave; its id is remembered for a while."""
    h = hash_id(_key(region, index, way))
    remember_id(notes, set_of(h, FIRST, region[1]), h)
    _clear(region, index, way)
    forget_row(notes, index, way, counters)
    counters[EVICTED] += 1
    counters[HELD] -= 1


@part
def _room_for(region, first, second, notes, counters):
    """A way for a new id that no row has to leave: a free one, or one that a row can be moved out of; 7 for none."""
    for index in (first, second):
        way = _free_way(_head(region, index))
        if way < WAYS:
            return index, way
    if counters[HELD] < counters[MOVE_BELOW]:
        for index in (first, second):
            way = _make_room(region, index, notes)
            if way < WAYS:
                return index, way
    return first, np.int64(WAYS)


@part
def _place_for(region, first, second, notes, counters):
    """A way for a new id: one that no row has to leave, else that of a row which leaves for it."""
    index, way = _room_for(region, first, second, notes, counters)
    if way == WAYS:
        index, way = choose_victim(notes, first, second, counters)
        _evict(region, index, way, notes, counters)
    return index, way


@part
def _insert(region, key, row, displace, notes, counters):
    """Put one row in, over its older self if there is one; -> where it came as a new one: (set index, way or 7).

    displace: whether another row leaves for it; else it stays out where there is no room.
    """
    # The mark goes first: in between the id is unknown, which sends readers to the owner.
    if _unmark(region, key):
        counters[UNMARKED] += 1
    index, way = _locate(region, key)
    if way < WAYS:
        _put(region, index, way, key, row)
        counters[REPLACED] += 1
        return index, np.int64(WAYS)
    h = hash_id(key)
    first, second = set_of(h, FIRST, region[1]), set_of(h, SECOND, region[1])
    if displace:
        index, way = _place_for(region, first, second, notes, counters)
    else:
        index, way = _room_for(region, first, second, notes, counters)
        if way == WAYS:
            return index, way
    _put(region, index, way, key, row)
    if index != first:
        _change_spill(_head(region, first), 1)
    counters[INSERTED] += 1
    counters[HELD] += 1
    return index, way


@inlined
def _ask_for_sets(region, key, notes):
    """Ask for what is known of an id's sets."""
    h = hash_id(key)
    for turn in (FIRST, SECOND):
        index = set_of(h, turn, region[1])
        prefetch(_head(region, index))
        ask_for_notes(notes, index)


@kernel
def insert_rows(region, ids, rows, row_stride, notes, counters):
    """Put rows in: ids u64 [n] (an array), rows at an address, row_stride bytes apart."""
    for i in range(ids.shape[0]):
        if i + AHEAD < ids.shape[0]:
            _ask_for_sets(region, ids[i + AHEAD], notes)
        h = hash_id(ids[i])
        again = came_back(notes, set_of(h, FIRST, region[1]), h)  # before another id takes the ghost's place
        index, way = _insert(region, ids[i], rows + i * row_stride, True, notes, counters)
        if way < WAYS:
            counters[CLOCK] += 1
            note_row(notes, index, way, MAIN if again else np.uint8(0), 0, counters)


@kernel
def restore_rows(region, ids, rows, row_stride, use, notes, counters):
    """Put rows in that were in use so much, up to MOST_USE, as `insert_rows` does, but for those without room.

    All of them are as old: none has come before another. One that was hit at all is of the main queue, since the small
    one is for rows of which nothing is known.
    """
    for i in range(ids.shape[0]):
        if i + AHEAD < ids.shape[0]:
            _ask_for_sets(region, ids[i + AHEAD], notes)
        index, way = _insert(region, ids[i], rows + i * row_stride, False, notes, counters)
        if way < WAYS:
            note_row(notes, index, way, np.uint8(use | MAIN) if use > 0 else np.uint8(0), 0, counters)


@kernel
def replace_rows(region, ids, rows, row_stride, counters):
    """Write rows over their older selves, and take absent marks away; ids that have neither are passed over."""
    for i in range(ids.shape[0]):
        if i + AHEAD < ids.shape[0]:
            prefetch(_head(region, set_of(hash_id(ids[i + AHEAD]), FIRST, region[1])))
        if _unmark(region, ids[i]):
            counters[UNMARKED] += 1
        index, way = _locate(region, ids[i])
        if way < WAYS:
            _put(region, index, way, ids[i], rows + i * row_stride)
            counters[REPLACED] += 1


@kernel
def read_rows(region, ids, rows, row_stride, found):
    """Copy the rows of ids u64 [n] that are here to an address, and say which are: found, bool [n]. For the writer."""
    for i in range(ids.shape[0]):
        if i + AHEAD < ids.shape[0]:
            prefetch(_head(region, set_of(hash_id(ids[i + AHEAD]), FIRST, region[1])))
        index, way = _locate(region, ids[i])
        found[i] = way < WAYS
        if found[i]:
            copy_bytes(rows + i * row_stride, _row(region, index, way), region[4])


@kernel
def delete_rows(region, ids, notes, counters):
    """Take rows out; ids u64 [n] that are not there are passed over."""
    for i in range(ids.shape[0]):
        index, way = _locate(region, ids[i])
        if way < WAYS:
            _clear(region, index, way)
            forget_row(notes, index, way, counters)
            counters[DELETED] += 1
            counters[HELD] -= 1


@kernel
def mark_absent(region, ids, absent_hand, counters):
    """Mark ids u64 [n] as having no row; in a full set the oldest mark gives way."""
    for i in range(ids.shape[0]):
        key = np.uint64(ids[i])
        at, index = _absent_set(region, key)
        if find_way(at, key, np.uint64(load_relaxed(at))) < WAYS:
            continue
        if _locate(region, key)[1] < WAYS:  # it has a row: whoever says otherwise is late
            continue
        way = np.int64(absent_hand[index])
        absent_hand[index] = np.uint8(way + 1 if way + 1 < WAYS else 0)
        stamp = _open(at)
        store_u64(_key_at(at, way), key)
        _close(at, np.uint64(stamp | _bit(way)))
        counters[MARKED] += 1


@kernel
def count_use(region, notes, words):
    """Note that slots were used (words u64 [n], reports.py); those beyond the table, or without a row, do not count."""
    slots = region[1] * WAYS
    for i in range(words.shape[0]):
        if i + FAR_AHEAD < words.shape[0]:
            following = slot_of(words[i + FAR_AHEAD])
            index = following // WAYS if following < slots else np.int64(0)
            prefetch(_head(region, index))
            ask_for_notes(notes, index)
        slot = slot_of(words[i])
        if slot < slots:
            index, way = slot // WAYS, slot % WAYS
            stamp = np.uint64(load_relaxed(_head(region, index)))
            if (stamp & _bit(way)) != np.uint64(0):
                note_hit(notes, index, way)


@kernel
def set_use(region, ids, use, notes, counters):
    """Take rows of ids u64 [n] to be in use so much, u8 [n] up to MOST_USE; ids that are not here are passed over."""
    for i in range(ids.shape[0]):
        index, way = _locate(region, ids[i])
        if way < WAYS:
            note_use(notes, index, way, use[i], counters)


@kernel
def move_sets(old, new, begin, end, old_notes, old_counters, notes, counters):
    """Put the rows of the old region's sets [begin, end) into the new one, with all that is noted of them."""
    take_ghosts(old_notes, old[1], notes, new[1], begin, end)
    scale = tick_scale(old_counters, old[1], counters, new[1])
    for index in range(begin, end):
        held = np.uint64(load_relaxed(_head(old, index)) & OCCUPIED)
        while held != np.uint64(0):
            way = np.int64(lowest_bit(held) - 1)
            held = np.uint64(held & np.uint64(held - np.uint64(1)))
            there, place = _insert(new, _key(old, index, way), _row(old, index, way), True, notes, counters)
            if place < WAYS:
                age = age_elsewhere(old_notes, index, way, old_counters, scale)
                note_row(notes, there, place, use_of(old_notes, index, way), age, counters)


@kernel
def audit(region, notes, counters, problems):
    """Count what breaks an invariant into problems int64 [7]; -> ids held.

    0 odd stamps, 1 ids in a set that is neither of theirs, 2 ids that stand twice, 3 spill counts that are
    wrong, 4 ids with both a row and an absent mark, 5 use noted for empty ways, 6 rows by which the count of the
    small queue is wrong.
    """
    count = region[1]
    spills = np.zeros(count, np.int64)
    held, small = np.int64(0), np.int64(0)
    for index in range(count):
        head = _head(region, index)
        stamp = np.uint64(load_relaxed(head))
        if (stamp & np.uint64(1)) != np.uint64(0):
            problems[0] += 1
        for way in range(WAYS):
            if (stamp & _bit(way)) == np.uint64(0):
                problems[5] += 1 if use_of(notes, index, way) != np.uint8(0) else 0
                continue
            held += 1
            small += 1 if is_small(use_of(notes, index, way)) else 0
            key = _key(region, index, way)
            h = hash_id(key)
            first, second = set_of(h, FIRST, count), set_of(h, SECOND, count)
            if index not in (first, second):
                problems[1] += 1
                continue
            if index != first:
                spills[first] += 1
            found_index, found_way = _locate(region, key)
            if found_index != index or found_way != way:
                problems[2] += 1
            mark, _ = _absent_set(region, key)
            if find_way(mark, key, np.uint64(load_relaxed(mark))) < WAYS:
                problems[4] += 1
    for index in range(count):
        noted = np.int64((np.uint64(load_relaxed(_head(region, index))) & SPILLED) >> np.uint64(8))
        if noted not in (spills[index], 255):
            problems[3] += 1
    problems[6] = abs(small - counters[SMALL])
    return held


@kernel
def write_entry(entry, fields):
    """Write a directory entry's words after its stamp (u64 array), between an odd and an even stamp."""
    stamp = np.uint64(load_relaxed(entry))
    store_relaxed(entry, np.uint64(stamp + np.uint64(1)))
    fence_release()
    for i in range(fields.shape[0]):
        store_u64(entry + 8 * (i + 1), fields[i])
    store_release(entry, np.uint64(stamp + np.uint64(2)))


@kernel
def publish(address, value):
    """Store a word of the arena's head, after all that it announces."""
    store_release(address, value)
