"""A served instance with one table whose rows are all in its warm tier. Shared by the HTTP pairs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from embcache_client import Client
from embcache_client.results import WARM
from loadtest.datasets import Dataset
from loadtest.importing import import_table
from loadtest.served import served
from loadtest.workloads import F32s, Lookups, U64s

TABLE = "rows"
WARM_UP_IDS = 4096
MAX_PASSES = 10
NO_LOOKUPS = Lookups(np.empty(0, np.uint64), np.zeros(1, np.int64))


@dataclass(frozen=True, slots=True)
class WarmService:
    """Where it listens, and a client of it."""

    url: str
    client: Client


class NotWarm(RuntimeError):
    """Rows that should all fit the warm tier do not come from it."""


@contextmanager
def warm_service(ids: U64s, rows: F32s) -> Iterator[WarmService]:
    """Serve the rows with twice the memory that they take, and look them up until all come from the warm tier."""
    with served(f"{max(2 * rows.nbytes >> 20, 16)}MiB") as service, Client(service.url) as client:
        import_table(client, Dataset(TABLE, ids, rows, NO_LOOKUPS, ""))
        for _ in range(MAX_PASSES):
            cold = _not_warm(client, ids)
            if not cold:
                break
        else:
            raise NotWarm(f"{cold} of {len(ids)} rows are not warm after {MAX_PASSES} passes over all of them")
        yield WarmService(service.url, client)


def _not_warm(client: Client, ids: U64s) -> int:
    """Look up all ids once; -> how many did not come from the warm tier."""
    pieces = (ids[start : start + WARM_UP_IDS] for start in range(0, len(ids), WARM_UP_IDS))
    return sum(int(np.count_nonzero(client.lookup({TABLE: piece})[TABLE].status != WARM)) for piece in pieces)
