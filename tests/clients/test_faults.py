"""What the clients do when the other side, or the network, does what it should not."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from embcache_client import Client, RetryPolicy, errors
from tests.clients.conftest import Connect
from tests.clients.peer import Conversation, Peer, answer, rows_answer, serving
from tests.clients.replies import aligned_reply, numbers, reply, result

Start = Callable[..., Peer]
IDS = {"item": [1, 2]}
GOOD = rows_answer()
BEGUN = answer(json.dumps({"import": "7", "version": "2"}).encode(), media_type="application/json")


def is_good(found: Any) -> bool:
    return bool((found["item"].rows == numbers(2, 3)).all())


def error_answer(status: int, code: str, detail: dict[str, object] | None = None, extra: str = "") -> bytes:
    body = {"error": {"code": code, "message": "no", "detail": detail or {}}}
    return answer(msgpack.packb(body), status, extra)


def cut(data: bytes, end: int, close: Callable[[Conversation], None] = lambda conversation: None) -> Any:
    """A script that answers with the first bytes of `data` only, then closes."""

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(data[:end])
        close(conversation)

    return script


def write_a_page(client: Any) -> None:
    with client.importing("item") as load:
        load.write([1, 2], numbers(2, 3))


# Slow


@pytest.mark.parametrize("said", [0, 20, len(GOOD) - 1])
def test_a_server_that_falls_silent_is_a_timeout(start: Start, connect: Connect, said: int) -> None:
    peer = start(cut(GOOD, said, Conversation.hang))
    client = connect(peer.url, timeout=0.2)
    with pytest.raises(errors.Timeout, match="no whole answer from http://127"):
        client.lookup(IDS)
    assert isinstance(errors.Timeout(), TimeoutError)
    assert len(peer.requests) == 1


def test_a_server_that_dribbles_is_a_timeout_all_the_same(start: Start, connect: Connect) -> None:
    def dribble(conversation: Conversation) -> None:
        conversation.request()
        for byte in answer(bytes(100_000)):
            conversation.send(bytes([byte]))
            if conversation.peer.is_over.wait(0.02):
                return

    with pytest.raises(errors.Timeout):
        connect(start(dribble).url, timeout=0.3).lookup(IDS)


def test_a_server_that_does_not_read_is_a_timeout(start: Start, connect: Connect) -> None:
    client = connect(start(Conversation.hang).url, timeout=0.3)
    with pytest.raises(errors.Timeout):
        client.lookup({"item": np.arange(4_000_000)})


def test_a_server_that_reads_slowly_is_a_timeout_all_the_same(start: Start, connect: Connect) -> None:
    done, read = threading.Event(), []

    def sip(conversation: Conversation) -> None:
        while piece := conversation.socket.recv(65536):
            read.append(len(piece))
            conversation.peer.is_over.wait(0.002)
        done.set()

    peer = start(sip)
    ids = np.arange(4_000_000)
    with pytest.raises(errors.Timeout):
        connect(peer.url, timeout=0.3).lookup({"item": ids})
    done.wait()
    assert sum(read) < ids.nbytes


def test_the_connection_of_a_timeout_is_not_used_again(start: Start, connect: Connect) -> None:
    def late(conversation: Conversation) -> None:
        conversation.request()
        conversation.request()  # never comes on this connection
        conversation.send(rows_answer(5, 5))

    peer = start(late, serving(GOOD))
    client = connect(peer.url, timeout=1)  # enough for the second call on a busy machine
    with pytest.raises(errors.Timeout):
        client.lookup(IDS)
    assert is_good(client.lookup(IDS))
    assert peer.connections == 2


# Gone


@pytest.mark.parametrize("close", [Conversation.reset, lambda conversation: None])
def test_a_lookup_whose_connection_dies_before_an_answer_is_tried_again(
    start: Start, connect: Connect, close: Any
) -> None:
    peer = start(cut(GOOD, 0, close), cut(GOOD, 0, close), serving(GOOD))
    assert is_good(connect(peer.url).lookup(IDS))
    assert len(peer.requests) == 3
    assert len(set(peer.requests)) == 1


def test_attempts_come_to_an_end(start: Start, connect: Connect) -> None:
    peer = start(cut(GOOD, 0))
    with pytest.raises(errors.ConnectionLost, match="before the answer") as lost:
        connect(peer.url, retry=RetryPolicy(attempts=3, first_s=0.001)).lookup(IDS)
    assert not lost.value.answer_began
    assert peer.connections == 3


@pytest.mark.parametrize("end", [1, 30, len(GOOD) - 1])
def test_an_answer_that_breaks_off_is_asked_for_again(start: Start, connect: Connect, end: int) -> None:
    """So does a service end one whose rows went away while they were being sent."""
    peer = start(cut(GOOD, end), serving(GOOD))
    assert is_good(connect(peer.url).lookup(IDS))
    assert len(peer.requests) == 2


@pytest.mark.parametrize("left", [5, 100_000])
def test_an_answer_that_breaks_off_each_time(start: Start, connect: Connect, left: int) -> None:
    large = rows_answer(1000, 64)
    peer = start(cut(large, len(large) - left))
    with pytest.raises(errors.ConnectionLost, match="in the middle of the answer") as lost:
        connect(peer.url, retry=RetryPolicy(attempts=3, first_s=0.001)).lookup({"item": np.arange(1000)})
    assert lost.value.answer_began
    assert peer.connections == 3


def test_what_could_count_twice_is_not_sent_again(start: Start, connect: Connect) -> None:
    def begin_then_die(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(BEGUN)
        conversation.request()

    peer = start(begin_then_die, serving(answer(b"{}", media_type="application/json")))
    with pytest.raises(errors.ConnectionLost):
        write_a_page(connect(peer.url))
    assert [request.split(b" HTTP")[0] for request in peer.requests] == [
        b"POST /v1/tables/item/imports",
        b"POST /v1/imports/7/rows",
        b"DELETE /v1/imports/7",
    ]


def test_a_kept_connection_that_the_server_closed_is_no_trouble(start: Start, connect: Connect) -> None:
    answered, closed = threading.Event(), threading.Event()

    def answer_then_close(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(BEGUN)
        answered.wait()
        conversation.socket.close()
        closed.set()

    pages = [answer(msgpack.packb({"rows": 2})), answer(b'{"table": "item", "version": "2", "rows": 2}')]
    peer = start(answer_then_close, serving(*pages))
    client = connect(peer.url, retry=RetryPolicy(attempts=1))
    with client.importing("item") as load:  # these calls are never tried again, so that none may be lost
        answered.set()
        closed.wait()
        assert load.version == "2"
        assert load.write([1, 2], numbers(2, 3)) == 2
    assert peer.connections == 2


def test_a_kept_connection_that_dies_under_a_lookup_is_replaced_at_once(start: Start, connect: Connect) -> None:
    def answer_once(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(GOOD)
        conversation.request()

    peer = start(answer_once, serving(GOOD))
    client = connect(peer.url, timeout=5, retry=RetryPolicy(attempts=2, first_s=100, cap_s=100))
    client.lookup(IDS)
    assert is_good(client.lookup(IDS))
    assert len(peer.requests) == 3


def test_nobody_there(connect: Connect, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", f"http+unix://{tmp_path}/none.sock"):
        client = connect(url)
        with pytest.raises(errors.ConnectFailed, match=re.escape(f"no connection to {url}")):
            client.lookup(IDS)
        assert not client.health()
        assert not client.ready()


def test_a_service_that_comes_up_later_is_reached(connect: Connect, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "embcache.sock"
    client = connect(f"http+unix://{path}", retry=RetryPolicy(attempts=1000, first_s=0.001, cap_s=0.01))
    timer = threading.Timer(0.05, lambda: start(serving(GOOD), unix_path=path))
    timer.start()
    assert is_good(client.lookup(IDS))
    timer.join()


# Refusing


@pytest.mark.parametrize(
    "refusal",
    [
        error_answer(503, "not_ready", extra="Retry-After: 0\r\n"),
        error_answer(503, "overloaded", {"retry_after_ms": 1}, extra="Retry-After: 3600\r\n"),
        error_answer(429, "rate_limited", {"retry_after_ms": 1}),
        error_answer(503, "not_ready"),
        answer(b"<h1>unavailable</h1>", 503, media_type="text/html"),
    ],
    ids=["header", "detail-over-header", "429", "neither", "proxy"],
)
def test_a_refused_lookup_is_tried_again(start: Start, connect: Connect, refusal: bytes) -> None:
    peer = start(serving(refusal, refusal, GOOD))
    assert is_good(connect(peer.url).lookup(IDS))
    assert (len(peer.requests), peer.connections) == (3, 1)


def test_a_refused_write_is_tried_again_only_if_the_service_itself_refused_it(start: Start, connect: Connect) -> None:
    rest = [answer(msgpack.packb({"rows": 2})), answer(b"{}", media_type="application/json")]
    busy = error_answer(503, "overloaded", {"retry_after_ms": 0})
    peer = start(serving(BEGUN, busy, *rest))
    write_a_page(connect(peer.url))
    peer = start(serving(BEGUN, answer(b"<h1>proxy</h1>", 503, media_type="text/html")))
    with pytest.raises(errors.ServiceError, match="HTTP 503, not from embcache"):
        write_a_page(connect(peer.url))
    assert sum(b"/rows" in request for request in peer.requests) == 1


@pytest.mark.parametrize("extra", ["Retry-After: 3600\r\n", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n"])
def test_what_would_not_fit_the_timeout_is_not_waited_for(start: Start, connect: Connect, extra: str) -> None:
    peer = start(serving(error_answer(503, "not_ready", extra=extra)))
    with pytest.raises(errors.NotReady) as refused:
        connect(peer.url, timeout=3).lookup(IDS)
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s >= 3600
    assert len(peer.requests) == 1


@pytest.mark.parametrize(("status", "code"), [(404, "unknown_table"), (400, "malformed_request"), (500, "internal")])
def test_other_errors_are_not_tried_again_and_keep_the_connection(
    start: Start, connect: Connect, status: int, code: str
) -> None:
    peer = start(serving(error_answer(status, code), GOOD))
    client = connect(peer.url)
    with pytest.raises(errors.ServiceError, match=code):
        client.lookup(IDS)
    assert is_good(client.lookup(IDS))
    assert peer.connections == 1


@pytest.mark.parametrize("lingers", [False, True])
def test_an_answer_that_comes_before_the_body_was_read_is_heard(start: Start, connect: Connect, lingers: bool) -> None:
    def refuse_early(conversation: Conversation) -> None:
        conversation.head()
        conversation.send(error_answer(413, "too_large", extra="Connection: close\r\n"))
        if lingers:
            conversation.socket.shutdown(socket.SHUT_WR)
            while conversation.socket.recv(65536):
                pass

    with pytest.raises(errors.TooLarge):
        connect(start(refuse_early).url).lookup({"item": np.arange(2_000_000)})


def test_ready_and_alive(start: Start, connect: Connect) -> None:
    ready = start(serving(answer(b"{}", media_type="application/json")))
    assert connect(ready.url).health()
    assert connect(ready.url).ready()
    starting = start(serving(error_answer(503, "not_ready")))
    assert not connect(starting.url).ready()
    assert len(starting.requests) == 1
    with pytest.raises(errors.Unauthenticated):
        connect(start(serving(error_answer(401, "unauthenticated"))).url).ready()


# Malformed


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP/1.1"),
        (GOOD + b"more", "bytes follow the answer"),
        (answer(reply(result(numbers(2, 3)), position=None)), "'position' is missing"),
        (answer(b"<html>", media_type="text/html"), "text/html"),
        (answer(b"", 302, "Location: /elsewhere\r\n"), "HTTP 302"),
        (rows_answer(3), "answered with .*'item', 'f32', 3, 3"),
        (answer(reply()), r"answered with \(\)"),
        (answer(reply(result(numbers(2, 3), table="user"))), "answered with .*'user'"),
        (answer(reply(result(numbers(2, 3).astype(np.float16), dtype="f16"))), "answered with .*'f16'"),
        (answer(reply(result(numbers(2, 3), [1]))), "answered with .*2, 1"),
    ],
)
def test_an_answer_that_is_none_is_a_protocol_error(start: Start, connect: Connect, data: bytes, reason: str) -> None:
    peer = start(cut(data, len(data)), serving(GOOD))
    client = connect(peer.url)
    with pytest.raises(errors.ProtocolError, match=reason):
        client.lookup(IDS)
    assert is_good(client.lookup(IDS))


def test_json_that_is_none(start: Start, connect: Connect) -> None:
    for body, reason in [(b"{", "is not JSON"), (b"{}", "lacks"), (b"[]", "lacks"), (b"", "lacks")]:
        with pytest.raises(errors.ProtocolError, match=f"GET /v1/tables {reason}"):
            connect(start(serving(answer(body, media_type="application/json"))).url).tables()


def test_a_reply_over_the_limit_is_refused(start: Start, connect: Connect) -> None:
    peer = start(serving(rows_answer(1000, 64)))
    with pytest.raises(errors.ReplyTooLarge, match="over max_reply_bytes = 100000"):
        connect(peer.url, max_reply_bytes=100_000).lookup({"item": np.arange(1000)})


def test_bytes_that_nobody_asked_for_end_the_connection(start: Start, connect: Connect) -> None:
    answered, said = threading.Event(), threading.Event()

    def chatter(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(GOOD)
        answered.wait()
        conversation.send(GOOD)
        said.set()
        conversation.hang()

    peer = start(chatter, serving(rows_answer(1, 1)))
    client = connect(peer.url)
    client.lookup(IDS)
    answered.set()
    said.wait()
    assert client.lookup({"item": [1]})["item"].rows.tolist() == [[0.0]]
    assert peer.connections == 2


# Whole


def test_a_chunked_answer_from_a_proxy(start: Start, connect: Connect) -> None:
    body = reply(result(numbers(1000, 64)))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:50_000], body[50_000:]))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/msgpack\r\nTransfer-Encoding: chunked\r\n\r\n"
    peer = start(serving(head + chunks + b"0\r\n\r\n"))
    client = connect(peer.url)
    for _ in range(2):
        np.testing.assert_array_equal(client.lookup({"item": np.arange(1000)})["item"].rows, numbers(1000, 64))
    assert peer.connections == 1


def test_no_result_is_ever_written_over(start: Start, connect: Connect) -> None:
    answers = [answer(aligned_reply(np.full((1000, 64), mark, np.float32))) for mark in range(8)]
    client = connect(start(serving(*answers)).url)
    kept = [client.lookup({"item": np.arange(1000)})["item"].rows[500:501, ::2] for _ in range(8)]
    assert [set(rows.ravel().tolist()) for rows in kept] == [{mark} for mark in range(8)]
    assert all(rows.flags.writeable for rows in kept)


def test_the_memory_of_dropped_results_is_used_again(start: Start, connect: Connect) -> None:
    client = connect(start(serving(answer(aligned_reply(numbers(1000, 64))))).url)
    addresses = set()
    for _ in range(10):
        rows = client.lookup({"item": np.arange(1000)})["item"].rows
        assert rows.ctypes.data % 64 == 0
        addresses.add(rows.ctypes.data)
        del rows
    assert len(addresses) == 1


def test_a_request_byte_by_byte(start: Start, connect: Connect) -> None:
    peer = start(serving(GOOD))
    connect(peer.url, token="abc").lookup({"item": [1, 258]}, deadline_ms=5)
    host = peer.url.removeprefix("http://").encode()
    assert peer.requests == [
        b"POST /v1/lookup HTTP/1.1\r\nHost: " + host + b"\r\nAuthorization: Bearer abc\r\n"
        b"Content-Type: application/msgpack\r\nContent-Length: 67\r\n\r\n"
        + bytes.fromhex("83 a7 71 75 65 72 69 65 73 91 82 a5 74 61 62 6c 65 a4 69 74 65 6d a3 69 64 73 c4 10")
        + bytes.fromhex("01 00 00 00 00 00 00 00 02 01 00 00 00 00 00 00 a5 64 74 79 70 65 a3 66 33 32")
        + bytes.fromhex("ab 64 65 61 64 6c 69 6e 65 5f 6d 73 05")
    ]


def test_after_a_fork_no_connection_of_the_parent_is_used(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = start(serving(GOOD))
    with Client(peer.url) as client:
        client.lookup(IDS)
        monkeypatch.setattr(os, "getpid", lambda: -1)
        client.lookup(IDS)
        client.lookup(IDS)
    assert peer.connections == 2


def test_a_closed_client_says_so(start: Start, connect: Connect) -> None:
    client = connect(start(serving(GOOD)).url)
    client.lookup(IDS)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.lookup(IDS)
