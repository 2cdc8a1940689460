"""The rows of users and items as the service has them: their two tables, and lookups by feature value."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache_client import Client, LookupResult
from embcache_client.errors import UnknownTable
from embcache_client.results import FAILED, LATE
from loadtest.datasets import DataError
from loadtest.load.asking import Target
from loadtest.processes import ProcessFailed
from loadtest.train.ratings import F64s
from loadtest.train.steps import Step

USER, ITEM = "user", "item"
"""The features: values are hashed as theirs, whatever the tables are called."""

_DEADLINE_SHARE: Final = 0.9  # of the client's timeout, so that the service's answer comes first


class Tables(NamedTuple):
    """The names of both."""

    user: str
    item: str

    @classmethod
    def named(cls, name: str) -> Tables:
        return cls(f"{name}_user", f"{name}_item")


class Place(NamedTuple):
    """A place in the service's stream of updates: a lookup from there on sees all that was pushed before."""

    position: int = 0
    history: str | None = None


class Looked(NamedTuple):
    """Rows as they were served: f64 [m, dim] for each distinct user and item of a step, and whether they are there.

    Those that are not are zeros, the tables' default rows.
    """

    users: F64s
    items: F64s
    users_found: NDArray[np.bool_]
    items_found: NDArray[np.bool_]


def make_table(client: Client, name: str, feature: str, dim: int) -> None:
    """Create a table without rows. DataError where it is there already."""
    with contextlib.suppress(UnknownTable):
        client.table(name)
        raise DataError(f"the service has a table {name} already: drop it, or give others a --name")
    client.create_table({"name": name, "dim": dim, "dtype": "f32", "feature": feature})


class Reader:
    """Looks up rows of steps by the values of their users and items. A context manager, for one thread."""

    def __init__(self, target: Target, tables: Tables, users: Sequence[str], items: Sequence[str]) -> None:
        self._client = Client(target.url, token=target.token, timeout=target.timeout_s)
        self._tables, self._users, self._items = tables, users, items
        self._deadline_ms = max(round(target.timeout_s * 1000 * _DEADLINE_SHARE), 1)

    def look_up(self, step: Step, place: Place) -> Looked:
        """The rows of a step, not older than `place`. ProcessFailed where some are late or damaged."""
        asked = {
            self._tables.user: [self._users[user] for user in step.users.tolist()],
            self._tables.item: [self._items[item] for item in step.items.tolist()],
        }
        result = self._client.lookup(
            asked, min_position=place.position, history=place.history, deadline_ms=self._deadline_ms
        )
        users, users_found = self._rows(result, self._tables.user)
        items, items_found = self._rows(result, self._tables.item)
        return Looked(users, items, users_found, items_found)

    def _rows(self, result: LookupResult, table: str) -> tuple[F64s, NDArray[np.bool_]]:
        rows = result[table]
        if unread := int(np.isin(rows.status, (LATE, FAILED)).sum()):
            raise ProcessFailed(f"{unread} rows of {table} came late (after {self._deadline_ms} ms) or are damaged")
        return rows.rows.astype(np.float64), rows.found

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
