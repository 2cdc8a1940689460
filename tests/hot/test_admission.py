"""What may move up: all that was missed while the writer keeps up, what is asked for again where it does not."""

from __future__ import annotations

from collections import Counter

import numpy as np

from embcache.hot.admission import Admission, enough
from embcache.hot.writer import WAITING_IDS


def test_an_id_is_picked_from_the_time_on_that_is_enough() -> None:
    choose, admission, asked = np.random.default_rng(1), Admission(), Counter[tuple[int, int]]()
    for _ in range(200):
        version, times = int(choose.integers(1, 4)), int(choose.integers(1, 5))
        ids = choose.choice(300, 20, replace=False).astype(np.uint64)
        asked.update((version, each) for each in ids.tolist())
        wanted = [each for each in ids.tolist() if asked[version, each] >= times]
        assert admission.pick(version, ids, times).tolist() == wanted


def test_what_was_asked_for_long_ago_counts_less() -> None:
    admission, ids = Admission(), np.arange(1000, dtype=np.uint64)
    for _ in range(3):
        admission.pick(1, ids, 1)
    others = np.full(1 << 20, 1 << 60, np.uint64)
    for _ in range(8):
        admission.pick(1, others, 1)
    assert admission.pick(1, ids, 3).size == 0
    assert admission.pick(1, ids, 3).tolist() == ids.tolist()


def test_the_longer_the_line_the_more_often_an_id_must_have_been_asked_for() -> None:
    asked = [enough(waiting) for waiting in range(0, WAITING_IDS, 1024)]
    assert asked == sorted(asked)
    assert (asked[0], asked[-1]) == (1, 4)
