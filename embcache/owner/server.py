"""The owner's Unix socket: accepts links, hands their calls on, answers them. Knows frames, no tables and no store.

A reader that is slow, dead or hostile harms nobody else: frames are bounded before they are received, calls and
answers that wait are bounded for each link, and a link whose reader takes nothing for STALL_S is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from embcache.errors import ConfigError, EmbcacheError, NotReady, Overloaded
from embcache.local import frames
from embcache.local.greeting import HELLO_META_LIMIT, welcome
from embcache.local.paths import reachable
from embcache.owner.connection import Connection
from embcache.owner.threads import log, service_error

MAX_LINKS = 512
GREETING_S = 5.0
_BACKLOG = 128

Answer = tuple[Mapping[str, Any], Sequence[frames.Buffer]]
Handle = Callable[[Mapping[str, Any], memoryview], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a new link gets: the hello's map, the descriptors beside it (closed once sent), `handle` that answers its
    calls, and what ends with it."""

    meta: Mapping[str, Any]
    fds: Sequence[int]
    handle: Handle
    on_close: Callable[[], None]


class Server:
    """The socket in the data folder and all links. Every method runs on the loop."""

    def __init__(self, folder: Path, greet: Callable[[], Greeting]) -> None:
        """`greet` makes what a new link gets."""
        self._path = folder / frames.SOCKET_NAME
        self._greet = greet
        self._links: set[Connection] = set()
        self._greeted: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._listener: socket.socket | None = None

    @property
    def connections(self) -> list[Connection]:
        """The links there are."""
        return list(self._links)

    def start(self) -> None:
        """Begin to listen. Only while the store is held: a socket that is there is then nobody's. ConfigError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            os.fchmod(listener.fileno(), 0o600)  # what bind gives the file
            self._path.unlink(missing_ok=True)
            with reachable(self._path) as address:
                listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise ConfigError(f"cold.path {self._path.parent}: no socket can be made there: {error}") from error
        self._listener = listener
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listener))

    async def stop(self, grace_s: float) -> None:
        """Stop listening, answer what was asked, for at most `grace_s` seconds, then close all links."""
        self._stopping = True
        if self._listener is None:
            return
        self._accepting.cancel()
        greeted = list(self._greeted)
        for task in greeted:
            task.cancel()
        await asyncio.wait([self._accepting, *greeted])
        self._listener.close()
        self._path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        if self._calls:
            await asyncio.wait(self._calls, timeout=grace_s)
        for link in list(self._links):
            link.close()
        gone = [link.gone for link in self._links]
        if gone:
            await asyncio.wait(gone, timeout=max(0.0, end - loop.time()))
        for link in list(self._links):
            link.abort("the owner stops")

    # --- new links -----------------------------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # such as too many open files: links that close make room
                log.warning("no new link for now: %s", error)
                await asyncio.sleep(0.1)
                continue
            task = loop.create_task(self._admit(connection))
            self._greeted.add(task)
            task.add_done_callback(self._greeted.discard)

    async def _admit(self, connection: socket.socket) -> None:
        """Greets a new connection and makes a link of it, or closes it."""
        try:
            async with asyncio.timeout(GREETING_S):
                call = await self._hear_hello(connection)
            await self._connect(connection, call)
        except EmbcacheError as error:
            with contextlib.suppress(OSError):
                welcome(connection, 0, {"error": error.to_dict()}, ())
            connection.close()
        except (OSError, EOFError, frames.FrameError) as error:  # TimeoutError is an OSError
            log.info("what connected is no reader: %s", error)
            connection.close()
        except BaseException:
            connection.close()
            raise

    async def _connect(self, connection: socket.socket, call: int) -> None:
        greeting = self._greet()
        try:
            welcome(connection, call, greeting.meta, greeting.fds)
        except BaseException:
            greeting.on_close()
            raise
        finally:
            for fd in greeting.fds:
                os.close(fd)
        link = Connection(partial(self._begin, greeting.handle), greeting.on_close)
        self._links.add(link)
        link.gone.add_done_callback(lambda _: self._links.discard(link))
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: link, connection)
        except BaseException:
            link.connection_lost(None)
            raise

    async def _hear_hello(self, connection: socket.socket) -> int:
        connection.setblocking(False)
        header = await _receive(connection, frames.HEADER_BYTES)
        meta_bytes, _, call = frames.decode_header(header, HELLO_META_LIMIT, 0)
        hello = frames.decode_meta(await _receive(connection, meta_bytes))
        if hello.get("op") != "hello" or hello.get("protocol") != frames.PROTOCOL:
            raise NotReady(f"the owner speaks protocol {frames.PROTOCOL}, the reader {hello.get('protocol')!r}")
        if len(self._links) >= MAX_LINKS:
            raise Overloaded(f"the owner has {MAX_LINKS} links already", {"retry_after_ms": 1000})
        return call

    # --- calls ---------------------------------------------------------------------------------------------------

    def _begin(self, handle: Handle, link: Connection, frame: frames.Frame) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(handle, link, frame))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _serve(self, handle: Handle, link: Connection, frame: frames.Frame) -> None:
        """Answers one call, with an error if need be: a call without an answer would be waited for for ever."""
        try:
            if self._stopping:
                raise NotReady("the owner is stopping", {"retry_after_ms": 1000})
            meta, payload = await handle(frame.meta, frame.payload)
            pieces = frames.encode(frame.call, {"ok": True, **meta}, payload)
        except Exception as error:
            pieces = frames.encode(frame.call, {"error": service_error(error).to_dict()})
        link.answer(pieces)


async def _receive(connection: socket.socket, nbytes: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < nbytes:
        piece = await loop.sock_recv(connection, nbytes - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
