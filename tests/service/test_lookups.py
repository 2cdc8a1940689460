"""POST /v1/lookup of a whole service, over a socket, against the oracle."""

from __future__ import annotations

import threading
from typing import Any

import msgpack
import numpy as np
import pytest

from embcache_client import rowtypes
from embcache_client.results import COLD, LATE, MISSING, WARM
from embcache_client.wire import Query, decode_lookup_reply, encode_lookup
from tests.naive import Naive, NaiveTable
from tests.service.running import FILLED, Running, fill, rows_of
from tests.service.wires import connect, post, receive

IDS = np.array([4999, 0, 2**64 - 1, 12345678, 2**63, 0], np.uint64)


@pytest.fixture(scope="module")
def naive() -> Naive:
    oracle = Naive()
    oracle.tables = {"item": NaiveTable(12, "f32", {"uniform": 0.25}), "coded": NaiveTable(12, "q8")}
    for table in oracle.tables.values():
        table.load(FILLED.tolist(), rows_of(FILLED))
    return oracle


@pytest.mark.parametrize("dtype", rowtypes.NAMES)
@pytest.mark.parametrize("table", ["item", "coded"])
def test_rows_and_statuses_are_the_oracles(service: Running, naive: Naive, table: str, dtype: str) -> None:
    wanted, found = naive.lookup(table, IDS.tolist(), dtype)
    with service.client() as client:
        result = client.lookup({table: IDS}, dtype=dtype)[table]
    assert result.rows.tobytes() == wanted.tobytes()
    assert [status != MISSING for status in result.status] == found


@pytest.mark.parametrize("dtype", rowtypes.NAMES)
@pytest.mark.parametrize("options", [{"pooling": "sum"}, {"pooling": "mean"}, {"pooling": "sum", "weights": True}])
def test_bags_are_the_oracles(service: Running, naive: Naive, dtype: str, options: dict[str, Any]) -> None:
    lengths = np.array([2, 0, 3, 1], np.uint32)
    weights = np.array([0.5, -1, 2, 0, 3, 1], np.float32) if "weights" in options else None
    bags = np.split(IDS, np.cumsum(lengths)[:-1])
    told = {**options, "weights": weights.tolist()} if weights is not None else options
    wanted = naive.lookup_bags("item", [bag.tolist() for bag in bags], told, dtype)
    query = (IDS, lengths) if weights is None else (IDS, lengths, weights)
    with service.client() as client:
        result = client.lookup_bags({"item": query}, pooling=options["pooling"], dtype=dtype)["item"]
    assert result.rows.tobytes() == wanted.tobytes()
    assert len(result.status) == 6


def test_several_queries_are_answered_in_order(service: Running) -> None:
    queries = [Query("coded", IDS[:2]), Query("item", np.empty(0, np.uint64)), Query("coded", IDS), Query("item", IDS)]
    answer = service.ask(post("/v1/lookup", encode_lookup(queries)))
    results = decode_lookup_reply(answer.body).results
    assert [(result.table, len(result)) for result in results] == [("coded", 2), ("item", 0), ("coded", 6), ("item", 6)]
    assert results[0].raw.tobytes() == results[2].raw[:2].tobytes()


def test_a_large_lookup_is_right_to_the_last_row(service: Running) -> None:
    ids = np.resize(FILLED, 100_000)
    with service.client() as client:
        result = client.lookup({"item": ids})["item"]
    assert result.rows.tobytes() == rows_of(ids).tobytes()
    assert set(result.status) <= {WARM, COLD}


def test_values_are_hashed_as_the_tables_feature(service: Running) -> None:
    values = ["red", b"red", -3, ""]
    ids = [15910152883037974434, 15910152883037974434, None, 15129626078884700324]
    status, reply = service.look_up({"queries": [{"table": "item", "values": values}]})
    assert status == 200
    rows = np.frombuffer(reply["results"][0]["rows"], np.float32).reshape(4, 12)
    with service.client() as client:
        for row, identifier in zip(rows, ids, strict=True):
            if identifier is not None:
                assert row.tobytes() == client.lookup({"item": [identifier]})["item"].rows.tobytes()


def test_what_the_deadline_overtakes_is_late_and_never_a_row(service: Running) -> None:
    fresh = np.arange(10**6, 10**6 + 2000, dtype=np.uint64)
    with service.client() as client:
        client.create_table({"name": "slow", "dim": 12})
        fill(client, "slow", fresh)
        body = encode_lookup([Query("slow", fresh)], deadline_ms=0)
        result = decode_lookup_reply(service.ask(post("/v1/lookup", body)).body).results[0]
        client.drop_table("slow")
    assert LATE in result.status
    assert set(result.status) <= {LATE, WARM, COLD}
    late = result.status == LATE
    assert not result.rows[late].any()
    assert result.rows[~late].tobytes() == rows_of(fresh[~late]).tobytes()


