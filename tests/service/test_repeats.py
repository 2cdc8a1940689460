"""Lookups that are like one before: the same answers as the first time, and never an older one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest

from embcache_client import Trainer, wire
from embcache_client.results import COLD, MISSING, WARM
from embcache_client.wire import Query, decode_lookup_reply, encode_lookup
from tests.service.running import FILLED, Running, fill, rows_of, running
from tests.service.wires import connect, post, receive

SOME = FILLED[:400]
TABLES = """
[[table]]
name = "plain"
dim = 12
[[table]]
name = "constant"
dim = 12
default = { constant = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] }
[[table]]
name = "uniform"
dim = 12
default = { uniform = 0.25 }
[[table]]
name = "half"
dim = 12
dtype = "f16"
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("repeats"), TABLES) as started:
        with started.client() as client:
            for table in ("plain", "constant", "uniform", "half"):
                fill(client, table, SOME)
                client.lookup({table: SOME})
        yield started


def asked_again(service: Running, body: bytes, times: int = 4) -> list[bytes]:
    """The replies to one body, sent over one connection again and again."""
    with connect(int(service.url.rpartition(":")[2])) as client:
        replies = []
        for _ in range(times):
            client.sendall(post("/v1/lookup", body))
            replies.append(receive(client).body)
        return replies


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("table", ["plain", "constant", "uniform", "half"])
def test_the_answer_is_the_same_each_time(service: Running, table: str, dtype: str) -> None:
    for ids in (SOME[:16], SOME[3:4], SOME[:300], np.array([7, 10**9, 7], np.uint64)):
        first, *others = asked_again(service, encode_lookup([Query(table, ids)], dtype))
        assert others == [first] * 3


def test_other_ids_get_other_rows(service: Running) -> None:
    chance = np.random.default_rng(0)
    with service.client() as client:
        for _ in range(60):
            ids = chance.choice(SOME, chance.integers(1, 300))
            result = client.lookup({"plain": ids})
            assert result["plain"].rows.tobytes() == rows_of(ids).tobytes()
            assert set(result["plain"].status) == {WARM}
        missing = np.array([10**12, 5, 10**12 + 1], np.uint64)
        for _ in range(4):
            result = client.lookup({"plain": missing})
            assert result["plain"].found.tolist() == [False, True, False]


def test_a_position_that_was_told_is_seen_from_then_on(service: Running) -> None:
    """The rows of one lookup after another are never older than the position that came with them."""
    with service.client() as client, Trainer(service.url, producer="repeats") as trainer:
        for turn in range(30):
            trainer.assign("constant", SOME[:50], np.full((50, 12), turn, np.float32))
            position = trainer.flush()
            while client.lookup({"constant": SOME[:50]}).position < position:
                pass
            result = client.lookup({"constant": SOME[:50]})
            assert result.position >= position
            assert (result["constant"].rows == turn).all()


def test_a_table_that_is_filled_anew_or_dropped_is_not_taken_for_the_old_one(service: Running) -> None:
    with service.client() as client:
        client.create_table({"name": "passing", "dim": 12})
        for turn in range(3):
            ids = SOME[turn : turn + 20]
            fill(client, "passing", ids)
            for _ in range(4):
                result = client.lookup({"passing": ids})["passing"]
                assert result.rows.tobytes() == rows_of(ids).tobytes()
                assert (result.status >= WARM).all()
        assert client.lookup({"passing": SOME[:1]})["passing"].status.tolist() == [MISSING]
        client.drop_table("passing")
        with pytest.raises(Exception, match="passing"):
            client.lookup({"passing": ids})


BODIES: list[Any] = [
    {"queries": [{"table": "plain", "ids": b"plain" * 8}]},  # bytes that stand in the body in two places
    {"queries": [{"ids": bytes(range(16)), "table": "plain"}], "dtype": "f32", "deadline_ms": 1000},
    {"dtype": "f32", "queries": [{"table": "plain", "version": "2", "ids": bytes(8)}]},
    {"queries": [{"table": "plain", "ids": b""}]},
    {"queries": [{"table": "plain", "ids": bytes(8)}, {"table": "plain", "ids": bytes(8)}]},
    {"queries": [{"table": "plain", "values": ["a", 3]}]},
    {"queries": [{"table": "plain", "ids": bytes(16), "lengths": b"\x02\0\0\0", "pooling": "sum"}]},
    {"queries": [{"table": "plain", "ids": SOME[:4].tobytes()}], "strict": True},
    {"queries": [{"table": "plain", "ids": SOME[:4].tobytes()}], "min_position": 1},
    {"queries": [{"table": "plain", "ids": bytes(9)}]},
    {"queries": [{"table": "plainer", "ids": bytes(8)}]},
]


@pytest.mark.parametrize("asked", BODIES)
def test_bodies_of_every_form_are_answered_the_same_each_time(service: Running, asked: Any) -> None:
    replies = [msgpack.unpackb(reply) for reply in asked_again(service, msgpack.packb(asked))]
    for reply in replies:
        for result in reply.get("results", []):
            result["status"] = result["status"].replace(bytes([COLD]), bytes([WARM]))  # it was cold the first time
    assert replies == [replies[0]] * 4


def test_a_body_that_only_begins_and_ends_like_one_is_not_taken_for_it(service: Running) -> None:
    good = encode_lookup([Query("plain", SOME[:4])])
    asked_again(service, good)
    before, ids, after = good.partition(SOME[:4].tobytes())
    for bad in (before + ids[:-1] + after, before + ids + b"\0" + after, before + after, before + ids + after[:-1]):
        (reply,) = asked_again(service, bad, 1)
        assert msgpack.unpackb(reply)["error"]["code"] == "malformed_request"
    longer = before[:-1] + bytes([8 * 5]) + SOME[:5].tobytes() + after
    (reply,) = asked_again(service, longer, 1)
    assert decode_lookup_reply(reply).results[0].rows.tobytes() == rows_of(SOME[:5]).tobytes()
    assert wire.encode_lookup([Query("plain", SOME[:5])]) == longer


def test_what_is_answered_again_is_counted(service: Running) -> None:
    def counted() -> float:
        with connect(int(service.url.rpartition(":")[2])) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n")
            lines = receive(client).body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith('embcache_ids_total{table="half"'))

    before = counted()
    asked_again(service, encode_lookup([Query("half", SOME[:10])], "f16"), 7)
    assert counted() == before + 70
