"""Prefetches over HTTP: rows that were on disk alone are in memory soon after, and lookups find them there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest

from embcache_client import AsyncClient, Client, Trainer
from embcache_client.errors import UnknownTable
from embcache_client.results import COLD, MISSING, WARM
from tests.service.running import Running, fill, rows_of, running
from tests.service.wires import post

IDS = np.arange(3000, dtype=np.uint64)
UNKNOWN = np.arange(10**6, 10**6 + 50, dtype=np.uint64)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("prefetch"), '[[table]]\nname = "item"\ndim = 12\n') as started:
        yield started


@pytest.fixture
def client(service: Running) -> Iterator[Client]:
    """Of a table whose rows are all on disk alone."""
    with service.client() as client:
        fill(client, "item", IDS)
        yield client


def settled(service: Running) -> int:
    """Waits until nothing is to be prefetched any more -> rows that were, since the start."""
    end = time.monotonic() + 30
    while (figures := gauges(service))["embcache_prefetch_ids"]:
        assert time.monotonic() < end
        time.sleep(0.01)
    return figures["embcache_prefetched_rows"]


def gauges(service: Running) -> dict[str, int]:
    text = service.ask(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").body.decode()
    lines = [line.split() for line in text.splitlines() if line.startswith("embcache_prefetch")]
    return {name: int(float(value)) for name, value in lines}


def test_rows_come_to_memory_once(service: Running, client: Client) -> None:
    before = settled(service)
    asked = np.concatenate([IDS[:2000], IDS[:500], UNKNOWN])
    told = client.prefetch({"item": asked})
    assert (told.ids, told.queued) == (2550, 2050)
    assert settled(service) - before == 2050
    found = client.lookup({"item": np.concatenate([IDS, UNKNOWN])})["item"]
    assert (found.status[:2000] == WARM).all()
    assert (found.status[2000:3000] == COLD).all()
    assert (found.status[3000:] == MISSING).all()
    np.testing.assert_array_equal(found.rows[:3000], rows_of(IDS))
    told = client.prefetch({"item": asked})
    assert (told.ids, told.queued) == (2550, 0), "of ids that memory knows, without a row or with one, none is read"


def test_several_tables_versions_and_raw_values(service: Running, client: Client) -> None:
    client.create_table({"name": "named", "dim": 12})
    client.stage("item", "next")
    with client.importing("item", version="next") as filling:
        filling.write(IDS[:100], rows_of(IDS[:100]) + 1)
    with Trainer(service.url, producer="p") as trainer:
        trainer.assign("named", [1, 2], rows_of(IDS[:2]))
        position = trainer.flush()
    client.lookup({"named": [1]}, min_position=position)
    told = client.prefetch({"item": IDS[:100], "named": ["red", "blue"]}, version={"item": "next"})
    assert (told.ids, told.queued) == (102, 102)
    settled(service)
    found = client.lookup({"item": IDS[:100]}, version="next")["item"]
    assert (found.status == WARM).all()
    np.testing.assert_array_equal(found.rows, rows_of(IDS[:100]) + 1)
    client.drop_table("named")
    with pytest.raises(UnknownTable, match="'named'"):
        client.prefetch({"named": [1]})


def test_updates_beside_prefetches_are_never_overtaken_by_them(service: Running, client: Client) -> None:
    with Trainer(service.url, producer="q") as trainer:
        for turn in range(20):
            part = IDS[100 * turn : 100 * turn + 100]
            client.prefetch({"item": IDS[100 * turn :]})
            trainer.assign("item", part, rows_of(part) + turn)
            position = trainer.flush()
            found = client.lookup({"item": part}, min_position=position)["item"]
            np.testing.assert_array_equal(found.rows, rows_of(part) + turn)
        settled(service)
        found = client.lookup({"item": IDS[:2000]})["item"]
        np.testing.assert_array_equal(
            found.rows, rows_of(IDS[:2000]) + np.repeat(np.arange(20, dtype=np.float32), 100)[:, None]
        )


async def test_the_asynchronous_client_does_so_too(service: Running, client: Client) -> None:
    async with AsyncClient(service.url) as other:
        told = await other.prefetch({"item": IDS[:10]})
    assert (told.ids, told.queued) == (10, 10)
    with pytest.raises(ValueError, match="at least one table"):
        client.prefetch({})


def test_queries_of_a_lookup_are_taken_as_they_are(service: Running, client: Client) -> None:
    bag = {"table": "item", "ids": IDS[:4].tobytes(), "lengths": bytes([4, 0, 0, 0]), "pooling": "sum"}
    answer = service.ask(post("/v1/prefetch", msgpack.packb({"queries": [bag]})))
    assert (answer.status, msgpack.unpackb(answer.body)) == (202, {"ids": 4, "queued": 4})


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"queries": []}, 400, "queries: 0 of them; a request holds 1 to 256"),
        ({"queries": [{"table": "item", "ids": b"1"}]}, 400, "queries[0].ids"),
        ({"queries": [{"table": "item", "ids": b""}], "dtype": "f32"}, 400, "dtype"),
        ({"queries": [{"table": "itme", "ids": bytes(8)}]}, 404, "the nearest name is item"),
    ],
)
def test_what_cannot_be_is_refused(service: Running, body: Any, status: int, words: str) -> None:
    answer = service.ask(post("/v1/prefetch", msgpack.packb(body)))
    assert answer.status == status
    assert words in msgpack.unpackb(answer.body)["error"]["message"]


def test_other_methods_are_refused(service: Running) -> None:
    answer = service.ask(b"GET /v1/prefetch HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"
