"""Requests that an application answers at once, without a task: the same answers, in the same order."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from embcache.service.bodies import Receive, Scope, Send
from embcache.service.buffers import BufferPool
from embcache.service.connection import Answer
from tests.service.wires import connect, ends, post, receive, send_until_closed, serving

MIB = 1 << 20


class Quick:
    """Answers with the request's body: at once when that begins with "now", otherwise as an application."""

    def __init__(self) -> None:
        self.at_once = 0
        self.called = 0

    def answer_now(self, scope: Scope, body: bytes) -> Answer | None:
        if not body.startswith(b"now"):
            return None
        self.at_once += 1
        return Answer(b"x-at: once\r\ncontent-length: %d\r\n" % len(body), body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.called += 1
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def test_what_can_be_answered_at_once_is() -> None:
    app = Quick()
    with serving(app) as server, connect(server.port) as client:
        client.sendall(post("/", b"now 1"))
        answer = receive(client)
        assert (answer.status, answer.body, answer.headers["x-at"]) == (200, b"now 1", "once")
        assert "date" in answer.headers
        client.sendall(post("/", b"later"))
        assert receive(client).body == b"later"
        assert (app.at_once, app.called) == (1, 1)


def test_answers_at_once_and_others_keep_their_order_in_a_pipeline() -> None:
    app = Quick()
    bodies = [b"now %d" % n if n % 50 != 49 else b"later %d" % n for n in range(500)]
    with serving(app) as server, connect(server.port) as client:
        sender = threading.Thread(target=client.sendall, args=(b"".join(post("/", body) for body in bodies),))
        sender.start()
        rest = bytearray()
        assert [receive(client, rest=rest).body for _ in bodies] == bodies
        sender.join()
    assert app.at_once > 0
    assert app.at_once + app.called == 500


def test_a_request_that_comes_in_pieces_goes_to_the_application() -> None:
    app = Quick()
    with serving(app) as server, connect(server.port) as client:
        request = post("/", b"now in pieces")
        client.sendall(request[:-5])
        while not app.called:
            pass
        client.sendall(request[-5:])
        assert receive(client).body == b"now in pieces"
    assert app.at_once == 0


@pytest.mark.parametrize("header", ["connection: close", "expect: 100-continue"])
def test_who_wants_more_than_an_answer_gets_it_from_the_application(header: str) -> None:
    app = Quick()
    with serving(app) as server, connect(server.port) as client:
        client.sendall(post("/", b"now", header))
        rest = bytearray()
        answer = receive(client, rest=rest)
        if answer.status == 100:
            answer = receive(client, rest=rest)
        assert (answer.status, answer.body) == (200, b"now")
        if "close" in header:
            assert ends(client)
    assert app.at_once == 0


class Generous(Quick):
    """Answers at once, with more than it was sent."""

    def answer_now(self, scope: Scope, body: bytes) -> Answer | None:
        return Answer(b"content-length: 100000\r\n", bytes(100_000))


def test_nobody_is_answered_at_once_who_does_not_read() -> None:
    """What waits in the transport stays bounded: further requests wait until the client has read."""
    with serving(Generous()) as server, connect(server.port, receive_buffer=1 << 16) as client:
        sender = threading.Thread(target=send_until_closed, args=(client, post("/", b"now") * 3000))
        sender.start()
        receive(client, rest=bytearray())
        while sender.is_alive() and not server.on_loop(lambda: server.connections[0].flow.read_paused):
            pass
        waiting = server.on_loop(server.connections[0].transport.get_write_buffer_size)
        client.close()
        sender.join()
    assert waiting <= 300_000


class Pooled(Quick):
    """Answers at once with `?N` bytes, all of the request's own first byte, out of a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BufferPool(256 * MIB)

    def answer_now(self, scope: Scope, body: bytes) -> Answer | None:
        size = int(scope["query_string"])
        buffer = self.pool.take(size)
        buffer.array[:] = 0xEE  # as the next lookup would write over it
        buffer.array[:size] = body[0]
        release = partial(self.pool.settle, buffer)
        return Answer(b"content-length: %d\r\n" % size, buffer.view[:size], release)


@pytest.mark.parametrize("size", [4096, MIB, 8 * MIB])
def test_a_buffer_is_reused_only_when_a_slow_reader_has_let_go_of_it(size: int) -> None:
    app = Pooled()
    with serving(app) as server:
        slow = [connect(server.port, receive_buffer=4096) for _ in range(3)]
        for number, client in enumerate(slow):
            client.sendall(post(f"/?{size}", bytes([number])))
            with connect(server.port) as quick:
                for byte in range(100, 110):
                    quick.sendall(post(f"/?{size}", bytes([byte])))
                    assert receive(quick).body == bytes([byte]) * size
        for number, client in enumerate(slow):
            assert receive(client, chunk=max(4096, size // 50)).body.strip(bytes([number])) == b""
            client.close()
        while server.on_loop(lambda: app.pool.lent):
            pass
        assert app.pool.kept >= size


def test_the_buffer_of_a_broken_connection_is_dropped() -> None:
    app = Pooled()
    with serving(app) as server:
        client = connect(server.port, receive_buffer=4096)
        client.sendall(post(f"/?{8 * MIB}", b"x"))
        client.recv(100)
        client.close()
        while server.on_loop(lambda: app.pool.lent):
            pass
        assert app.pool.kept == 0
