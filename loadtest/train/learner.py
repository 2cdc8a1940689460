"""The first process: learns steps from rows that it looks up, and pushes what they changed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache_client import Trainer, hash_values
from loadtest.datasets import DataError
from loadtest.load.schedule import clock_ns
from loadtest.train.model import Model
from loadtest.train.ratings import F64s, Ratings
from loadtest.train.rows import ITEM, USER, Place, Reader, Tables
from loadtest.train.steps import Step
from loadtest.workloads import F32s, U64s


class Deltas(NamedTuple):
    """What a step changes: rows f32 [m, dim] to be added to those of ids u64 [m], of each table."""

    user_ids: U64s
    users: F32s
    item_ids: U64s
    items: F32s


class Learner:
    """Learns step after step. place: from where on lookups see all that was pushed."""

    def __init__(self, model: Model, ratings: Ratings, tables: Tables, reader: Reader, trainer: Trainer) -> None:
        self._model, self._ratings, self._tables = model, ratings, tables
        self._reader, self._trainer = reader, trainer
        self._user_ids = hash_values(USER, ratings.users)
        self._item_ids = hash_values(ITEM, ratings.items)
        self.place = Place()

    def learn(self, step: Step) -> Deltas:
        """What the step changes of the rows as they are served; nothing is pushed. DataError where it runs away."""
        served = self._reader.look_up(step, self.place)
        user_ids, item_ids = self._user_ids[step.users], self._item_ids[step.items]
        users = self._begun(served.users, served.users_found, user_ids)
        items = self._begun(served.items, served.items_found, item_ids)
        with np.errstate(over="ignore", invalid="ignore"):
            self._model.learn(users, items, step.user, step.item, self._ratings.rating[step.ratings])
            deltas = Deltas(user_ids, _moved(served.users, users), item_ids, _moved(served.items, items))
        if not (np.isfinite(deltas.users).all() and np.isfinite(deltas.items).all()):
            raise DataError(f"the model runs away by rating {step.ratings[-1] + 1:,}: try a smaller --rate")
        return deltas

    def push(self, deltas: Deltas, timeout_s: float) -> int:
        """Push them, wait until they are durable, and go on from there; -> when they were pushed (of clock_ns).

        The client's errors, Timeout after timeout_s among them.
        """
        pushed_ns = clock_ns()
        self._trainer.add(self._tables.user, deltas.user_ids, deltas.users)
        self._trainer.add(self._tables.item, deltas.item_ids, deltas.items)
        position = self._trainer.flush(timeout_s)
        self.place = Place(position, self._trainer.history)
        return pushed_ns

    def _begun(self, served: F64s, found: NDArray[np.bool_], ids: U64s) -> F64s:
        """A copy of the rows to learn on; those that are not there yet begin."""
        rows = served.copy()
        if not found.all():
            rows[~found] = self._model.first_rows(ids[~found])
        return rows


def _moved(before: F64s, after: F64s) -> F32s:
    return (after - before).astype(np.float32)