def test_strict_turns_what_is_not_a_row_into_errors(service: Running) -> None:
    absent = np.array([0, 10**8, 10**8 + 1], np.uint64)
    status, reply = service.look_up(encode_lookup([Query("item", absent)], strict=True))
    assert (status, reply["error"]["code"]) == (404, "missing_rows")
    assert reply["error"]["detail"] == {"table": "item", "ids": ["100000000", "100000001"], "count": 2}
    status, reply = service.look_up(encode_lookup([Query("item", absent + 5)], strict=True, deadline_ms=0))
    in_time = (404, "missing_rows")  # the owner may have answered by the time that the deadline is seen to be over
    assert (status, reply["error"]["code"]) in ((504, "deadline_exceeded"), in_time)
    assert service.look_up(encode_lookup([Query("item", absent[:1])], strict=True))[0] == 200


def test_pipelined_lookups_are_answered_in_order(service: Running) -> None:
    bodies = [encode_lookup([Query("item", FILLED[n : n + 1 + n % 7])]) for n in range(200)]
    bodies += [encode_lookup([Query("item", np.array([10**9 + n], np.uint64))]) for n in range(20)]
    with connect(service.port) as client:
        client.sendall(b"".join(post("/v1/lookup", body) for body in bodies))
        rest = bytearray()
        for n in range(200):
            result = decode_lookup_reply(receive(client, rest=rest).body).results[0]
            assert result.rows.tobytes() == rows_of(FILLED[n : n + 1 + n % 7]).tobytes()
        for _ in range(20):
            assert decode_lookup_reply(receive(client, rest=rest).body).results[0].status.tolist() == [MISSING]


def test_many_clients_at_once_get_their_own_rows(service: Running) -> None:
    wrong: list[object] = []

    def look_up(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with service.client() as client:
            for size in (1, 16, 300, 3000) * 5:
                ids = rng.choice(FILLED, size)
                if client.lookup({"item": ids})["item"].rows.tobytes() != rows_of(ids).tobytes():
                    wrong.append((seed, size))

    threads = [threading.Thread(target=look_up, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_pinned_version_answers_and_one_that_is_gone_does_not(service: Running) -> None:
    with service.client() as client:
        version = client.table("item")["version"]
        assert client.lookup({"item": IDS}, version=version)["item"].version == version
    status, reply = service.look_up({"queries": [{"table": "item", "ids": b"", "version": "999"}]})
    assert (status, reply["error"]["code"]) == (404, "unknown_table")
    assert "has no version '999'" in reply["error"]["message"]


def test_positions_are_checked(service: Running) -> None:
    ask = {"queries": [{"table": "item", "ids": IDS.tobytes()}]}
    status, reply = service.look_up(ask)
    assert status == 200
    position, history = reply["position"], reply["history"]
    assert service.look_up({**ask, "min_position": position, "history": history})[0] == 200
    status, reply = service.look_up({**ask, "min_position": position + 1})
    assert (status, reply["error"]["code"]) == (504, "deadline_exceeded")
    assert reply["error"]["detail"] == {"min_position": position + 1, "position": position}
    status, reply = service.look_up({**ask, "history": history + "x"})
    assert (status, reply["error"]["code"]) == (409, "history_changed")
    assert reply["error"]["detail"] == {"history": history}


def test_a_reply_has_the_bytes_of_the_protocol(service: Running) -> None:
    """Everything but position, history and rows, which are not the same from run to run."""
    body = bytes.fromhex("81 a771756572696573 91 82 a57461626c65 a46974656d a3696473 c408 0700000000000000")
    answer = service.ask(post("/v1/lookup", body))
    reply = msgpack.unpackb(answer.body)
    entry = reply["results"][0]
    head = bytes.fromhex("83 a8706f736974696f6e cf") + reply["position"].to_bytes(8, "big")
    head += bytes.fromhex("a7686973746f7279") + msgpack.packb(reply["history"])
    head += bytes.fromhex("a7726573756c7473 dc0001 87 a57461626c65 a46974656d a776657273696f6e")
    head += msgpack.packb(entry["version"]) + bytes.fromhex(
        "a56474797065 a3663332 a57368617065 92 ce00000001 ce0000000c"
    )
    pad = -(len(head) + 16) % 64
    head += bytes.fromhex("a3706164 c4") + bytes([pad]) + bytes(pad) + bytes.fromhex("a4726f7773 c600000030")
    status = bytes.fromhex("a6737461747573 c600000001") + entry["status"]
    assert answer.body.hex() == (head + rows_of(np.array([7], np.uint64)).tobytes() + status).hex()
    assert len(head) % 64 == 0
