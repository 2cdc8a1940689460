"""A server that does to each connection exactly what a script says: the faults that a real server would not produce."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from tests.clients.replies import numbers, reply, result

LINGER_ZERO = struct.pack("ii", 1, 0)


def answer(body: bytes, status: int = 200, extra: str = "", media_type: str = "application/msgpack") -> bytes:
    """A whole answer of known length."""
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def rows_answer(count: int = 2, dim: int = 3) -> bytes:
    """A good answer to a lookup of `count` ids of the table "item"."""
    return answer(reply(result(numbers(count, dim))))


class Conversation:
    """One connection, from the server's side."""

    def __init__(self, peer: Peer, connection: socket.socket) -> None:
        self.peer = peer
        self.socket = connection
        self._rest = b""

    def request(self) -> bytes:
        """The next request, head and body, as it came; b"" at the end of the connection."""
        request = self.head()
        if request:
            length = [line for line in request.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            size = int(length[0].split(b":")[1]) if length else 0
            while len(self._rest) < size and self._receive():
                pass
            request, self._rest = request + self._rest[:size], self._rest[size:]
            self.peer.requests.append(request)
        return request

    def head(self) -> bytes:
        """The next request's head; its body is left unread."""
        while b"\r\n\r\n" not in self._rest:
            if not self._receive():
                return b""
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def _receive(self) -> bool:
        piece = self.socket.recv(65536)
        self._rest += piece
        return bool(piece)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reset(self) -> None:
        """End the connection with a RST rather than a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        self.socket.close()

    def hang(self) -> None:
        """Say nothing more until the test is over."""
        self.peer.is_over.wait()


Script = Callable[[Conversation], None]


class Peer:
    """Plays the n-th script on the n-th connection, and the last one on all later ones."""

    def __init__(self, *scripts: Script, unix_path: Path | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.is_over = threading.Event()
        self.failures: list[BaseException] = []
        self._scripts = scripts
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        if unix_path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(unix_path))
            self._listener.listen()
            self.url = f"http+unix://{unix_path}"
        self._start(self._accept)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            self._open.append(connection)
            self._start(lambda script=script, connection=connection: self._play(script, connection))  # type: ignore[misc]

    def _play(self, script: Script, connection: socket.socket) -> None:
        try:
            with connection:
                script(Conversation(self, connection))
        except OSError:
            pass  # the client left first, as some tests want it to
        except BaseException as error:
            self.failures.append(error)

    def close(self) -> None:
        """End everything; raises what a script raised."""
        self.is_over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        if self.failures:
            raise self.failures[0]


def serving(*answers: bytes) -> Script:
    """A script that gives these answers in turn, the last one for ever, as long as requests come."""

    def script(conversation: Conversation) -> None:
        given = 0
        while conversation.request():
            conversation.send(answers[min(given, len(answers) - 1)])
            given += 1

    return script
