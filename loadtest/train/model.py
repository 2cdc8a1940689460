"""Matrix factorisation with biases, learned by stochastic gradient descent, a rating at a time (Koren, Bell and
Volinsky, "Matrix Factorization Techniques for Recommender Systems", 2009).

A row is a user's or an item's factors, and its bias in the last column. Pure functions of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from loadtest.train.ratings import F64s
from loadtest.workloads import I64s, U64s

_SPREAD: Final = 0.1


@dataclass(frozen=True, slots=True)
class Model:
    """mean: of the ratings learned, to which biases are relative. rate: of the descent. seed: of first rows."""

    mean: float
    factors: int
    rate: float
    regularisation: float
    seed: int

    @property
    def dim(self) -> int:
        """Of a row."""
        return self.factors + 1

    def first_rows(self, ids: U64s) -> F64s:
        """f64 [n, dim]: rows of ids that nothing is known of, each from the seed and its id, without a bias."""
        rows = np.zeros((len(ids), self.dim))
        for row, feature_id in zip(rows, ids.tolist(), strict=True):
            row[:-1] = np.random.default_rng([self.seed, feature_id]).normal(0, _SPREAD, self.factors)
        return rows

    def predict(self, users: F64s, items: F64s) -> F64s:
        """f64 [n] from rows [n, dim]; rows of zeros, as of ids that are not there, add nothing."""
        dots: F64s = np.einsum("nf,nf->n", users[:, :-1], items[:, :-1])
        return self.mean + users[:, -1] + items[:, -1] + dots

    def learn(self, users: F64s, items: F64s, user: I64s, item: I64s, rating: F64s) -> None:
        """Learn n ratings one after the other, in place: that of the rows users[user[k]] and items[item[k]] each.

        The rows are [m, dim]; user, item: i64[n]; rating: f64[n].
        """
        rate, shrink = self.rate, 1 - self.rate * self.regularisation
        for one, other, value in zip(user.tolist(), item.tolist(), rating.tolist(), strict=True):
            of_user, of_item = users[one], items[other]
            dot = float(of_user[:-1] @ of_item[:-1])
            step = rate * (value - (self.mean + float(of_user[-1]) + float(of_item[-1]) + dot))
            towards = step * of_item
            towards[-1] = step
            of_item *= shrink
            of_item[:-1] += step * of_user[:-1]
            of_item[-1] += step
            of_user *= shrink
            of_user += towards
