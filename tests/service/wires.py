"""A server in a thread and bare sockets against it, for tests of what happens on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from embcache.service.connection import Connection, watch


@dataclass
class Server:
    """uvicorn in a thread, as the front runs it."""

    port: int
    uvicorn: uvicorn.Server
    loop: asyncio.AbstractEventLoop

    @property
    def connections(self) -> list[Connection]:
        return [known for known in self.uvicorn.server_state.connections if isinstance(known, Connection)]

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """Calls `call` between two steps of the server's loop."""

        async def step() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(step(), self.loop).result(10)


@contextmanager
def serving(
    app: Any, patience_s: float = 60.0, idle_s: float = 60.0, listener: socket.socket | None = None
) -> Iterator[Server]:
    """Serves `app` on a free port, or on `listener`; clients are cut off after `patience_s` and `idle_s`."""
    listener = listener or socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=Connection,
        loop="uvloop",
        lifespan="off",
        ws="none",
        interface="asgi3",
        proxy_headers=False,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    ready, loops = threading.Event(), list[asyncio.AbstractEventLoop]()

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        watching = asyncio.create_task(watch(server.server_state.connections, patience_s, idle_s, 0.02))
        loops[0].call_later(0.01, ready.set)
        await server.serve(sockets=[listener])
        watching.cancel()

    factory = config.get_loop_factory()
    thread = threading.Thread(target=lambda: _run(main, factory))
    thread.start()
    try:
        assert ready.wait(10)
        port = 0 if listener.family == socket.AF_UNIX else listener.getsockname()[1]
        yield Server(port, server, loops[0])
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def _run(main: Callable[[], Any], factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def connect(port: int, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(20)
    try:
        client.connect(("127.0.0.1", port))
    except OSError:
        client.close()
        raise
    return client


def post(path: str, body: bytes, *headers: str, content_type: str = "application/msgpack") -> bytes:
    """The bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", "host: test", f"content-type: {content_type}", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def put(path: str, content: object) -> bytes:
    """A PUT of JSON."""
    return post(path, json.dumps(content).encode(), content_type="application/json").replace(b"POST", b"PUT", 1)


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: test", *headers, "", ""]).encode()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def receive(client: socket.socket, chunk: int = 1 << 20, rest: bytearray | None = None) -> Answer:
    """The next answer. What was read beyond it goes into `rest`, and is taken from there first."""
    received = bytearray() if rest is None else rest
    while b"\r\n\r\n" not in received:
        received += _some(client, chunk)
    head, _, _ = bytes(received).partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    start = len(head) + 4
    end = start + int(headers.get("content-length", 0))
    while len(received) < end:
        received += _some(client, chunk)
    body = bytes(received[start:end])
    del received[:end]
    assert rest is not None or not received
    return Answer(int(status.split(" ")[1]), headers, body)


def send_until_closed(client: socket.socket, data: bytes) -> None:
    """Send, and mind no hanging up."""
    with contextlib.suppress(OSError):
        client.sendall(data)


def ends(client: socket.socket) -> bool:
    """Waits until the server hangs up; False when something else comes first."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def _some(client: socket.socket, chunk: int) -> bytes:
    received = client.recv(chunk)
    if not received:
        raise ConnectionError("the server hung up in the middle of an answer")
    return received
