"""A served instance whose rows are all in its warm tier. Shared by the HTTP pairs."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache_client import Client
from embcache_client.address import Address
from embcache_client.http1 import RequestHeads
from embcache_client.results import WARM
from embcache_client.wire import MEDIA_TYPE, Query, encode_lookup
from loadtest.datasets import Dataset
from loadtest.importing import import_table
from loadtest.served import served
from loadtest.workloads import F32s, Lookups, U64s

TABLE = "rows"
WARM_UP_IDS = 4096
MAX_PASSES = 10
SMALLEST_MIB, TABLE_MIB = 16, 4
NO_LOOKUPS = Lookups(np.empty(0, np.uint64), np.zeros(1, np.int64))

Table = tuple[U64s, NDArray[Any]]
"""ids u64 [n], ascending, and their rows [n, dim] of float32 or float16, which is what the table keeps."""


@dataclass(frozen=True, slots=True)
class WarmService:
    """Where it listens, a client of it, and its data folder."""

    url: str
    client: Client
    data: Path


class NotWarm(RuntimeError):
    """Rows that should all fit the warm tier do not come from it."""


@contextmanager
def warm_service(
    ids: U64s, rows: F32s, *, unix: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[WarmService]:
    """Serve one table, TABLE, as warm_tables() does."""
    with warm_tables({TABLE: (ids, rows)}, unix=unix, environment=environment) as service:
        yield service


@contextmanager
def warm_tables(
    tables: Mapping[str, Table], *, unix: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[WarmService]:
    """Serve the tables with twice the memory that they take, and look them up until all comes from the warm tier.

    unix: `url` and `client` are of a Unix socket rather than TCP loopback. environment: settings of the service.
    """
    row_mib = 2 * sum(rows.nbytes for _, rows in tables.values()) >> 20
    with ExitStack() as stack:
        environment = dict(environment or {})
        if unix:
            socket = Path(stack.enter_context(TemporaryDirectory(prefix="loadtest-unix-")), "socket")
            environment["EMBCACHE_SERVER__UDS"] = str(socket)
        service = stack.enter_context(served(f"{SMALLEST_MIB + TABLE_MIB * len(tables) + row_mib}MiB", environment))
        url = f"http+unix://{socket}" if unix else service.url
        client = stack.enter_context(Client(url))
        for table, (ids, rows) in tables.items():
            import_table(client, Dataset(table, ids, rows, NO_LOOKUPS, ""))
        for table, (ids, _) in tables.items():
            _warm(client, table, ids)
        yield WarmService(url, client, service.config.parent / "data")


def _warm(client: Client, table: str, ids: U64s) -> None:
    """Look up all ids until all are warm. NotWarm where that does not come to be."""
    pieces = [ids[start : start + WARM_UP_IDS] for start in range(0, len(ids), WARM_UP_IDS)]
    for _ in range(MAX_PASSES):
        cold = sum(int(np.count_nonzero(client.lookup({table: piece})[table].status != WARM)) for piece in pieces)
        if not cold:
            return
    raise NotWarm(f"{cold} of {len(ids)} rows of {table} are not warm after {MAX_PASSES} passes over all of them")


class Exchanged(NamedTuple):
    """What a lookup sends, head and body, and the body of its answer."""

    request: bytes
    reply: bytes


def exchanged(url: str, ids: U64s) -> Exchanged:
    """A lookup of these ids of TABLE over TCP, as our client makes it."""
    body = encode_lookup([Query(TABLE, ids)])
    head = RequestHeads(Address.parse(url), None).head("POST", "/v1/lookup", MEDIA_TYPE, len(body))
    request = urllib.request.Request(f"{url}/v1/lookup", data=body, headers={"content-type": MEDIA_TYPE})
    with urllib.request.urlopen(request) as reply:
        return Exchanged(head + body, reply.read())
