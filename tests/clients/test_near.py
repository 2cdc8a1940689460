"""The near-cache against a service whose rows change with time: what is answered was true not too long ago."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache_client import Client
from embcache_client.buffers import BufferPool
from embcache_client.call import Steps
from embcache_client.near import NearCache
from embcache_client.results import MISSING, NEAR, WARM, LookupResult, TableRows
from embcache_client.wire import Query
from tests.clients.conftest import Connect
from tests.clients.service import Service, row_of, served

DIM = 3
STALENESS = 10.0


def ids_of(*ids: int) -> NDArray[np.uint64]:
    return np.array(ids, np.uint64)


class Changing:
    """A table whose row of id x says x and when it was read; ids from 1000 on have none. Position and time are one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.version, self.history = "1", "h"
        self.asked: list[dict[str, list[int]]] = []

    def clock(self) -> float:
        return self.now

    def ask(self, queries: list[Query]) -> Steps[LookupResult]:
        yield from ()
        self.asked.append({query.table: query.ids.tolist() for query in queries})  # type: ignore[union-attr]
        results = []
        for query in queries:
            assert query.ids is not None
            status = np.where(query.ids < 1000, WARM, MISSING).astype(np.uint8)
            rows = np.full((len(query.ids), DIM), self.now, np.float32)
            rows[:, 0] = query.ids
            rows[status == MISSING] = 0
            results.append(TableRows(query.table, self.version, "f32", rows, status))
        return LookupResult(results, int(self.now), self.history)

    def look_up(self, cache: NearCache, **tables: NDArray[np.uint64]) -> LookupResult:
        return finish(cache.lookup([Query(table, ids) for table, ids in tables.items()], "f32", self.ask))


def finish(steps: Generator[Any, Any, LookupResult]) -> LookupResult:
    with pytest.raises(StopIteration) as stop:
        next(steps)
    result: LookupResult = stop.value.value
    return result


@pytest.fixture
def service() -> Changing:
    return Changing()


def cache_of(service: Changing, rows: int = 1000) -> NearCache:
    return NearCache(rows, STALENESS, BufferPool(), service.clock)


