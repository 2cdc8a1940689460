"""Every error of a running service has PROTOCOL's form, in the endpoint's own language, and harms nobody else."""

from __future__ import annotations

import random
import socket

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embcache_client.wire import Query, encode_lookup
from tests.service.running import FILLED, Running, rows_of
from tests.service.wires import Answer, connect, ends, get, post, receive

GOOD = encode_lookup([Query("item", FILLED[:3]), Query("coded", values=["a", b"b", 3])], "f16", deadline_ms=900)


TO = b"POST /v1/lookup HTTP/1.1\r\nhost: x\r\ncontent-type: application/msgpack\r\n"
CHUNKED = TO + b"transfer-encoding: chunked\r\n\r\n"


def error_of(answer: Answer) -> dict[str, object]:
    """The `error` map of an answer in JSON or msgpack, of the form that every error has."""
    kind = answer.headers["content-type"]
    body = msgpack.unpackb(answer.body) if kind == "application/msgpack" else answer.json()
    assert kind in ("application/msgpack", "application/json")
    assert body.keys() == {"error"}
    error: dict[str, object] = body["error"]
    assert error.keys() == {"code", "message", "detail"}
    assert isinstance(error["message"], str)
    assert len(error["message"]) > 10
    return error


MSGPACK = [
    (get("/v1/lookup"), 405, "method_not_allowed", "/v1/lookup takes POST, not GET"),
    (post("/v1/lookup", b"{}", content_type="text/plain"), 415, "unsupported_media_type", "'text/plain'"),
    (post("/v1/lookup", b"")[:-2] + b"x: y\r\n\r\n", 400, "malformed_request", "ends in the middle of a value"),
    (post("/v1/lookup", msgpack.packb([])), 400, "malformed_request", "should be a msgpack map, not an array"),
    (post("/v1/lookup", b"\x91" * 1000), 400, "malformed_request", "nested too deeply at byte 4"),
    (post("/v1/lookup", encode_lookup([Query("itme", FILLED[:1])])), 404, "unknown_table", "the nearest name is item"),
    (
        post("/v1/lookup", encode_lookup([Query("itme", values=["a"])])),
        404,
        "unknown_table",
        "the nearest name is item",
    ),
    (post("/v1/lookup", encode_lookup([Query("item", FILLED[:1])], "f64")), 400, "unsupported_dtype", "'f64' is none"),
    (get("/v1/tables/itme/rows"), 404, "unknown_table", "the nearest name is item"),
    (
        get("/v1/tables/item/rows?limit=0"),
        400,
        "malformed_request",
        "query limit: should be greater than or equal to 1",
    ),
    (get("/v1/tables/item/rows?start=-1"), 400, "malformed_request", "query start"),
    (get("/v1/tables/item/rows?dtype=f64"), 400, "unsupported_dtype", "'f64' is none"),
    (get("/v1/tables/item/rows?version=99"), 404, "unknown_table", "no version '99'"),
    (post("/v1/imports/nonsense/rows", b"\x80"), 404, "unknown_table", "there is no import 'nonsense'"),
    (post("/v1/imports/abc-f32-12-item/rows", b"\x80"), 400, "malformed_request", "missing from such rows"),
    (post("/v1/imports/abc-f32-12-item/rows", b"{}", content_type="text/plain"), 415, "unsupported_media_type", "text"),
]
JSON = [
    (post("/v1/lookup", b"{}", content_type="application/json"), 415, "unsupported_media_type", "'application/json'"),
    (get("/v1/lookup", "accept: text/html, application/json;q=0.9"), 405, "method_not_allowed", "takes POST, not GET"),
    (post("/v1/lookup", b"", "accept: application/json"), 400, "malformed_request", "ends in the middle of a value"),
    (get("/nothing/here"), 404, "not_found", "nothing at '/nothing/here'"),
    (get("/v1/tables/"), 404, "not_found", "nothing at"),
    (get("/v1/tables/item", method="POST"), 405, "method_not_allowed", "takes DELETE, GET, PATCH, PUT, not POST"),
    (get("/v1/tables/itme"), 404, "unknown_table", "the nearest name is item"),
    (get("/v1/tables/item/rows/minus"), 400, "malformed_request", "path id: should be a valid integer"),
    (get(f"/v1/tables/item/rows/{2**64}"), 400, "malformed_request", "path id: should be less than or equal to"),
    (get("/v1/tables/itme/rows/1"), 404, "unknown_table", "the nearest name is item"),
    (get("/v1/tables/itme", method="DELETE"), 404, "unknown_table", "itme"),
    (post("/v1/imports/abc-f32-12-item/commit", b""), 404, "unknown_table", "no import 'abc' is under way"),
    (post("/v1/imports/abc/commit", b""), 404, "unknown_table", "there is no import 'abc'"),
    (post("/v1/tables/item/imports", b"{}", content_type="text/plain"), 415, "unsupported_media_type", "text/plain"),
    (post("/v1/tables/item/imports", b"[1", content_type="application/json"), 400, "malformed_request", "is not JSON"),
    (
        post("/v1/tables/item/imports", b'{"specs": null}', content_type="application/json"),
        400,
        "malformed_request",
        'the body should be {"spec": null}',
    ),
    (
        post("/v1/tables/item/imports", b"[" * 100_000, content_type="application/json"),
        400,
        "malformed_request",
        "is not JSON",
    ),
]


