"""The rest of an answer whose first part has left: whole, in its turn, or the connection ends in the middle of it."""

from __future__ import annotations

import asyncio
import socket
import threading
from functools import partial

import pytest

from embcache.service.bodies import Receive, Scope, Send
from embcache.service.buffers import BufferPool
from embcache.service.connection import Answer
from tests.service.wires import connect, ends, post, receive, serving

MIB = 1 << 20
FIRST = 100_000  # bytes that are there at once


class Halved:
    """Answers with `size` bytes, all of the request's first one, in two parts: the second at once, or once it is let.

    A request of the byte "!" gets no second part.
    """

    def __init__(self, size: int, *, waits: bool) -> None:
        self.pool = BufferPool(256 * MIB)
        self.size, self.waits = size, waits
        self.again = 0
        self.go_on = asyncio.Event()  # of the server's loop, on which alone it is used
        self.parted = threading.Event()

    def answer_now(self, scope: Scope, body: bytes) -> Answer | None:
        buffer = self.pool.take(self.size)
        buffer.array[:] = 0xEE  # as the next lookup would write over it
        buffer.array[:FIRST] = body[0]
        rest = Second(self, buffer.view[FIRST : self.size], body[0])
        lines = b"content-length: %d\r\n" % self.size
        return Answer(lines, buffer.view[:FIRST], partial(self.pool.settle, buffer), rest)

    def answer_again(self, scope: Scope, body: bytes) -> Answer | None:
        self.again += 1
        return self.answer_now(scope, body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"app: " + body[:1]})


class Second:
    """The other part."""

    def __init__(self, app: Halved, room: memoryview, byte: int) -> None:
        self._app, self._room, self._byte = app, room, byte

    def now(self) -> memoryview | None:
        return None if self._app.waits else self._written()

    async def later(self) -> memoryview | None:
        self._app.parted.set()
        await self._app.go_on.wait()
        return None if self._byte == ord("!") else self._written()

    def _written(self) -> memoryview:
        self._room[:] = bytes([self._byte]) * len(self._room)
        return self._room


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("size", [FIRST + 1, MIB, 8 * MIB])
def test_it_comes_whole_whatever_a_slow_reader_leaves_unread(size: int, waits: bool) -> None:
    app = Halved(size, waits=waits)
    with serving(app) as server:
        server.on_loop(app.go_on.set)
        slow = [connect(server.port, receive_buffer=4096) for _ in range(3)]
        for number, client in enumerate(slow):
            client.sendall(post("/", bytes([number])))
            with connect(server.port) as quick:
                for byte in range(100, 105):
                    quick.sendall(post("/", bytes([byte])))
                    assert receive(quick).body == bytes([byte]) * size
        for number, client in enumerate(slow):
            assert receive(client, chunk=max(4096, size // 50)).body.strip(bytes([number])) == b""
            client.close()
        while server.on_loop(lambda: app.pool.lent):
            pass
        assert app.pool.kept >= size


def parted(app: Halved, client: socket.socket, body: bytes) -> bytes:
    """Ask, and wait until the first part has left; -> what came of it, its head included."""
    app.parted.clear()
    client.sendall(post("/", body))
    assert app.parted.wait(10)
    received = b""
    while len(received) < FIRST:
        received += client.recv(FIRST)
    return received


@pytest.mark.parametrize("turn", [1, 3])
def test_what_is_asked_meanwhile_waits_its_turn(turn: int) -> None:
    """Both where the first request was parsed, and where its head was known."""
    app = Halved(MIB, waits=True)
    with serving(app) as server, connect(server.port) as client:
        for _ in range(turn - 1):
            rest = bytearray(parted(app, client, b"x"))
            server.on_loop(app.go_on.set)
            assert receive(client, rest=rest).body == b"x" * MIB
            server.on_loop(app.go_on.clear)
        rest = bytearray(parted(app, client, b"a"))
        client.sendall(post("/", b"b") + post("/", b"c"))
        while not server.on_loop(lambda: server.connections[0].pipeline):
            pass
        server.on_loop(app.go_on.set)
        assert receive(client, rest=rest).body == b"a" * MIB
        assert [receive(client, rest=rest).body for _ in "bc"] == [b"app: b", b"app: c"]
        assert app.again == turn - 1


def test_what_cannot_be_had_ends_the_connection() -> None:
    app = Halved(MIB, waits=True)
    with serving(app) as server, connect(server.port) as client:
        received = parted(app, client, b"!")
        server.on_loop(app.go_on.set)
        assert b"200 OK" in received
        with pytest.raises(ConnectionError):
            receive(client, rest=bytearray(received))
        assert server.on_loop(lambda: (app.pool.lent, app.pool.kept)) == (0, 0)  # somebody may still read of it


def test_who_hangs_up_meanwhile_is_forgotten() -> None:
    app = Halved(MIB, waits=True)
    with serving(app) as server:
        client = connect(server.port)
        parted(app, client, b"x")
        client.close()
        while server.on_loop(lambda: server.connections):
            pass
        assert server.on_loop(lambda: app.pool.lent) == MIB  # it is still written to
        server.on_loop(app.go_on.set)
        while server.on_loop(lambda: app.pool.lent):
            pass
        assert app.pool.kept == 0


def test_a_server_that_is_told_to_end_sends_it_and_hangs_up() -> None:
    app = Halved(MIB, waits=True)
    with serving(app) as server, connect(server.port) as client:
        rest = bytearray(parted(app, client, b"x"))
        server.uvicorn.should_exit = True
        while server.on_loop(lambda: server.connections[0].cycle.keep_alive):
            pass
        server.on_loop(app.go_on.set)
        assert receive(client, rest=rest).body == b"x" * MIB
        assert ends(client)
