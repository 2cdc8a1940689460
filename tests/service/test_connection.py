"""What a connection does for its replies, and what it does not put up with."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from pathlib import Path

import pytest

from embcache.service.bodies import Receive, Scope, Send
from embcache.service.buffers import BufferPool
from embcache.service.connection import MAX_HEAD_BYTES, UNIX_SEND_BUFFER
from embcache.service.sending import Reply, send_reply
from tests.service.wires import connect, ends, get, post, receive, send_until_closed, serving

MIB = 1 << 20


class Echo:
    """Answers with `?N` bytes, all of the request's own first byte, out of a pool that is filled anew each time."""

    def __init__(self, limit: int = 256 * MIB) -> None:
        self.pool = BufferPool(limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        else:
            return
        size = int(scope["query_string"])
        buffer = self.pool.take(size)
        buffer.array[:] = 0xEE  # as the next lookup would write over it
        buffer.array[:size] = body[0]
        await send_reply(Reply(buffer.view[:size], buffer), self.pool, scope, send)


def fill(size: int, byte: int) -> bytes:
    return post(f"/?{size}", bytes([byte]))


@pytest.mark.parametrize("size", [1, 4096, 70_000, MIB, 8 * MIB])
def test_a_buffer_is_reused_only_when_a_slow_reader_has_let_go_of_it(size: int) -> None:
    app = Echo()
    with serving(app) as server:
        slow = [connect(server.port, receive_buffer=4096) for _ in range(3)]
        for number, client in enumerate(slow):
            client.sendall(fill(size, number))
            with connect(server.port) as quick:
                for byte in range(100, 110):
                    quick.sendall(fill(size, byte))
                    assert receive(quick).body == bytes([byte]) * size
        for number, client in enumerate(slow):
            assert receive(client, chunk=max(4096, size // 50)).body.strip(bytes([number])) == b""
            client.close()
        assert server.on_loop(lambda: app.pool.lent) == 0


def test_a_pooled_buffer_is_used_again_on_one_connection() -> None:
    app = Echo(limit=MIB)
    with serving(app) as server, connect(server.port) as client:
        for byte in range(20):
            client.sendall(fill(MIB, byte))
            assert receive(client).body == bytes([byte]) * MIB
        assert server.on_loop(lambda: (app.pool.lent, app.pool.kept)) == (0, MIB)


def test_the_buffer_of_a_broken_connection_is_dropped() -> None:
    app = Echo()
    with serving(app) as server:
        client = connect(server.port, receive_buffer=4096)
        client.sendall(fill(8 * MIB, 1))
        client.recv(100)
        client.close()
        while server.on_loop(lambda: app.pool.lent):
            pass
        assert app.pool.kept == 0


def test_a_client_that_hangs_up_within_a_reply_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """With another request behind it, and bytes unread, so that a reset is what the server gets."""
    app = Echo()
    with serving(app) as server:
        client = connect(server.port, receive_buffer=4096)
        client.sendall(fill(8 * MIB, 1) + fill(1, 2))
        client.recv(100)
        client.close()
        while server.on_loop(lambda: app.pool.lent):
            pass
        assert app.pool.kept == 0
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_unix_socket_takes_a_large_reply_in_one_write(tmp_path: Path) -> None:
    granted = 2 * min(UNIX_SEND_BUFFER, int(Path("/proc/sys/net/core/wmem_max").read_text()))  # Linux doubles it
    size = granted // 4
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    with serving(Echo(), listener=listener) as server, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(tmp_path / "socket"))
        client.sendall(fill(size, 5))
        assert client.recv(1, socket.MSG_PEEK)  # the reply is under way, and none of it is read
        (waiting,) = server.on_loop(lambda: [known.transport.get_write_buffer_size() for known in server.connections])
        assert waiting == 0
        assert receive(client).body == b"\x05" * size


def test_pipelined_requests_are_answered_in_order() -> None:
    with serving(Echo()) as server, connect(server.port) as client:
        sender = threading.Thread(target=client.sendall, args=(b"".join(fill(100 + n, n % 256) for n in range(3000)),))
        sender.start()
        rest = bytearray()
        for number in range(3000):
            assert receive(client, rest=rest).body == bytes([number % 256]) * (100 + number)
        sender.join()


def test_a_pipeline_is_read_no_further_than_it_is_served() -> None:
    release = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.to_thread(release.wait)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with serving(app) as server, connect(server.port) as client:
        many = get("/") * 200_000
        sender = threading.Thread(target=send_until_closed, args=(client, many))
        sender.start()
        while not server.on_loop(lambda: server.connections and server.connections[0].pipeline):
            pass
        release.set()
        rest = bytearray()
        for _ in range(500):
            assert receive(client, rest=rest).status == 200
        waiting = server.on_loop(lambda: len(server.connections[0].pipeline))
        client.close()
        sender.join()
    assert waiting < 2 * (1 << 18) // len(get("/"))  # what two reads of the socket may hold


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /?1 HT", b"POST /?1 HTTP/1.1\r\nhost: a\r\n", fill(10, 65)[:-1], post("/?10", b"x" * 500_000)[:-1]],
    ids=["nothing", "request line", "head", "body", "large body"],
)
def test_a_client_that_stalls_is_cut_off(sent: bytes) -> None:
    with serving(Echo(), patience_s=0.2) as server, connect(server.port) as client:
        client.sendall(sent)
        assert ends(client)


def test_a_client_that_trickles_is_cut_off() -> None:
    def trickle(client: socket.socket) -> None:
        for byte in b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 100_000:
            client.sendall(bytes([byte]))

    with serving(Echo(), patience_s=0.2) as server, connect(server.port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            trickle(client)


def test_a_client_that_does_not_read_is_cut_off_and_its_memory_freed() -> None:
    app = Echo()
    with serving(app, patience_s=0.2) as server, connect(server.port, receive_buffer=4096) as client:
        client.sendall(fill(8 * MIB, 1))
        while not server.on_loop(lambda: app.pool.lent):
            pass
        while server.on_loop(lambda: app.pool.lent):
            pass
        with pytest.raises(ConnectionError):
            receive(client)


def test_a_client_that_reads_slowly_is_not_cut_off() -> None:
    with serving(Echo(), patience_s=0.5) as server, connect(server.port, receive_buffer=4096) as client:
        client.sendall(fill(MIB, 1))
        assert receive(client, chunk=1024).body == b"\x01" * MIB


def test_an_idle_connection_is_closed() -> None:
    with serving(Echo(), idle_s=0.2) as server, connect(server.port) as client:
        client.sendall(fill(10, 1))
        assert receive(client).status == 200
        assert ends(client)


def test_a_head_without_end_is_refused() -> None:
    with serving(Echo()) as server, connect(server.port) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        send_until_closed(client, b"x-more: and more\r\n" * 100_000)
        answer = receive(client, rest=bytearray())
        assert answer.status == 413
        assert answer.json()["error"]["code"] == "too_large"
        assert str(MAX_HEAD_BYTES) in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nx: " + b"a" * 40_000 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
    ],
    ids=["path", "both", "headers"],
)
def test_a_head_that_is_whole_and_too_large_is_refused(head: bytes) -> None:
    with serving(Echo()) as server, connect(server.port) as client:
        client.sendall(fill(10, 1))
        assert receive(client).status == 200
        send_until_closed(client, head + b"\r\n")
        answer = receive(client)
        assert (answer.status, answer.json()["error"]["code"]) == (413, "too_large")
        assert ends(client)


def test_a_head_within_the_limit_is_taken_with_a_large_body() -> None:
    with serving(Echo()) as server, connect(server.port) as client:
        for _ in range(2):
            client.sendall(post("/?10", b" " * MIB, "x: " + "a" * (MAX_HEAD_BYTES - 1000)))
            assert receive(client).status == 200


def test_what_is_not_http_is_told_so() -> None:
    with serving(Echo()) as server, connect(server.port) as client:
        client.sendall(b"EHLO example.org\r\n\r\n")
        answer = receive(client)
        assert (answer.status, answer.json()["error"]["code"]) == (400, "malformed_request")
        assert ends(client)
