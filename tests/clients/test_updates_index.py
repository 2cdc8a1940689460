"""Ids numbered as they come, against a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embcache_client.id_index import IdIndex

some_ids = st.lists(st.one_of(st.sampled_from([0, 1, 2, 2**32, 2**64 - 1]), st.integers(0, 2**64 - 1)), max_size=40)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(some_ids, some_ids), max_size=8))
def test_an_id_keeps_its_slot_and_an_unknown_one_gets_none(calls: list[tuple[list[int], list[int]]]) -> None:
    index = IdIndex()
    known: dict[int, int] = {}
    for asked, added in calls:
        found = index.known_slots(np.array(asked, np.uint64))
        assert sorted(found.tolist()) == sorted(known[x] for x in asked if x in known)
        assert index.used == len(known)
        for feature_id, slot in zip(added, index.slots_of(np.array(added, np.uint64)).tolist(), strict=True):
            assert known.setdefault(feature_id, slot) == slot
        assert sorted(known.values()) == list(range(len(known)))
        assert index.ids[: index.used].tolist() == sorted(known, key=lambda x: known[x])


def test_many_ids_are_found_again_after_it_grew() -> None:
    random = np.random.default_rng(0)
    ids = np.unique(np.concatenate([np.arange(20_000, dtype=np.uint64), random.integers(0, 2**64, 20_000, np.uint64)]))
    random.shuffle(ids)
    index = IdIndex()
    for piece in np.array_split(ids, 30):
        index.slots_of(piece)
    np.testing.assert_array_equal(index.ids[index.slots_of(ids)], ids)
    assert index.used == len(ids) == len(np.unique(index.known_slots(ids)))
    assert len(index.known_slots(np.arange(2**40, 2**40 + 1000, dtype=np.uint64))) == 0
