"""How far behind what is applied was: nothing that a service does not say hides it."""

from __future__ import annotations

import numpy as np

from loadtest.pairs.producers import Shared, at_once, batches_of
from loadtest.pairs.progress import Behind, Reached
from loadtest.workloads import random_ids, rows_from_ids


def test_behind_counts_what_is_applied_and_how_long_it_took() -> None:
    behind = Behind()
    behind.acknowledged(3, 10.0)
    behind.acknowledged(4, 10.1)
    behind.reached(Reached(2, 0.0), 10.2)
    assert (behind.applied, behind.waiting, behind.worst_s) == (0, 2, 0.0)
    behind.reached(Reached(3, 0.25), 10.3)
    assert (behind.applied, behind.waiting) == (1, 1)
    np.testing.assert_allclose(behind.worst_s, 0.3)


def test_behind_sees_a_standstill_that_the_service_does_not_mention() -> None:
    behind = Behind()
    behind.acknowledged(3, 10.0)
    behind.reached(Reached(3, 0.0), 14.0)
    assert behind.worst_s == 4.0


def test_behind_believes_the_service_where_it_says_more() -> None:
    behind = Behind()
    behind.reached(Reached(3, 1.5), 10.0)
    assert behind.worst_s == 1.5


def test_batches_pass_over_all_rows_before_any_comes_again() -> None:
    ids = random_ids(100, np.random.default_rng(1))
    rows = rows_from_ids(ids, 4)
    batches = batches_of(ids, rows, 25, np.random.default_rng(2))
    for _ in range(2):
        taken = [next(batches) for _ in range(4)]
        assert sorted(np.concatenate([chosen for chosen, _ in taken]).tolist()) == ids.tolist()
        for chosen, its_rows in taken:
            np.testing.assert_array_equal(its_rows, rows_from_ids(chosen, 4))


def test_no_batch_is_taken_twice_by_threads() -> None:
    ids = np.arange(4000, dtype=np.uint64)
    shared = Shared(batches_of(ids, rows_from_ids(ids, 1), 1, np.random.default_rng(3)))
    taken: list[int] = []

    def take() -> None:
        taken.extend(int(next(shared)[0][0]) for _ in range(1000))

    at_once([take] * 4)
    assert sorted(taken) == ids.tolist()
