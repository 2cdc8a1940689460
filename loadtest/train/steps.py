"""In what steps ratings are predicted and learned: each step is predicted as a whole, and then learned as a whole.

In the passes steps are batches: up to so many ratings in a row. A batch learns its ratings one after the other, but
none of its predictions knows what the others taught.

In the last tenth steps are groups: no two ratings of one share a user or an item, and each comes after all older ones
of its user and of its item. What a rating's prediction depends on are the rows of its user and its item, so each is
predicted, and taught, as if one rating was taken at a time in the order of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from loadtest.train.ratings import Ratings
from loadtest.workloads import I64s


@dataclass(frozen=True, slots=True)
class Step:
    """Ratings that go together.

    ratings: i64[n], which ones, in order. users, items: i64, the distinct users and items of them. user, item: i64[n],
    for each rating its place in those.
    """

    ratings: I64s
    users: I64s
    items: I64s
    user: I64s
    item: I64s

    @classmethod
    def of(cls, ratings: Ratings, which: I64s) -> Self:
        """The step of these ratings."""
        users, user = np.unique(ratings.user[which], return_inverse=True)
        items, item = np.unique(ratings.item[which], return_inverse=True)
        return cls(which, users, items, user, item)

    def __len__(self) -> int:
        return len(self.ratings)


@dataclass(frozen=True, slots=True)
class Phase:
    """A pass over the first nine tenths, or the last tenth. number: of the pass, from 1 on; 0 for the last tenth."""

    number: int
    name: str
    ratings: range

    @property
    def is_last(self) -> bool:
        return self.number == 0

    def steps(self, ratings: Ratings, batch: int, ahead: int) -> Iterator[Step]:
        """All steps. batch: ratings of a step in a pass. ahead: how many are known at once in the last tenth."""
        if not self.is_last:
            whichs = batches(self.ratings, batch)
        else:
            whichs = (group for ahead_of in batches(self.ratings, ahead) for group in groups(ratings, ahead_of))
        return (Step.of(ratings, which) for which in whichs)


def phases(ratings: Ratings, passes: int) -> list[Phase]:
    """So many passes, and the last tenth."""
    first = range(ratings.first)
    made = [Phase(number, f"pass {number} of {passes}", first) for number in range(1, passes + 1)]
    return [*made, Phase(0, "last tenth", range(ratings.first, len(ratings)))]


def batches(which: range, size: int) -> Iterator[I64s]:
    """Up to `size` numbers in a row."""
    for start in range(0, len(which), size):
        part = which[start : start + size]
        yield np.arange(part.start, part.stop)


def groups(ratings: Ratings, which: I64s) -> list[I64s]:
    """The ratings `which` in as few groups as can be: each goes into the first behind those of all older ratings of
    its user and its item."""
    made: list[list[int]] = []
    next_of_user: dict[int, int] = {}
    next_of_item: dict[int, int] = {}
    for number, user, item in zip(
        which.tolist(), ratings.user[which].tolist(), ratings.item[which].tolist(), strict=True
    ):
        place = max(next_of_user.get(user, 0), next_of_item.get(item, 0))
        if place == len(made):
            made.append([])
        made[place].append(number)
        next_of_user[user] = next_of_item[item] = place + 1
    return [np.array(group, np.int64) for group in made]
