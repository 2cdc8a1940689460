"""Words of use rings: put in order by table, and which of them may be of ids whose hash is below a threshold."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embcache.host.reports import by_entry, may_be_below, slot_of, slots_below, tags_below
from embcache.host.sets import FIRST, SECOND, hash_id, set_of
from embcache.host.sweep import TAGS, tag_of

ANY = st.integers(0, 2**64 - 1)


@settings(deadline=None)  # the first example compiles
@given(words=st.lists(ANY | st.integers(0, 3).map(lambda entry: entry << 42)))
def test_words_come_by_their_entries_in_their_order(words: list[int]) -> None:
    expected: dict[int, list[int]] = {}
    for word in words:
        expected.setdefault(word >> 42 & 1023, []).append(word)
    told = {entry: of_entry.tolist() for entry, of_entry in by_entry(np.array(words, np.uint64))}
    assert told == expected
    assert list(told) == sorted(told)


@settings(deadline=None)
@given(
    identifier=ANY, sets=st.integers(2, 2**30), below=st.integers(1, 2**27), way=st.integers(0, 6), rest=st.integers(0)
)
def test_no_id_that_is_followed_is_passed_over_and_few_others_are_looked_at(
    identifier: int, sets: int, below: int, way: int, rest: int
) -> None:
    """In its first set or its second one, of a region of any size; and what stands in the other bits says nothing."""
    key = np.uint64(identifier)
    h = np.uint64(hash_id(key))
    slots, tags = np.uint64(slots_below(np.int64(below), sets)), np.uint64(tags_below(np.int64(below)))
    for turn, tag in ((FIRST, 0), (SECOND, int(tag_of(h)))):
        slot = int(set_of(h, turn, np.uint64(sets))) * 7 + way
        word = np.uint64(slot | (rest & 1023) << 42 | tag << 52 | (rest & 1) << 63)
        assert slot_of(word) == slot
        part = 2**32 / (sets if turn == FIRST else int(TAGS))
        if int(h) >> 32 < below:
            assert may_be_below(word, slots, tags)
        elif int(h) >> 32 >= below + part:
            assert not may_be_below(word, slots, tags)


def test_most_words_are_passed_over() -> None:
    ids, sets, below = np.random.default_rng(1).integers(0, 2**64, 3000, np.uint64), 5000, 2**22
    slots, tags = np.uint64(slots_below(np.int64(below), sets)), np.uint64(tags_below(np.int64(below)))
    for turn in (FIRST, SECOND):
        words = [
            np.uint64(int(set_of(h, turn, sets)) * 7 | (int(tag_of(h)) if turn == SECOND else 0) << 52)
            for h in map(np.uint64, map(hash_id, ids))
        ]
        assert np.mean([bool(may_be_below(word, slots, tags)) for word in words]) < 0.005
