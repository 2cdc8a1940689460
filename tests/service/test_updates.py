"""POST /v1/updates and /v1/producers over real sockets: whole batches or nothing, once each, and read back."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest

from embcache_client.rowtypes import from_q8, to_q8
from embcache_client.wire import Query, decode_lookup_reply, encode_lookup
from tests.service.running import Running
from tests.service.wires import get, post

IDS = np.arange(1, 9, dtype=np.uint64)
ROWS = np.arange(96, dtype=np.float32).reshape(8, 12)


def call(service: Running, path: str, body: dict[str, Any] | bytes) -> tuple[int, dict[str, Any]]:
    packed = body if isinstance(body, bytes) else msgpack.packb(body)
    answer = service.ask(post(path, packed))
    assert answer.headers["content-type"] == "application/msgpack"
    return answer.status, msgpack.unpackb(answer.body)


def opened(service: Running, name: str) -> dict[str, Any]:
    status, state = call(service, f"/v1/producers/{name}", {})
    assert status == 200
    return state


def change(table: str, op: str = "assign", ids: Any = IDS, rows: Any = ROWS, **more: Any) -> dict[str, Any]:
    entry = {"table": table, "op": op, "ids": np.asarray(ids, "<u8").tobytes(), **more}
    return entry if op == "delete" else entry | {"rows": np.ascontiguousarray(rows).tobytes()}


def looked_up(service: Running, table: str, ids: Any = IDS, **more: Any) -> Any:
    answer = service.ask(post("/v1/lookup", encode_lookup([Query(table, np.asarray(ids, np.uint64))], **more)))
    assert answer.status == 200, answer.body
    return decode_lookup_reply(answer.body)


@pytest.fixture
def table(service: Running, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty table of its own, dim 12."""
    name = f"updated_{abs(hash(request.node.name)) % 10**9}"
    with service.client() as client:
        client.create_table({"name": name, "dim": 12})
        yield name
        client.drop_table(name)


def test_a_batch_is_durable_counts_once_and_is_read_back(service: Running, table: str) -> None:
    state = opened(service, "trainer-0")
    batch = {
        "producer": "trainer-0",
        "epoch": state["epoch"],
        "seq": state["last_seq"] + 1,
        "mark": b"\x00\xffhere",
        "changes": [change(table, "add"), change(table, "add", IDS[:2], ROWS[:2]), change(table, "delete", IDS[7:])],
    }
    status, first = call(service, "/v1/updates", batch)
    assert (status, first["duplicate"], first["history"]) == (200, False, state["history"])
    assert first["durable"] >= first["position"] > state["position"]
    reply = looked_up(service, table, min_position=first["position"], history=first["history"])
    assert reply.position >= first["position"]
    assert reply.results[0].status.tolist()[7] == 0
    np.testing.assert_array_equal(reply.results[0].rows[:7], np.concatenate([2 * ROWS[:2], ROWS[2:7]]))
    status, again = call(service, "/v1/updates", {**batch, "ack": "applied"})
    assert (status, again["position"], again["duplicate"]) == (200, first["position"], True)
    shown = msgpack.unpackb(service.ask(b"GET /v1/producers/trainer-0 HTTP/1.1\r\nhost: test\r\n\r\n").body)
    now = {"last_seq": batch["seq"], "last_epoch": state["epoch"], "mark": batch["mark"], "position": first["position"]}
    assert shown == state | now
    position = json.loads(service.ask(b"GET /v1/position HTTP/1.1\r\nhost: test\r\n\r\n").body)
    assert int(position["durable"]) >= int(position["applied"]) >= first["position"]
    assert position["history"] == first["history"]


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8"])
def test_rows_travel_in_every_dtype(service: Running, table: str, dtype: str) -> None:
    state = opened(service, f"trainer-{dtype}")
    more: dict[str, Any] = {}
    if dtype == "q8":
        coded = to_q8(ROWS)
        assert coded.scale is not None
        assert coded.bias is not None
        rows: Any = coded.values
        expected = from_q8(coded.values.astype(np.uint8), coded.scale, coded.bias)
        more = {"scale": coded.scale.tobytes(), "bias": coded.bias.tobytes()}
    else:  # small whole numbers are exact in both
        rows, expected = (ROWS.astype(np.float16) if dtype == "f16" else (ROWS.view("<u4") >> 16).astype("<u2")), ROWS
    batch = {"producer": f"trainer-{dtype}", "epoch": state["epoch"], "seq": 1, "ack": "applied"}
    assert call(service, "/v1/updates", {**batch, "changes": [change(table, rows=rows, dtype=dtype, **more)]})[0] == 200
    np.testing.assert_array_equal(looked_up(service, table).results[0].rows, expected)


def test_raw_values_are_hashed_as_the_tables_feature(service: Running, table: str) -> None:
    state = opened(service, "by-value")
    entry = {"table": table, "op": "assign", "values": ["red", b"blue", -1], "rows": ROWS[:3].tobytes()}
    batch = {"producer": "by-value", "epoch": state["epoch"], "seq": 1, "ack": "applied", "changes": [entry]}
    assert call(service, "/v1/updates", batch)[0] == 200
    asked = {"queries": [{"table": table, "values": ["red", b"blue", -1]}]}
    found = decode_lookup_reply(service.ask(post("/v1/lookup", msgpack.packb(asked))).body).results[0]
    np.testing.assert_array_equal(found.rows, ROWS[:3])


