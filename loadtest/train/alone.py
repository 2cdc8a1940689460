"""The same model over the same ratings in NumPy alone, one at a time: what comes of it through a service, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from embcache_client import hash_values
from loadtest.train.model import Model
from loadtest.train.ratings import F64s, Ratings
from loadtest.train.rows import ITEM, USER

_AT_ONCE: Final = 5_000


def alone(model: Model, ratings: Ratings, passes: int, done: Callable[[int, int], object]) -> F64s:
    """f64: a prediction for each rating of the last tenth, made before it was learned.

    done: told how many ratings of how many were learned.
    """
    users = model.first_rows(hash_values(USER, ratings.users))
    items = model.first_rows(hash_values(ITEM, ratings.items))
    total = passes * ratings.first + len(ratings) - ratings.first
    for number in range(passes):
        for start in range(0, ratings.first, _AT_ONCE):
            part = slice(start, min(start + _AT_ONCE, ratings.first))
            model.learn(users, items, ratings.user[part], ratings.item[part], ratings.rating[part])
            done(number * ratings.first + part.stop, total)
    predictions = _one_by_one(model, ratings, users, items, learned=passes > 0)
    done(total, total)
    return predictions


def _one_by_one(model: Model, ratings: Ratings, users: F64s, items: F64s, *, learned: bool) -> F64s:
    """Predict and learn the last tenth. Nothing is known of whom no rating was learned."""
    user_known, item_known = np.zeros(len(users), np.bool_), np.zeros(len(items), np.bool_)
    if learned:
        user_known[ratings.user[: ratings.first]] = True
        item_known[ratings.item[: ratings.first]] = True
    nothing = np.zeros((1, model.dim))
    predictions = np.empty(len(ratings) - ratings.first)
    for place in range(len(predictions)):
        one = slice(ratings.first + place, ratings.first + place + 1)
        user, item = ratings.user[one], ratings.item[one]
        of_user = users[user] if user_known[user] else nothing
        of_item = items[item] if item_known[item] else nothing
        predictions[place] = model.predict(of_user, of_item)[0]
        model.learn(users, items, user, item, ratings.rating[one])
        user_known[user] = item_known[item] = True
    return predictions
