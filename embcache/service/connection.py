"""One HTTP/1.1 connection: uvicorn's protocol over httptools, with what it lacks for large replies and bad clients.

- Writes count as done once the kernel has the bytes, so that a reply's buffer can be used again (see data.py).
- A reply's head can wait for its body, so that both leave in one system call.
- Clients that stall in a head, a body or in reading, heads without end, and pipelines without end are cut off.
- What is not HTTP is answered in PROTOCOL's form.
May touch uvicorn and the transport; knows nothing of what requests mean.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

logger = logging.getLogger("embcache.service")

EXTENSION = "embcache.connection"  # where a scope's "extensions" hold the Connection
MAX_HEAD_BYTES = 64 << 10


class Connection(HttpToolsProtocol):
    """A client's connection; uvicorn makes one for each."""

    began = 0.0  # loop time at which the last request's first byte came, or the connection itself
    _head_bytes = 0
    _stuck: tuple[int, float] | None = None  # bytes that wait for a slow reader, and since when they are as many
    _idle: tuple[object, float] | None = None  # the scope last seen at rest, and since when

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Nothing may stay in the transport's own buffer unnoticed: `send` waits until the kernel took everything."""
        transport.set_write_buffer_limits(high=0)
        self.corked = CorkedTransport(transport)
        super().connection_made(self.corked)
        self.flow = _PipelineFlow(self.corked, self.pipeline)
        self.began = self.loop.time()
        self._extensions = {EXTENSION: self}

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item]
        self.began = self.loop.time()
        self._head_bytes = -1  # the bytes that come with this first one are not counted

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head():
            self._head_bytes = 0 if self._head_bytes < 0 else self._head_bytes + len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.refuse(413, "too_large", f"the request's head is longer than {MAX_HEAD_BYTES} bytes")

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, "malformed_request", "what was sent is not HTTP/1.1")

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer a request that never was one, and close."""
        body = json.dumps({"error": {"code": code, "message": message, "detail": {}}}).encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def has_let_go(self) -> bool:
        """Whether no byte that was written is still read from its buffer, nor will be."""
        return not self.transport.is_closing() and self.transport.get_write_buffer_size() == 0

    def check(self, now: float, patience_s: float, idle_s: float) -> None:
        """Cut the client off if it has stalled for `patience_s` in a head, a body or in reading, or idled for `idle_s`.

        Called every now and then, at loop time `now`, instead of a timer for each request.
        """
        if not self.flow.write_paused:
            self._stuck = None
        if self.scope is None:
            self._cut_if(now - self.began > min(patience_s, idle_s), "sent nothing")
        elif self._in_head():
            self._cut_if(now - self.began > patience_s, "stalled in a request's head")
        elif self.flow.write_paused:
            self._check_reading(now, patience_s)
        elif self.cycle.response_complete:
            if self._idle is None or self._idle[0] is not self.scope:
                self._idle = (self.scope, now)
            self._cut_if(now - self._idle[1] > idle_s, "idled")
        elif self.cycle.more_body:
            if self.flow.read_paused:
                self.began = now  # it is not the client who keeps us waiting
            self._cut_if(now - self.began > patience_s, "stalled in a request's body")

    def _check_reading(self, now: float, patience_s: float) -> None:
        waiting = self.transport.get_write_buffer_size()
        if self._stuck is None or self._stuck[0] != waiting:
            self._stuck = (waiting, now)
        self._cut_if(now - self._stuck[1] > patience_s, "stalled in reading a reply")

    def _cut_if(self, too_long: bool, what: str) -> None:
        if too_long and not self.transport.is_closing():
            logger.info("closed a connection whose client %s", what)
            self.transport.abort()

    def _in_head(self) -> bool:
        """Whether a request has begun and its head is not whole yet."""
        return self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)


class CorkedTransport(asyncio.Transport):
    """A transport that on request holds one write back, to send it together with the next."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._corked = False
        self._held: bytes | None = None
        for name in _PASSED_ON:  # bound once: two of them are called for each request
            setattr(self, name, getattr(transport, name))

    def cork(self) -> None:
        """Hold the next write back; another must follow."""
        self._corked = True

    def write(self, data: Any) -> None:
        if self._corked:
            self._corked = False
            self._held = data
        elif self._held is not None:
            held, self._held = self._held, None
            self._transport.writelines((held, data))
        else:
            self._transport.write(data)


_PASSED_ON = (
    "abort",
    "close",
    "get_extra_info",
    "get_protocol",
    "get_write_buffer_limits",
    "get_write_buffer_size",
    "is_closing",
    "is_reading",
    "pause_reading",
    "resume_reading",
    "set_protocol",
    "set_write_buffer_limits",
)


class _PipelineFlow(FlowControl):
    """Reads on only once the requests that were read are served, so that a client cannot pile them up."""

    def __init__(self, transport: asyncio.Transport, pipeline: deque[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


async def watch(connections: Iterable[Any], patience_s: float, idle_s: float, every_s: float = 0.25) -> None:
    """Check all connections for ever, every `every_s` seconds."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(every_s)
        now = loop.time()
        for connection in list(connections):
            connection.check(now, patience_s, idle_s)