@pytest.mark.parametrize(("capacity", "seed"), [(1, 0), (3, 1), (7, 2), (8, 3), (50, 4), (400, 5), (5000, 6)])
def test_what_is_answered_was_true_not_too_long_ago(service: Changing, capacity: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cache = cache_of(service, capacity)
    near = 0
    for _ in range(300):
        service.now += rng.choice([0.0, 0.0, 1.0, 7.0])
        if rng.random() < 0.02:
            service.version = str(rng.integers(3))
        if rng.random() < 0.02:
            service.history = str(rng.integers(3))
        ids = rng.integers(0, 1200, rng.integers(0, 200)).astype(np.uint64) // np.uint64(rng.choice([1, 10]))
        result = service.look_up(cache, a=ids)
        rows = result["a"]
        there = ids < 1000
        assert np.array_equal(rows.status == MISSING, ~there)
        assert np.array_equal(rows.found, there)
        assert np.array_equal(rows.rows[there, 0], ids[there].astype(np.float32))
        assert not rows.rows[~there].any()
        read_at = rows.rows[there, 1]
        assert (read_at >= service.now - STALENESS).all()
        assert (read_at[rows.status[there] == WARM] == service.now).all()
        assert result.position <= read_at.min(initial=service.now)
        assert (rows.version, result.history) == (service.version, service.history) or (rows.status == NEAR).all()
        near += int((rows.status == NEAR).sum())
    assert near > 0


def test_only_what_is_not_kept_is_asked_for(service: Changing) -> None:
    cache = cache_of(service)
    service.look_up(cache, a=ids_of(1, 2), b=ids_of(7))
    service.now = STALENESS
    result = service.look_up(cache, a=ids_of(3, 1, 3, 2), b=ids_of(7))
    assert service.asked[1:] == [{"a": [3, 3]}]
    assert result["a"].status.tolist() == [WARM, NEAR, WARM, NEAR]
    assert result["a"].rows[:, :2].tolist() == [[3, STALENESS], [1, 0], [3, STALENESS], [2, 0]]
    assert result["b"].status.tolist() == [NEAR]
    assert (result.position, list(result)) == (0, ["a", "b"])  # the smallest of those at which the rows were read


def test_a_row_is_of_use_no_longer_than_was_said(service: Changing) -> None:
    cache = cache_of(service)
    service.look_up(cache, a=ids_of(1))
    for now, status in ((STALENESS, NEAR), (STALENESS + 0.001, WARM)):  # an answer from here makes nothing younger
        service.now = now
        assert service.look_up(cache, a=ids_of(1))["a"].status.tolist() == [status]


def test_a_row_is_as_old_as_the_lookup_that_brought_it(service: Changing) -> None:
    """The answer takes its time: the row may have been read when the lookup began."""
    cache = cache_of(service)

    def slow(queries: list[Query]) -> Steps[LookupResult]:
        result = yield from service.ask(queries)
        service.now += STALENESS
        return result

    finish(cache.lookup([Query("a", ids_of(1))], "f32", slow))
    service.now += 0.001
    assert service.look_up(cache, a=ids_of(1))["a"].status.tolist() == [WARM]


def test_an_answer_that_was_overtaken_pushes_out_no_newer_row(service: Changing) -> None:
    cache = cache_of(service)

    def overtaken(queries: list[Query]) -> Steps[LookupResult]:
        result = yield from service.ask(queries)
        service.now = 1
        assert service.look_up(cache, a=ids_of(1))["a"].rows.tolist() == [[1, 1, 1]]
        return result

    assert finish(cache.lookup([Query("a", ids_of(1))], "f32", overtaken))["a"].rows.tolist() == [[1, 0, 0]]
    service.now = STALENESS + 1
    assert service.look_up(cache, a=ids_of(1))["a"].rows.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("changed", ["version", "history"])
def test_rows_of_two_versions_or_histories_are_never_in_one_result(service: Changing, changed: str) -> None:
    cache = cache_of(service)
    service.look_up(cache, a=ids_of(1), b=ids_of(1))
    setattr(service, changed, "other")
    service.now = 1
    result = service.look_up(cache, a=ids_of(1, 2))
    assert service.asked[1:] == [{"a": [2]}, {"a": [1, 2]}]
    assert result["a"].status.tolist() == [WARM, WARM]
    assert (result["a"].rows[:, 1] == 1).all()
    assert service.look_up(cache, a=ids_of(1, 2))["a"].status.tolist() == [NEAR, NEAR]
    if changed == "history":  # b is of the other one still
        assert service.look_up(cache, a=ids_of(1), b=ids_of(1))["b"].status.tolist() == [WARM]


def test_memory_is_bounded_by_the_rows_that_are_kept(service: Changing) -> None:
    cache = cache_of(service, 100)
    every = np.arange(1000, dtype=np.uint64)
    service.look_up(cache, a=every)
    near = int((service.look_up(cache, a=every)["a"].status == NEAR).sum())
    assert 80 <= near <= 100


def test_many_threads(service: Changing) -> None:
    """Rows tell their id and one time each: none is torn, and none is another's."""
    cache, wrong = cache_of(service, 64), []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for turn in range(400):
            service.now = max(service.now, float(turn))
            ids = rng.integers(0, 150, 60).astype(np.uint64)
            rows = service.look_up(cache, a=ids)["a"].rows
            if not (rows[:, 0] == ids).all() or not (rows[:, 1] == rows[:, 2]).all():
                wrong.append(turn)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- through the clients ---------------------------------------------------------------------------------------------


class Counting(Service):
    lookups = 0

    def answer(self, scope: dict[str, Any], body: bytes) -> tuple[bytes, bytes]:
        self.lookups += scope["path"] == "/v1/lookup"
        return super().answer(scope, body)


@pytest.fixture
def counting() -> Iterator[tuple[str, Counting]]:
    service = Counting()
    with served(service) as url:
        yield url, service


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8"])
def test_the_clients_keep_rows_of_each_dtype(counting: tuple[str, Counting], connect: Connect, dtype: str) -> None:
    url, service = counting
    client = connect(url, near_cache_rows=100, max_staleness_s=1000)
    first = client.lookup({"item": [1, 2, 2**63], "user": [5]}, dtype=dtype)
    second = client.lookup({"item": [2, 1], "user": [5]}, dtype=dtype)
    assert service.lookups == 1
    assert second["item"].status.tolist() == [NEAR, NEAR]
    assert second["item"].rows.tolist() == first["item"].rows[[1, 0]].tolist()
    assert (second.position, second.history) == (first.position, first.history)
    third = client.lookup({"item": [3, 2**63, 2]}, dtype=dtype)
    assert third["item"].status.tolist() == [3, MISSING, NEAR]
    assert third["item"].rows[2].tolist() == second["item"].rows[0].tolist()
    assert service.lookups == 2


@pytest.mark.parametrize(
    "more", [{"strict": True}, {"min_position": 1}, {"history": "h"}, {"version": "1"}, {"version": {"item": "1"}}]
)
def test_who_asks_for_more_asks_the_service(
    counting: tuple[str, Counting], connect: Connect, more: dict[str, Any]
) -> None:
    url, service = counting
    client = connect(url, near_cache_rows=100, max_staleness_s=1000)
    for _ in range(2):
        client.lookup({"item": [1]})
    for _ in range(2):
        assert client.lookup({"item": [1]}, **more)["item"].status.tolist() == [3]
    client.lookup({"item": ["a"]})
    client.lookup_bags({"item": ([1], [1])})
    assert service.lookups == 5


def test_nothing_is_kept_unless_it_is_asked_for(counting: tuple[str, Counting], connect: Connect) -> None:
    url, service = counting
    client = connect(url)
    assert [client.lookup({"item": [1]})["item"].status.tolist() for _ in range(2)] == [[3], [3]]
    assert service.lookups == 2


def test_what_was_answered_stays_as_it_is(counting: tuple[str, Counting], connect: Connect) -> None:
    """The caller's arrays are the caller's: neither later rows nor what it writes reaches the other."""
    client = connect(counting[0], near_cache_rows=8, max_staleness_s=1000)
    client.lookup({"item": [1]})
    mine = client.lookup({"item": [1]})["item"].rows
    mine[:] = 77
    assert client.lookup({"item": [1]})["item"].rows.tolist() == [row_of(1)]
    client.lookup({"item": list(range(2, 100))})
    assert (mine == 77).all()


@pytest.mark.parametrize(
    "options",
    [
        {"near_cache_rows": 10},
        {"near_cache_rows": -1, "max_staleness_s": 1},
        {"near_cache_rows": 10, "max_staleness_s": -1},
        {"near_cache_rows": 10, "max_staleness_s": float("nan")},
        {"max_staleness_s": 1},
    ],
)
def test_settings_that_can_never_be_right(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="near_cache_rows"):
        Client("http://127.0.0.1:1", **options)
