"""Both clients against a small real HTTP server, whose answers are computed value by value."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from embcache_client import Client, Values, errors
from embcache_client.admin import IMPORT_PAGE_BYTES
from tests.clients.conftest import Connect
from tests.clients.service import DIM, Service, id_of, pool, row_of, served

MISSING = 2**63 + 5
IDS = [7, 0, 123456, MISSING, 7, 2**64 - 1]


@pytest.fixture(scope="module")
def url_of_service() -> Iterator[tuple[str, Service]]:
    service = Service()
    with served(service) as url:
        yield url, service


@pytest.fixture
def service(url_of_service: tuple[str, Service]) -> Service:
    url_of_service[1].tables.clear()
    url_of_service[1].imports.clear()
    return url_of_service[1]


@pytest.fixture
def client(url_of_service: tuple[str, Service], service: Service, connect: Connect) -> Any:
    return connect(url_of_service[0])


def test_lookup(client: Any) -> None:
    result = client.lookup({"item": np.array(IDS, np.uint64), "user": [1, 2]}, min_position=10)
    assert list(result) == ["item", "user"]
    assert result["item"].rows.dtype == np.float32
    assert result["item"].rows.tolist() == [row_of(x) for x in IDS]
    assert result["item"].status.tolist() == [3, 3, 3, 0, 3, 0]
    assert result["item"].found.tolist() == [True, True, True, False, True, False]
    assert result["user"].rows.tolist() == [row_of(1), row_of(2)]
    assert (result.position, result.history) == (15, "h")


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 0), ("f16", 2**-10), ("bf16", 2**-7), ("q8", 1)])
def test_dtypes(client: Any, dtype: str, tolerance: float) -> None:
    rows = client.lookup({"item": IDS}, dtype=dtype)["item"]
    assert rows.dtype == dtype
    np.testing.assert_allclose(rows.rows, [row_of(x) for x in IDS], rtol=tolerance, atol=1e-9)


def test_values_are_hashed_by_the_service(client: Any) -> None:
    result = client.lookup({"item": ["a", "日本"], "user": Values([1, -1])})
    assert result["item"].rows.tolist() == [row_of(id_of("item", value)) for value in ("a", "日本")]
    assert result["user"].rows.tolist() == [row_of(id_of("user", value)) for value in (1, -1)]


def test_bags(client: Any) -> None:
    lengths = [2, 0, 3, 1]
    bags = [IDS[0:2], [], IDS[2:5], IDS[5:]]
    for pooling in ("sum", "mean"):
        result = client.lookup_bags({"item": (IDS, lengths)}, pooling=pooling)["item"]
        np.testing.assert_allclose(result.rows, [pool(bag, [1.0] * len(bag), pooling) for bag in bags])
        assert len(result.status) == len(IDS)
    weights = np.array([1, 2, 0.5, 4, -1, 3], np.float32)
    weighted = client.lookup_bags({"item": (IDS, lengths, weights)})["item"].rows
    pieces = np.split(weights, [2, 2, 5])
    expected = [pool(bag, piece.tolist(), "sum") for bag, piece in zip(bags, pieces, strict=True)]
    np.testing.assert_allclose(weighted, expected)


def test_a_lookup_of_no_ids(client: Any) -> None:
    result = client.lookup({"item": []})["item"]
    assert result.rows.shape == (0, DIM)
    assert result.status.shape == (0,)


def test_a_large_lookup(client: Any) -> None:
    ids = np.arange(50_000)
    rows = client.lookup({"item": ids})["item"].rows
    np.testing.assert_array_equal(rows, ids[:, None] % 1000 + np.arange(DIM, dtype=np.float32) / 64)


def test_versions_are_pinned(client: Any) -> None:
    assert client.lookup({"item": [1], "user": [1]}, version={"item": "8"})["item"].version == "8"


def test_the_token_goes_along(url_of_service: tuple[str, Service], service: Service, connect: Connect) -> None:
    service.authorizations.clear()
    connect(url_of_service[0], token="s3cret").tables()
    assert service.authorizations == {"Bearer s3cret"}


def test_tables(client: Any) -> None:
    spec = {"name": "item", "dim": DIM, "default": {"uniform": 0.01}}
    described = {"spec": spec, "version": "1", "rows": 0}
    assert client.create_table(spec) == described
    assert client.tables() == [described]
    assert client.table("item") == described
    assert client.drop_table("item") is None
    with pytest.raises(errors.UnknownTable, match="unknown_table: no table 'item'") as unknown:
        client.table("item")
    assert unknown.value.http_status == 404
    with pytest.raises(ValueError, match="needs its name"):
        client.create_table({"dim": 4})
    assert client.tables() == []


def test_import_and_export(client: Any, service: Service) -> None:
    ids = np.array([0, 3, 2**63, 2**64 - 1], np.uint64)
    rows = np.arange(16, dtype=np.float64).reshape(4, 4)
    with client.importing("item", {"name": "item", "dim": 4}) as load:
        assert load.version == "2"
        assert load.write(ids[:1], rows[:1]) == 1
        assert load.write([], np.empty((0, 4))) == 0
        assert load.write(ids[1:], rows[1:]) == 4
        assert service.tables == {}
    assert service.tables["item"]["rows"] == dict(zip(ids.tolist(), rows.tolist(), strict=True))
    for limit in (1, 3, 4, 100):
        pages = list(client.pages("item", limit=limit))
        assert all(0 < len(page) <= limit for page in pages)
        assert np.concatenate([page.ids for page in pages]).tolist() == ids.tolist()
        np.testing.assert_array_equal(np.concatenate([page.rows for page in pages]), rows)
        assert {page.version for page in pages} == {"2"}
    assert [page.ids.tolist() for page in client.pages("item", start=4)] == [[2**63, 2**64 - 1]]
    with pytest.raises(ValueError, match="a page of 0 rows"):
        list(client.pages("item", limit=0))


def test_large_writes_go_in_pages(client: Any, service: Service) -> None:
    rows = np.tile(np.arange(100_000, dtype=np.float32), (21, 1)) + np.arange(21, dtype=np.float32)[:, None]
    with client.importing("wide", {"name": "wide", "dim": 100_000}) as load:
        assert load.write(np.arange(21), rows) == 21
    assert service.tables["wide"]["pages"] == 3 == -(-21 // (IMPORT_PAGE_BYTES // 400_000))
    assert [row[0] for row in service.tables["wide"]["rows"].values()] == list(range(21))


def test_an_import_in_q8(client: Any, service: Service) -> None:
    rows = np.linspace(0, 255, 8, dtype=np.float32).round().reshape(2, 4)
    with client.importing("item", {"name": "item", "dim": 4}, dtype="q8") as load:
        load.write([1, 2], rows)
    np.testing.assert_allclose(list(service.tables["item"]["rows"].values()), rows, atol=0.3)


def fill(client: Any, *writes: tuple[Any, Any]) -> None:
    with client.importing("item", {"name": "item", "dim": 4}) as load:
        for ids, rows in writes:
            load.write(ids, rows)


def test_an_import_that_fails_leaves_nothing(client: Any, service: Service) -> None:
    with pytest.raises(TypeError):
        fill(client, ([1], np.ones((1, 4))), ([2.5], np.ones((1, 4))))
    assert (service.imports, service.tables) == ({}, {})


@pytest.mark.parametrize(
    ("ids", "rows", "reason"),
    [
        ([5], np.ones((1, 4)), "id 5 at 0 follows 5; ids must ascend"),
        ([9, 8], np.ones((2, 4)), "id 8 at 1 follows 9"),
        ([6, 6], np.ones((2, 4)), "id 6 at 1 follows 6"),
        ([6, 7], np.ones((1, 4)), r"rows of shape \(1, 4\) for 2 ids"),
        ([6], np.ones(4), r"rows of shape \(4,\)"),
        ([6, 7], np.array([[1.0], [np.inf]]), "the row at 1, of id 7, holds NaN or infinity"),
        ([-1], np.ones((1, 4)), "negative"),
    ],
)
def test_rows_that_cannot_be_imported(client: Any, service: Service, ids: Any, rows: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        fill(client, ([5], np.ones((1, 4))), (ids, rows))
    assert service.imports == {}


def test_threads_share_a_client(url_of_service: tuple[str, Service]) -> None:
    with Client(url_of_service[0]) as client, ThreadPoolExecutor(8) as threads:

        def work(start: int) -> bool:
            ids = np.arange(start, start + 50) * 7
            expected = ids[:, None] % 1000 + np.arange(DIM, dtype=np.float32) / 64
            return bool((client.lookup({"item": ids})["item"].rows == expected).all())

        assert all(threads.map(work, range(64)))
