"""The least that moves bytes between two processes: blocking sockets over TCP loopback, and buffers used again.

`python -m loadtest.peers.blocking_sockets FD REQUEST_BYTES REPLY_FILE` serves on a listening socket that it inherits:
whenever so many bytes of a request have come, it sends the reply.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from loadtest.processes import Process

READY = "ready"


class Exchange:
    """The asking side: one connection, one reply buffer."""

    def __init__(self, connection: socket.socket, reply_bytes: int) -> None:
        self._connection = connection
        self._reply = filled_buffer(reply_bytes)

    def __call__(self, request: bytes) -> memoryview:
        """Send a request and receive the reply, which the next call writes over. EOFError where the peer is gone."""
        self._connection.sendall(request)
        receive_whole(self._connection, self._reply)
        return self._reply


@contextmanager
def blocking_sockets(request_bytes: int, reply: bytes) -> Iterator[Exchange]:
    """A process of its own that answers each `request_bytes` bytes with `reply`, and a connection to it."""
    with TemporaryDirectory(prefix="loadtest-sockets-") as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        Path(folder, "reply").write_bytes(reply)
        command = [sys.executable, "-m", "loadtest.peers.blocking_sockets", str(listener.fileno()), str(request_bytes)]
        command.append(str(Path(folder, "reply")))
        with Process(command, Path(folder, "log"), pass_fds=[listener.fileno()]) as server:
            server.wait_until(lambda: READY in server.last_words(), timeout_s=20)
            with socket.create_connection(listener.getsockname()) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                yield Exchange(connection, len(reply))


def receive_whole(connection: socket.socket, buffer: memoryview) -> None:
    """Fill the buffer. EOFError where the other side closes before."""
    filled = 0
    while filled < len(buffer):
        count = connection.recv_into(buffer[filled:], 0, socket.MSG_WAITALL)
        if not count:
            raise EOFError(f"the other side closed the connection after {filled} of {len(buffer)} bytes")
        filled += count


def filled_buffer(size: int) -> memoryview:
    """Memory whose pages are there already; NumPy asks for large ones where there are some."""
    buffer = np.empty(size, np.uint8)
    buffer.fill(0)
    return buffer.data


def main(descriptor: int, request_bytes: int, reply: Path) -> None:
    """Answer one connection after the other until SIGTERM."""
    listener = socket.socket(fileno=descriptor)
    body = filled_buffer(reply.stat().st_size)
    body[:] = reply.read_bytes()
    request = filled_buffer(request_bytes)
    print(READY, flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            try:
                while True:
                    receive_whole(connection, request)
                    connection.sendall(body)
            except (EOFError, ConnectionError):
                continue


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
