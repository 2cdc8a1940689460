"""Lookups from a process of their own, so that whoever measures beside them shares no interpreter with them.

Shared by the pairs that measure under load. Four threads with a connection each, as many lookups each.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np

from embcache_client import Client
from loadtest.arrivals import paced
from loadtest.latency import Latencies
from loadtest.workloads import U64s

LOOKERS = 4
QUERIES_EACH = 256
_WARM_UPS = 20
_SEED = 12


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked up: `size` random ids of `ids` u64 [n], repeats allowed, of a table."""

    url: str
    table: str
    ids: U64s
    size: int


class Load(NamedTuple):
    """What a paced load saw: latencies from when each lookup was due, and lookups answered a second."""

    p50_ms: float
    p99_ms: float
    rate: float


class Lookers:
    """The process. Its calls return at once; the results raise what went wrong there."""

    def __init__(self, pool: ProcessPoolExecutor, asked: Asked) -> None:
        self._pool = pool
        self._asked = asked

    def peak(self, seconds: float) -> Future[float]:
        """Lookups a second when each thread asks again as soon as it is answered."""
        return self._pool.submit(_peak, self._asked, seconds)

    def paced(self, rate: float, seconds: float) -> Future[Load]:
        """The load of `rate` lookups a second, over all threads, due at times of their own."""
        return self._pool.submit(_paced, self._asked, rate, seconds)


@contextmanager
def lookers(asked: Asked) -> Iterator[Lookers]:
    """Start the process, and end it with the block."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield Lookers(pool, asked)


def _peak(asked: Asked, seconds: float) -> float:
    def look_up(client: Client, queries: Sequence[U64s]) -> int:
        for count, query in enumerate(cycle(queries)):
            if time.perf_counter() >= end:
                return count
            client.lookup({asked.table: query})
        raise AssertionError("a cycle does not end")

    with _clients(asked) as (client, pool):
        queries = _queries(asked)
        began = time.perf_counter()
        end = began + seconds
        counts = pool.map(partial(look_up, client), queries)
        return sum(counts) / (time.perf_counter() - began)


def _paced(asked: Asked, rate: float, seconds: float) -> Load:
    each = max(round(rate * seconds / LOOKERS), 1)

    def look_up(client: Client, number: int, queries: Sequence[U64s]) -> Latencies:
        latencies = Latencies()
        calls = islice(cycle(queries), each)
        paced(lambda ids: client.lookup({asked.table: ids}), calls, rate / LOOKERS, latencies, number / rate)
        return latencies

    with _clients(asked) as (client, pool):
        queries = _queries(asked)
        began = time.perf_counter()
        latencies = Latencies()
        for seen in pool.map(partial(look_up, client), range(LOOKERS), queries):
            latencies.add(seen)
        took_s = time.perf_counter() - began
    return Load(latencies.percentile_ms(50), latencies.percentile_ms(99), latencies.count / took_s)


@contextmanager
def _clients(asked: Asked) -> Iterator[tuple[Client, ThreadPoolExecutor]]:
    """A client and its threads, each of which has asked before, so that no connection is made later on."""
    with Client(asked.url) as client, ThreadPoolExecutor(LOOKERS) as pool:
        for _ in range(_WARM_UPS):
            list(pool.map(lambda ids: client.lookup({asked.table: ids}), [asked.ids[: asked.size]] * LOOKERS))
        yield client, pool


def _queries(asked: Asked) -> list[list[U64s]]:
    """Queries for each thread."""
    rng = np.random.default_rng(_SEED)
    return [[rng.choice(asked.ids, asked.size) for _ in range(QUERIES_EACH)] for _ in range(LOOKERS)]
