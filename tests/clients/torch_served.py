"""What the tests of embcache_client.torch share: a real service with tables, and torch's own modules beside ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache import EmbeddingCache
from embcache_client import Client
from tests.naive import default_row
from tests.service.running import Running, rows_of, running

DIM = 12
COUNT = 50
UNIFORM = {"uniform": 0.25}
TABLES = """
[[table]]
name = "item"
dim = 12
default = {uniform = 0.25}
[[table]]
name = "color"
dim = 12
feature = "paint"
default = {uniform = 0.25}
"""


@contextmanager
def served(folder: Path) -> Iterator[Running]:
    """`item` with rows_of ids 0 to 49, and the empty table `color` of feature `paint`."""
    with running(folder, TABLES) as service:
        with service.client() as client:
            refill(client)
        yield service


def refill(client: Client) -> None:
    """The rows that `item` began with, and none in `color`."""
    with client.importing("item") as load:
        load.write(np.arange(COUNT), rows_of(np.arange(COUNT, dtype=np.uint64)))
    with client.importing("color"):
        pass


@contextmanager
def source_of(kind: str, service: Running) -> Iterator[Any]:
    """A Client, or an EmbeddingCache of this process, of the same service."""
    if kind == "client":
        with service.client() as client:
            yield client
    else:
        with EmbeddingCache.attach(service.folder / "data") as cache:
            yield cache


def weight(ids: NDArray[np.uint64]) -> NDArray[np.float32]:
    """f32 [n, DIM]: what `item` has for ids, default rows included."""
    rows = rows_of(ids)
    for at, identifier in enumerate(ids.tolist()):
        if identifier >= COUNT:
            rows[at] = default_row(identifier, DIM, UNIFORM)
    return rows
