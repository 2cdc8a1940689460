"""Words of use rings: put in order by table, and which of them may be of ids whose hash is below a threshold."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embcache.host.jit import kernel
from embcache.host.reports import by_entry, may_be_below, slot_of, slots_below, tags_below
from embcache.host.sets import FIRST, SECOND, hash_id, set_of
from embcache.host.sweep import tag_of

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


@kernel
def _of_id(key: np.uint64, sets: np.uint64, below: np.int64, rest: np.uint64, told: NDArray[np.uint64]) -> None:
    """The words of hits in its first set and in its second one, and whether they may be below: told [2, 3]."""
    h = hash_id(key)
    for turn in range(2):
        slot = np.uint64(set_of(h, FIRST if turn == 0 else SECOND, sets) * 7)
        tag = np.uint64(0) if turn == 0 else tag_of(h)
        told[turn, 0] = slot | (rest & np.uint64(1023)) << np.uint64(42) | tag << np.uint64(52) | rest << np.uint64(63)
        told[turn, 1] = np.uint64(may_be_below(told[turn, 0], slots_below(below, sets), tags_below(below)))
        told[turn, 2] = np.uint64(slot_of(told[turn, 0])) - slot


def hash_of(identifier: int) -> int:
    """Murmur3's finaliser, in whole numbers."""
    h = identifier
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        h = (h ^ h >> 33) * factor % 2**64
    return h ^ h >> 33


@settings(deadline=None)
@given(identifier=ANY, sets=st.integers(2, 2**30), below=st.integers(1, 2**27), rest=ANY)
def test_no_id_that_is_followed_is_passed_over_and_few_others_are_looked_at(
    identifier: int, sets: int, below: int, rest: int
) -> None:
    """In its first set or its second one, of a region of any size; and what stands in the other bits says nothing."""
    told = np.zeros((2, 3), np.uint64)
    _of_id(np.uint64(identifier), np.uint64(sets), np.int64(below), np.uint64(rest), told)
    assert (told[:, 2] == 0).all()
    high = hash_of(identifier) >> 32
    for maybe, parts in zip(told[:, 1], (sets, 2**11 - 1), strict=True):
        if high < below:
            assert maybe
        elif high >= below + 2**32 / parts:
            assert not maybe


def test_most_words_are_passed_over() -> None:
    ids, told = np.random.default_rng(1).integers(0, 2**64, 3000, np.uint64), np.zeros((3000, 2, 3), np.uint64)
    for i, each in enumerate(ids):
        _of_id(each, np.uint64(5000), np.int64(2**22), np.uint64(0), told[i])
    assert (told[:, :, 1].mean(axis=0) < 0.005).all()