@pytest.mark.parametrize(
    ("request_", "status", "code", "words", "kind"),
    [(*case, "application/msgpack") for case in MSGPACK] + [(*case, "application/json") for case in JSON],
)
def test_what_is_wrong_is_told(
    service: Running, request_: bytes, status: int, code: str, words: str, kind: str
) -> None:
    answer = service.ask(request_)
    error = error_of(answer)
    assert (answer.status, error["code"], answer.headers["content-type"]) == (status, code, kind)
    assert words in str(error["message"])


def test_an_error_has_the_bytes_of_the_protocol(service: Running) -> None:
    body = bytes.fromhex("81 a771756572696573 91 82 a57461626c65 a46974656d a3696473 c403 010203")
    answer = service.ask(post("/v1/lookup", body))
    message = b"queries[0].ids: 3 bytes; it should be a multiple of 8 (uint64 each)"
    assert answer.status == 400
    assert answer.body.hex(" ") == bytes.fromhex(
        "81 a56572726f72 83 a4636f6465 b16d616c666f726d65645f72657175657374 a76d657373616765 d943"
        + message.hex()
        + "a664657461696c 80"
    ).hex(" ")


def test_a_wrong_method_names_the_right_one(service: Running) -> None:
    assert service.ask(get("/v1/lookup")).headers["allow"] == "POST"
    assert service.ask(get("/v1/tables/item", method="POST")).headers["allow"] == "DELETE, GET, PATCH, PUT"


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(service: Running) -> None:
    with connect(service.port) as client:
        client.sendall(post("/v1/lookup", b"")[: -len("0\r\n\r\n")] + b"1073741824\r\n\r\n")
        answer = receive(client)
    assert (answer.status, error_of(answer)["code"]) == (413, "too_large")
    assert error_of(answer)["detail"] == {"max_body_bytes": 64 << 20}


def test_a_body_that_grows_too_large_is_refused_while_it_comes(service: Running) -> None:
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    with connect(service.port) as client:
        client.sendall(CHUNKED)
        for _ in range(65):
            client.sendall(chunk)
        answer = receive(client)
    assert (answer.status, error_of(answer)["code"]) == (413, "too_large")


def test_a_body_in_chunks_is_as_good_as_a_whole_one(service: Running) -> None:
    with connect(service.port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(CHUNKED)
        for byte in GOOD:
            client.sendall(b"1\r\n" + bytes([byte]) + b"\r\n")
        client.sendall(b"0\r\n\r\n")
        assert receive(client).status == 200


def test_a_client_that_waits_to_be_told_to_send_is_told_to_or_refused(service: Running) -> None:
    with connect(service.port) as client:
        head, _, body = post("/v1/lookup", GOOD, "expect: 100-continue").partition(b"\r\n\r\n")
        client.sendall(head + b"\r\n\r\n")
        assert receive(client).status == 100
        client.sendall(body)
        assert receive(client).status == 200
        wrong = post("/v1/lookup", GOOD, "expect: 100-continue", content_type="text/plain")
        client.sendall(wrong.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        assert receive(client).status == 415


@pytest.mark.parametrize(
    "damage", [b"BREW / HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"]
)
def test_what_is_not_http_is_told_so(service: Running, damage: bytes) -> None:
    with connect(service.port) as client:
        client.sendall(damage)
        answer = receive(client)
        assert (answer.status, error_of(answer)["code"]) == (400, "malformed_request")
        assert ends(client)


def test_asking_for_a_connection_to_be_closed_or_upgraded_is_answered(service: Running) -> None:
    with connect(service.port) as client:
        client.sendall(post("/v1/lookup", GOOD, "connection: close"))
        assert receive(client).status == 200
        assert ends(client)
    with connect(service.port) as client:
        client.sendall(get("/healthz", "connection: upgrade", "upgrade: websocket"))
        assert receive(client).status == 200


def serves_rows(service: Running) -> bool:
    with service.client() as client:
        return client.lookup({"item": FILLED[:50]})["item"].rows.tobytes() == rows_of(FILLED[:50]).tobytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bodies_get_an_answer_each(service: Running, data: st.DataObject) -> None:
    body = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    answer = service.ask(post("/v1/lookup", bytes(body[: data.draw(st.integers(1, len(body)))])))
    if answer.status != 200:
        assert error_of(answer)["code"] != "internal"


def test_the_service_goes_on_through_any_bytes(service: Running) -> None:
    """Noise on many connections, some cut off in the middle, beside lookups that stay right."""
    noise = random.Random(7)
    for round_ in range(150):
        request = bytearray(post("/v1/lookup", GOOD) * 2)
        for _ in range(noise.randrange(1, 12)):
            request[noise.randrange(len(request))] = noise.randrange(256)
        with connect(service.port) as client:
            client.sendall(request[: noise.randrange(1, len(request))])
        if round_ % 30 == 0:
            assert serves_rows(service)
    assert serves_rows(service)
    assert "unforeseen" not in service.log()
    assert "Traceback" not in service.log()
