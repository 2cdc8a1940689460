"""Steps: all ratings once, and those of a group as good as one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.train.ratings import Ratings, made_ratings
from loadtest.train.steps import Step, batches, groups, phases


def test_batches_are_ratings_in_a_row() -> None:
    assert [batch.tolist() for batch in batches(range(3, 10), 3)] == [[3, 4, 5], [6, 7, 8], [9]]
    assert list(batches(range(4, 4), 3)) == []


@pytest.mark.parametrize("count", [1, 7, 400])
def test_groups_keep_the_order_of_every_user_and_item(count: int) -> None:
    ratings = made_ratings(1000, 3)
    which = np.arange(50, 50 + count)
    made = groups(ratings, which)
    assert sorted(np.concatenate(made).tolist()) == which.tolist()
    group_of = {number: place for place, group in enumerate(made) for number in group.tolist()}
    for older in which.tolist():
        for newer in range(older + 1, 50 + count):
            if ratings.user[older] == ratings.user[newer] or ratings.item[older] == ratings.item[newer]:
                assert group_of[older] < group_of[newer]
    # As few as can be: whoever is in a group has someone in the one before it who had to come first.
    for place in range(1, len(made)):
        for newer in made[place].tolist():
            assert any(
                older < newer
                and (ratings.user[older] == ratings.user[newer] or ratings.item[older] == ratings.item[newer])
                for older in made[place - 1].tolist()
            )


def test_phases_are_passes_and_the_last_tenth() -> None:
    ratings = made_ratings(105, 1)
    made = phases(ratings, 2)
    assert [(phase.name, phase.ratings, phase.is_last) for phase in made] == [
        ("pass 1 of 2", range(95), False),
        ("pass 2 of 2", range(95), False),
        ("last tenth", range(95, 105), True),
    ]
    assert [len(step) for step in made[0].steps(ratings, 40, 4)] == [40, 40, 15]
    last = [step.ratings for step in made[2].steps(ratings, 40, 4)]
    assert sorted(np.concatenate(last).tolist()) == list(range(95, 105))
    assert sorted(np.concatenate(last)[:4].tolist()) == [95, 96, 97, 98]  # no further ahead than 4


def test_a_step_has_each_user_and_item_once() -> None:
    user, item = np.array([5, 1, 5, 1, 1]), np.array([2, 2, 3, 0, 2])
    names = tuple(map(str, range(6)))
    ratings = Ratings(names, names, user, item, np.arange(5.0), "")
    step = Step.of(ratings, np.array([0, 2, 3]))
    assert (step.users.tolist(), step.items.tolist()) == ([1, 5], [0, 2, 3])
    np.testing.assert_array_equal(step.users[step.user], user[step.ratings])
    np.testing.assert_array_equal(step.items[step.item], item[step.ratings])
