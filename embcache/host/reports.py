"""Reports of use, as the owner takes them from the rings of readers: words u64, a hit each (sweep.py has their form).

A reader can write anything into its ring: whatever a word says is checked against the table before it counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from embcache.host.jit import inlined, kernel
from embcache.host.layout import MAX_REGIONS, WAYS
from embcache.host.sweep import ENTRY_SHIFT, SAMPLED_SHIFT, TAG_SHIFT, TAGS, tag_of

Words = NDArray[np.uint64]

_SLOT = np.uint64((1 << ENTRY_SHIFT) - 1)
_ENTRY = np.uint64((1 << (TAG_SHIFT - ENTRY_SHIFT)) - 1)
_TAGGED = np.uint64(1 << TAG_SHIFT)
_WHERE = np.uint64(int(_SLOT) | int(TAGS) << TAG_SHIFT)  # a slot and the tag of its id


@inlined
def slot_of(word):
    """The slot that was hit."""
    return np.int64(word & _SLOT)


@inlined
def entry_of(word):
    """The directory entry of its region, if there is one of that number."""
    return np.int64((word >> np.uint64(ENTRY_SHIFT)) & _ENTRY)


@inlined
def is_sampled(word):
    """1 if it stands for SAMPLE hits, 0 if for itself."""
    return np.int64(word >> np.uint64(SAMPLED_SHIFT))


@inlined
def slots_below(below, sets):
    """How many slots there are of the sets in which ids stand first whose hash has a high half below `below`."""
    last = np.uint64(np.uint64(below - 1) * np.uint64(sets)) >> np.uint64(32)
    return np.uint64(np.uint64(last + np.uint64(1)) * np.uint64(WAYS))


@inlined
def tags_below(below):
    """How many tags such ids have."""
    return tag_of(np.uint64(below - 1) << np.uint64(32))


@inlined
def may_be_below(word, slots, tags):
    """Whether the id's hash may be such a one, by the word alone; slots, tags: by the functions above."""
    where = np.uint64(word & _WHERE)
    return (where < slots) | (np.uint64(where - _TAGGED) < np.uint64(tags << np.uint64(TAG_SHIFT)))


@kernel
def _sort(words, begins, of_each):
    """Put words into the order of their entries: those of entry e from begins[e] on, int64 [MAX_REGIONS + 1], zeros."""
    for i in range(words.shape[0]):
        begins[entry_of(words[i]) + 1] += 1
    for entry in range(MAX_REGIONS):
        begins[entry + 1] += begins[entry]
    following = begins.copy()
    for i in range(words.shape[0]):
        entry = entry_of(words[i])
        of_each[following[entry]] = words[i]
        following[entry] += 1


def by_entry(words: Words) -> Iterator[tuple[int, Words]]:
    """The words of each directory entry that some are of, in their order: one pass, however many entries there are."""
    begins, of_each = np.zeros(MAX_REGIONS + 1, np.int64), np.empty_like(words)
    _sort(words, begins, of_each)
    for entry in np.flatnonzero(np.diff(begins)).tolist():
        yield entry, of_each[begins[entry] : begins[entry + 1]]
