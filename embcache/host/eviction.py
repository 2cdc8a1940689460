"""Which row leaves a full set: what the owner notes of the rows that are there, and of ids whose rows have left.

The queues are S3-FIFO's (Yang et al., "FIFO queues are all you need for cache eviction", 2023), kept by when each row
came instead of as lists, so that the oldest of a queue is looked for among the ways that a new row may have, in both
its sets. A row begins in the small queue, a tenth of the table. If the small queue is too long its oldest row goes,
unless it was hit twice: then it joins the main queue. Else the oldest of the main queue goes, and one that was hit
since it was last looked at begins again, as if it had just come. An id that left a short while ago, and is asked for
again, begins in the main queue. So rows seen once push out each other, and not a row that is asked for again.

What is noted of a set is one cache line of the owner's own memory:

    bytes 0..6    its ways: bits 0 and 1 count hits up to MOST_HITS, MAIN says that the row is of the main queue
    byte 7        which ghost is written over next
    bytes 8..21   when the row of each way came, u16: ticks of the table's clock
    bytes 22..63  ghosts: fingerprints, u16, of the ids that left last and whose first set this is; 0 for none

The clock counts rows that came; a tick is a 512th to a 1024th of the table. It goes round after 64 times the table or
more; a row that nobody looked at for so long seems young once more, which costs a miss at most.

`notes` is the address of the first set's line: Numba would count references to an array at every inlined call.
Invariants: a way that holds nothing has 0 in its byte; counters[SMALL] rows are of the small queue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embcache.host.jit import inlined, part
from embcache.host.layout import LINE, WAYS
from embcache.host.machine import load_u8, load_u16, prefetch, store_u8, store_u16
from embcache.host.memory import address_of

MOST_HITS = np.uint8(3)
MAIN = np.uint8(4)
MOST_USE = np.uint8(MAIN | MOST_HITS)
HITS_TO_STAY = 2  # what takes a row from the small queue into the main one

# Where parts of a line stand.
_NEXT_GHOST = WAYS
_BORN = 8
_GHOSTS = _BORN + 2 * WAYS
_SMALL_SHARE = 10  # one row in so many

# Of the writer's counters (writer.py): how many rows are of the small queue, how many may be before one of them has
# to go, the clock, and by how many bits that is shifted for its ticks.
SMALL, SMALL_MOST, CLOCK, TICK_SHIFT = range(8, 12)
_TICKS = 0xFFFF


def new_notes(sets: int) -> NDArray[np.uint8]:
    """Notes of so many empty sets, u8 [sets, LINE], each on a cache line."""
    space = np.zeros((sets + 1) * LINE, np.uint8)  # pages that no set was noted in take no memory
    begin = -address_of(space) % LINE
    return space[begin : begin + sets * LINE].reshape(sets, LINE)


def set_up(counters: NDArray[np.int64], slots: int) -> None:
    """What a table of so many slots counts with."""
    counters[SMALL_MOST] = slots // _SMALL_SHARE
    counters[TICK_SHIFT] = max(0, slots.bit_length() - 10)


@inlined
def line_of(notes, index):
    """The address of what is noted of a set."""
    return notes + index * LINE


@inlined
def ask_for_notes(notes, index):
    prefetch(line_of(notes, index))


@inlined
def use_of(notes, index, way):
    """How much a way's row is in use, 0 to MOST_USE: those of the main queue before those of the small one, by hits."""
    return np.uint8(load_u8(line_of(notes, index) + way))


@inlined
def is_small(use):
    """Whether a row in use so much is of the small queue."""
    return (use & MAIN) == np.uint8(0)


@inlined
def _tick(counters):
    return np.int64(counters[CLOCK] >> counters[TICK_SHIFT]) & _TICKS


@inlined
def _age(line, way, now):
    """Ticks since a way's row came."""
    return (now - np.int64(load_u16(line + _BORN + 2 * way))) & _TICKS


@inlined
def note_row(notes, index, way, use, age, counters):
    """A row is in a way now that held none, of so much use; `age` ticks ago it came."""
    line = line_of(notes, index)
    store_u8(line + way, np.uint8(use))
    store_u16(line + _BORN + 2 * way, np.uint16((_tick(counters) - age) & _TICKS))
    if is_small(use):
        counters[SMALL] += 1


@inlined
def forget_row(notes, index, way, counters):
    """A way's row is gone."""
    if is_small(use_of(notes, index, way)):
        counters[SMALL] -= 1
    store_u8(line_of(notes, index) + way, np.uint8(0))


@inlined
def move_note(notes, index, way, other, free):
    """What is noted of a row goes with it from one way to another."""
    line, target = line_of(notes, index), line_of(notes, other)
    store_u8(target + free, np.uint8(load_u8(line + way)))
    store_u16(target + _BORN + 2 * free, np.uint16(load_u16(line + _BORN + 2 * way)))
    store_u8(line + way, np.uint8(0))


