"""The model once more, as naive as can be: NumPy, f64, one rating at a time, nothing of loadtest or embcache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

F64s = NDArray[np.float64]


class Rating(NamedTuple):
    user: str
    item: str
    value: float


def id_of(feature: str, value: str) -> int:
    return xxhash.xxh3_64_intdigest(value.encode(), xxhash.xxh3_64_intdigest(feature.encode()))


@dataclass
class Oracle:
    """users, items: factors and bias of each that a rating was learned of."""

    mean: float
    factors: int = 4
    rate: float = 0.05
    regularisation: float = 0.05
    seed: int = 1
    users: dict[str, tuple[F64s, float]] = field(default_factory=dict)
    items: dict[str, tuple[F64s, float]] = field(default_factory=dict)

    def predict(self, one: Rating) -> float:
        nothing = (np.zeros(self.factors), 0.0)
        p, b = self.users.get(one.user, nothing)
        q, c = self.items.get(one.item, nothing)
        return self.mean + b + c + float(np.dot(p, q))

    def learn(self, one: Rating) -> None:
        p, b = self.users.get(one.user) or (self._first("user", one.user), 0.0)
        q, c = self.items.get(one.item) or (self._first("item", one.item), 0.0)
        error = one.value - (self.mean + b + c + float(np.dot(p, q)))
        down = self.regularisation
        self.users[one.user] = p + self.rate * (error * q - down * p), b + self.rate * (error - down * b)
        self.items[one.item] = q + self.rate * (error * p - down * q), c + self.rate * (error - down * c)

    def _first(self, feature: str, value: str) -> F64s:
        return np.random.default_rng([self.seed, id_of(feature, value)]).normal(0, 0.1, self.factors)


class Expected(NamedTuple):
    """The RMSE of each pass, in batches; the errors of the last tenth, one by one; the model after all of it."""

    passes: list[float]
    last: F64s
    model: Oracle


def expected(ratings: Sequence[Rating], passes: int, batch: int) -> Expected:
    """ratings: in the order of time."""
    first = len(ratings) - len(ratings) // 10
    model = Oracle(sum(one.value for one in ratings[:first]) / first)
    rmses = []
    for _ in range(passes):
        errors = []
        for start in range(0, first, batch):
            together = ratings[start : min(start + batch, first)]
            errors += [one.value - model.predict(one) for one in together]
            for one in together:
                model.learn(one)
        rmses.append(rmse(np.array(errors)))
    last = []
    for one in ratings[first:]:
        last.append(one.value - model.predict(one))
        model.learn(one)
    return Expected(rmses, np.array(last), model)


def rmse(errors: F64s) -> float:
    return float(np.sqrt(np.mean(errors**2)))
