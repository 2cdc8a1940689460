"""The least a Python HTTP service can do: uvicorn (uvloop, httptools) that answers every POST with one fixed body.

`python -m loadtest.peers.bare_app FD BODY_FILE` serves on a listening socket that it inherits.
"""

from __future__ import annotations

import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loadtest.processes import Process

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


def answering(body: bytes) -> App:
    """An ASGI app that reads each request whole and answers it with `body` as msgpack."""
    headers = [(b"content-type", b"application/msgpack"), (b"content-length", str(len(body)).encode())]

    async def app(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


@contextmanager
def bare_app(body: bytes) -> Iterator[str]:
    """The base URL of a process of its own that answers every request with `body`."""
    with TemporaryDirectory(prefix="loadtest-bare-") as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        Path(folder, "body").write_bytes(body)
        command = [sys.executable, "-m", "loadtest.peers.bare_app", str(listener.fileno()), str(Path(folder, "body"))]
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Process(command, Path(folder, "log"), pass_fds=[listener.fileno()]) as server:
            server.wait_until(lambda: _answers(url), timeout_s=20)
            yield url


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/", timeout=1) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False


def main(descriptor: int, body: Path) -> None:
    """Serve on the inherited socket until SIGTERM."""
    import uvicorn

    config = uvicorn.Config(
        answering(body.read_bytes()),
        loop="uvloop",
        http="httptools",
        access_log=False,
        lifespan="off",
        log_level="warning",
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