@inlined
def note_hit(notes, index, way):
    """A row was hit."""
    use = use_of(notes, index, way)
    if (use & MOST_HITS) < MOST_HITS:
        store_u8(line_of(notes, index) + way, np.uint8(use + np.uint8(1)))


@inlined
def note_use(notes, index, way, use, counters):
    """A row is in use so much, whatever was noted of it."""
    counters[SMALL] += np.int64(is_small(use)) - np.int64(is_small(use_of(notes, index, way)))
    store_u8(line_of(notes, index) + way, np.uint8(use))


@inlined
def _fingerprint(h):
    """Of an id's hash: bits that do not choose its first set. Never 0."""
    return np.uint16((h & np.uint64(0xFFFF)) | np.uint64(1))


@inlined
def remember_id(notes, first, h):
    """An id has left whose first set is `first`: it becomes a ghost there, in the place of the oldest one."""
    line = line_of(notes, first)
    ghost = _GHOSTS + 2 * np.int64(load_u8(line + _NEXT_GHOST))
    store_u16(line + ghost, _fingerprint(h))
    following = ghost + 2 if ghost + 2 < LINE else _GHOSTS
    store_u8(line + _NEXT_GHOST, np.uint8((following - _GHOSTS) // 2))


@part
def came_back(notes, first, h):
    """Whether an id left a short while ago, as far as one can tell; it is no ghost any more."""
    line, wanted, found = line_of(notes, first), _fingerprint(h), False
    for ghost in range(_GHOSTS, LINE, 2):
        if np.uint16(load_u16(line + ghost)) == wanted:
            store_u16(line + ghost, np.uint16(0))
            found = True
    return found


@inlined
def _oldest(line, now):
    """Of the rows of a full set the one that came first of each queue: (way of the small one, its age, main, its age).

    Way 7 and age -1 where a queue has none here.
    """
    small, small_age, main, main_age = np.int64(WAYS), np.int64(-1), np.int64(WAYS), np.int64(-1)
    for way in range(WAYS):
        age = _age(line, way, now)
        if is_small(np.uint8(load_u8(line + way))):
            small, small_age = (np.int64(way), age) if age > small_age else (small, small_age)
        else:
            main, main_age = (np.int64(way), age) if age > main_age else (main, main_age)
    return small, small_age, main, main_age


@part
def choose_victim(notes, first, second, counters):
    """The way whose row leaves, of two full sets: (set index, way). Rows that are spared are noted as such."""
    now = _tick(counters)
    while True:
        small, small_age, main, main_age = _oldest(line_of(notes, first), now)
        other_small, other_small_age, other_main, other_main_age = _oldest(line_of(notes, second), now)
        none_main = main_age < 0 and other_main_age < 0
        none_small = small_age < 0 and other_small_age < 0
        from_small = none_main or (counters[SMALL] > counters[SMALL_MOST] and not none_small)
        if from_small:
            index, way = (first, small) if small_age >= other_small_age else (second, other_small)
        else:
            index, way = (first, main) if main_age >= other_main_age else (second, other_main)
        line = line_of(notes, index)
        use = np.uint8(load_u8(line + way))
        if from_small and (use & MOST_HITS) >= HITS_TO_STAY:
            counters[SMALL] -= 1
            store_u8(line + way, MAIN)
        elif not from_small and (use & MOST_HITS) > np.uint8(0):
            store_u8(line + way, np.uint8(use - np.uint8(1)))
        else:
            return index, way
        store_u16(line + _BORN + 2 * way, np.uint16(now))


@inlined
def tick_scale(old_counters, old_sets, counters, sets):
    """What one tick of an old table is in a new one, where ages are parts of the table."""
    ticks = 2.0 ** (old_counters[TICK_SHIFT] - counters[TICK_SHIFT])
    return ticks * sets / old_sets


@inlined
def age_elsewhere(old_notes, index, way, old_counters, scale):
    """The age of a row of another table, in ticks of this one; `scale`: of its ticks to ours."""
    age = _age(line_of(old_notes, index), way, _tick(old_counters))
    return min(np.int64(age * scale), np.int64(_TICKS))


@part
def take_ghosts(old_notes, old_sets, notes, sets, begin, end):
    """Take over the ghosts of the sets [begin, end) of an older region of the same table, as far as there is room.

    A set of twice as many has half of one's ids, and which half is not known of a ghost: it becomes one in both.
    """
    for index in range(begin * sets // old_sets, end * sets // old_sets):
        source, target = line_of(old_notes, index * old_sets // sets), line_of(notes, index)
        store_u8(target + _NEXT_GHOST, np.uint8(load_u8(source + _NEXT_GHOST)))
        for ghost in range(_GHOSTS, LINE, 2):
            store_u16(target + ghost, np.uint16(load_u16(source + ghost)))
