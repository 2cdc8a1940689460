"""The other end of a link: a socket in a folder, answered by the test itself, on real sockets."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from embcache.local import frames
from embcache.local.greeting import welcome
from embcache.local.paths import reachable

Serve = Callable[["Peer"], None]


class Peer:
    """Accepts one link in a folder, greets it, then runs `serve(peer)` in a thread; then hangs up."""

    def __init__(self, folder: Path, serve: Serve, hello: Mapping[str, Any] | None = None) -> None:
        self.hello = {"ok": True, "protocol": frames.PROTOCOL} if hello is None else hello
        self.fds = [os.memfd_create("arena"), os.memfd_create("ring")]
        os.write(self.fds[0], b"rows")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with reachable(folder / frames.SOCKET_NAME) as address:
            self._listener.bind(address)
        self._listener.listen(1)
        self._serve = serve
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # the test failed and will not hang up itself
            self.connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for fd in self.fds:
            os.close(fd)

    def receive(self) -> frames.Frame:
        """The next frame of the link; EOFError when it hung up."""
        while not self._frames:
            nbytes = self.connection.recv_into(self._reader.buffer())
            self._frames += self._reader.received(nbytes)
            if nbytes == 0:
                raise EOFError
        return self._frames.pop(0)

    def send(self, call: int, meta: Mapping[str, Any], payload: Sequence[frames.Buffer] = ()) -> None:
        """Sends one frame whole."""
        self.connection.sendall(b"".join(frames.encode(call, meta, payload)))

    def _run(self) -> None:
        self.connection, _ = self._listener.accept()
        self._reader = frames.FrameReader(frames.MAX_REQUEST_META, frames.MAX_REQUEST_PAYLOAD)
        self._frames: list[frames.Frame] = []
        with self.connection:
            greeting = self.receive()
            assert greeting.meta["op"] == "hello"
            welcome(self.connection, greeting.call, self.hello, self.fds if "error" not in self.hello else ())
            self._serve(self)


def echo(peer: Peer) -> None:
    """Answers each call with its own meta and payload, until the link hangs up."""
    try:
        while True:
            call, meta, payload = peer.receive()
            peer.send(call, meta, [payload])
    except (EOFError, ConnectionError):
        return