def test_errors_have_their_codes_and_nothing_of_the_batch_is_applied(service: Running, table: str) -> None:
    state = opened(service, "strict")
    good = {"producer": "strict", "epoch": state["epoch"], "seq": 1, "changes": [change(table)]}
    bad = ROWS.copy()
    bad[5, 3] = np.inf
    wrong: list[tuple[dict[str, Any], int, str, str]] = [
        (good | {"seq": 3}, 409, "sequence_gap", "1 is the next"),
        (good | {"epoch": 10**6}, 409, "fenced", "epoch"),
        (good | {"seq": 0}, 400, "malformed_request", "seq"),
        (good | {"producer": "no spaces"}, 400, "malformed_request", "no name"),
        (good | {"ack": "soon"}, 400, "malformed_request", "ack"),
        (good | {"mark": bytes(257)}, 400, "malformed_request", "mark: 257 bytes"),
        (good | {"sequence": 1}, 400, "malformed_request", "nearest right one is seq"),
        (good | {b"seq": 1, "then": 2}, 400, "malformed_request", "no such key"),  # type: ignore[list-item]
        (good | {"changes": []}, 400, "malformed_request", "1 to 256"),
        (good | {"changes": [change(table), change("nowhere")]}, 404, "unknown_table", "nowhere"),
        (good | {"changes": [change(table), change(table, "multiply")]}, 400, "malformed_request", "changes[1].op"),
        (good | {"changes": [change(table, rows=ROWS[:7])]}, 400, "dimension_mismatch", "changes[0].rows: 336 bytes"),
        (good | {"changes": [change(table), change(table, rows=bad)]}, 400, "invalid_rows", "of id 6"),
        (good | {"changes": [change(table, "delete", dtype="f32")]}, 400, "malformed_request", "a delete has no rows"),
        (good | {"changes": [change(table, rows=ROWS[:, :3], dtype="q8")]}, 400, "dimension_mismatch", "changes[0]"),
        (good | {"changes": [change("coded", "add")]}, 400, "malformed_request", "`add` needs dtype f32"),
    ]
    for body, http, code, words in wrong:
        status, reply = call(service, "/v1/updates", body)
        assert (status, reply["error"]["code"]) == (http, code), reply
        assert words in reply["error"]["message"]
    assert set(looked_up(service, table).results[0].status) == {0}
    assert call(service, "/v1/updates", good)[0] == 200
    status, reply = call(service, "/v1/updates", good | {"changes": [change(table, "add")]})
    assert (status, reply["error"]["code"]) == (409, "conflict")
    assert call(service, "/v1/producers/strict", {"now": True})[1]["error"]["code"] == "malformed_request"
    opened(service, "strict")
    assert call(service, "/v1/updates", good | {"seq": 2})[1]["error"]["code"] == "fenced"
    other = service.ask(b"DELETE /v1/updates HTTP/1.1\r\nhost: test\r\n\r\n")
    assert (other.status, other.headers["allow"]) == (405, "POST")


def test_truncated_and_mistyped_batches_are_refused_and_the_service_goes_on(service: Running, table: str) -> None:
    state = opened(service, "torn")
    whole = msgpack.packb({"producer": "torn", "epoch": state["epoch"], "seq": 1, "changes": [change(table)]})
    for cut in range(0, len(whole), 7):
        status, reply = call(service, "/v1/updates", whole[:cut])
        assert (status, reply["error"]["code"]) == (400, "malformed_request")
    assert call(service, "/v1/updates", whole)[0] == 200


def test_updates_survive_a_restart_of_the_owner(service: Running, table: str) -> None:
    state = opened(service, "lasting")
    batch = {"producer": "lasting", "epoch": state["epoch"], "seq": 1, "changes": [change(table, "add")]}
    pushed = call(service, "/v1/updates", batch)[1]
    os.kill(service.child("owner"), signal.SIGKILL)
    with service.client() as client:
        client.ready()
    again = call(service, "/v1/updates", batch)
    while again[0] == 503:
        again = call(service, "/v1/updates", batch)
    assert again[1]["duplicate"]
    assert again[1]["position"] == pushed["position"]
    reply = looked_up(service, table, min_position=pushed["position"])
    np.testing.assert_array_equal(reply.results[0].rows, ROWS)


def test_metrics_say_how_far_updates_are(service: Running, table: str) -> None:
    def told() -> dict[str, float]:
        lines = service.ask(get("/metrics")).body.decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    state, before = opened(service, "measured"), told()
    with service.client() as client:
        client.create_table({"name": f"{table}_f16", "dim": 12, "dtype": "f16"})
        batch = {"producer": "measured", "epoch": state["epoch"], "seq": state["last_seq"] + 1, "ack": "applied"}
        batch["changes"] = [change(table), change(f"{table}_f16", rows=np.float32(1e6) * ROWS)]
        status, reply = call(service, "/v1/updates", batch)
        assert status == 200
        after = told()
        client.drop_table(f"{table}_f16")
    for kind in ("accepted", "durable", "applied"):
        assert after[f'embcache_position{{of="{kind}"}}'] == reply["position"]
    assert after["embcache_update_rows"] - before["embcache_update_rows"] == 16
    assert after["embcache_update_saturated_values"] - before["embcache_update_saturated_values"] == 95
    assert after["embcache_update_log_bytes"] > before["embcache_update_log_bytes"]
    assert after["embcache_update_lag_seconds"] == after["embcache_update_waiting_bytes"] == 0
    assert after["embcache_producers"] >= 1
