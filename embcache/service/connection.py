"""One HTTP/1.1 connection: uvicorn's protocol over httptools, with what it lacks for large replies and bad clients.

- Writes count as done once the kernel has the bytes, so that a reply's buffer can be used again (see data.py).
- A reply's head can wait for its body, so that both leave in one system call.
- An application may answer a request at once (`AnswersNow`): no task is made for it, no event waited for.
- Clients that stall in a head, a body or in reading, heads without end, and pipelines without end are cut off.
- What is not HTTP is answered in PROTOCOL's form.
May touch uvicorn and the transport; knows nothing of what requests mean.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from embcache.service.bodies import Scope

logger = logging.getLogger("embcache.service")

EXTENSION = "embcache.connection"  # where a scope's "extensions" hold the Connection
MAX_HEAD_BYTES = 64 << 10
UNIX_SEND_BUFFER = 4 << 20  # bytes, where the system grants so many
_LENGTH = b"\r\ncontent-length: "
_MORE = (b"\ntransfer-encoding", b"\nexpect", b"\nupgrade", b"\nconnection")
_MOST_DIGITS = 12


class Rest(Protocol):
    """What follows a body whose first part is on its way."""

    def now(self) -> memoryview | None:
        """The bytes, if they are there without waiting; None: call `later`."""
        ...

    async def later(self) -> memoryview | None:
        """The bytes; None if they cannot be had: then the connection ends in the middle of the answer."""
        ...


class Answer(NamedTuple):
    """A 200: the lines of its head that tell of the body, the body, and whom to tell that the body was let go of.

    `release` is called once: with True when no byte of the body is read any more, with False if that is not known.
    rest: what more there is of the body; `release` is for all of it.
    """

    lines: bytes
    body: bytes | memoryview
    release: Callable[[bool], None] | None = None
    rest: Rest | None = None


class AnswersNow(Protocol):
    """What an ASGI application may do besides."""

    def answer_now(self, scope: Scope, body: bytes) -> Answer | None:
        """The answer to a whole request, if it is there without waiting; None: call the application."""
        ...

    def answer_again(self, scope: Scope, body: bytes) -> Answer | None:
        """The answer to a request whose head is that of an earlier one, which `answer_now` answered with this scope.

        None, for whatever reason: nothing was begun, and the request goes the usual way.
        """
        ...


class _Head(NamedTuple):
    """The head of a request as its bytes, but for the length of its body: heads that are the same mean the same."""

    before: bytes  # up to the length
    after: bytes  # from behind it to the end
    scope: Scope

    @classmethod
    def of(cls, head: bytes, scope: Scope) -> _Head | None:
        """A head to recognise; None for one that says more about its body than a length."""
        lower = head.lower()
        name = lower.find(_LENGTH) + len(_LENGTH)
        if lower.count(b"\ncontent-length") != 1 or name < len(_LENGTH) or any(each in lower for each in _MORE):
            return None
        end = head.find(b"\r\n", name)
        return cls(head[:name], head[end:], scope) if head[name:end].isdigit() else None

    def body_of(self, data: bytes) -> bytes | None:
        """The body of one whole request that has this head, and nothing behind it; None for any other bytes."""
        if not data.startswith(self.before):
            return None
        begin = len(self.before)
        end = data.find(b"\r", begin, begin + _MOST_DIGITS)
        digits = data[begin:end]
        if end < 0 or not data.startswith(self.after, end) or not digits.isdigit():
            return None
        body = data[end + len(self.after) :]
        return body if len(body) == int(digits) else None


class _HeadTooLarge(Exception):
    """Ends the parsing of a request whose head is whole, and too large."""


class Connection(HttpToolsProtocol):
    """A client's connection; uvicorn makes one for each."""

    _default_lines: tuple[object, bytes] = (None, b"")  # uvicorn's own headers, and the same as they are sent
    began = 0.0  # loop time at which the last request's first byte came, or the connection itself
    _head_bytes = 0
    _read_bytes = 0  # of all reads that a head may be in: what it can be at most
    _stuck: tuple[int, float] | None = None  # bytes that wait for a slow reader, and since when they are as many
    _idle: tuple[object, float] | None = None  # the scope last seen at rest, and since when
    _known_head: _Head | None = None  # of the last request that was answered at once
    _messages = 0  # that began in the bytes that are being read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Nothing may stay in the transport's own buffer unnoticed: `send` waits until the kernel took everything."""
        transport.set_write_buffer_limits(high=0)
        _let_replies_leave_at_once(transport.get_extra_info("socket"))
        self.corked = CorkedTransport(transport)
        super().connection_made(self.corked)
        self.flow = _PipelineFlow(self.corked, self.pipeline)
        self.began = self.loop.time()
        self._extensions = {EXTENSION: self}
        self._answer_now = getattr(self.app, "answer_now", None)
        self._answer_again = getattr(self.app, "answer_again", None)
        self._answered: RequestResponseCycle | None = None
        self._held: tuple[RequestResponseCycle, Any] | None = None
        self._running: RequestResponseCycle | None = None  # the one that a task was last made for
        self._parsing = False
        self._unreleased: list[Callable[[bool], None]] = []

    def connection_lost(self, exc: Exception | None) -> None:
        running = self._running
        if running is not None and not running.response_complete:  # uvicorn tells the last request that was read alone
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)
        self._release(False)

    def resume_writing(self) -> None:
        """The kernel has taken everything."""
        super().resume_writing()
        self._release(True)

    def data_received(self, data: bytes) -> None:
        at_rest = self._is_at_rest()
        if at_rest and self._known_head is not None and self._answered_again(self._known_head, data):
            return
        self._parsing, self._messages, self._answered = True, 0, None
        self._read_bytes += len(data)
        super().data_received(data)
        self._parsing = False
        if at_rest and self._messages == 1 and self._answered is not None:
            self._know_head(data, self._answered)
        if self._held is not None:
            self._start_held()  # the rest of its body is still to come
        if self._in_head():
            self._head_bytes = 0 if self._head_bytes < 0 else self._head_bytes + len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_head()
        else:
            self._read_bytes = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._messages += 1
        self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item]
        self.began = self.loop.time()
        self._head_bytes = -1  # the bytes that come with this first one are not counted

    def on_headers_complete(self) -> None:
        if self._is_head_too_large():
            raise _HeadTooLarge  # to the parser, which calls it an error: see send_400_response
        super().on_headers_complete()

    def _is_head_too_large(self) -> bool:
        """Whether what was parsed of the last head is. Counted only where so much was read at all: seldom."""
        if self._read_bytes <= MAX_HEAD_BYTES:
            return False
        headers = sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
        return len(self.url) + headers > MAX_HEAD_BYTES

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Called when a request's head is there. What comes with it in the same read is parsed before it is started."""
        if self._parsing and cycle.more_body and self._answer_now is not None:
            self._held = (cycle, app)
        else:
            self._start(cycle, app)

    def _start(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._held is not None and not self._answered_now(self._held[0]):
            self._start_held()

    def _start_held(self) -> None:
        assert self._held is not None
        (cycle, app), self._held = self._held, None
        self._start(cycle, app)

    def _answered_now(self, cycle: RequestResponseCycle) -> bool:
        """Whether the request, of which nothing is missing, needed no task: then its answer is on its way."""
        if not cycle.keep_alive or cycle.waiting_for_100_continue or self.flow.write_paused:
            return False
        assert self._answer_now is not None
        answer: Answer | None = self._answer_now(cycle.scope, bytes(cycle.body))
        if answer is None:
            return False
        self._held = None
        self._answered = cycle
        cycle.response_started = True
        self._send(answer, cycle)
        return True

    def _send(self, answer: Answer, cycle: RequestResponseCycle) -> None:
        self.corked.send_together(self._opening() + answer.lines + b"\r\n", answer.body)
        rest = b"" if answer.rest is None else answer.rest.now()
        if rest is not None:
            self._end(answer, cycle, rest)
            return
        cycle.response_complete = False  # so what the client sends meanwhile waits its turn
        task = self.loop.create_task(self._send_rest(answer, cycle))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _send_rest(self, answer: Answer, cycle: RequestResponseCycle) -> None:
        rest = None
        try:
            assert answer.rest is not None
            rest = await answer.rest.later()
        finally:
            if rest is not None and not self.transport.is_closing():
                self._end(answer, cycle, rest)
            else:
                self.transport.abort()
                if answer.release is not None:
                    answer.release(False)

    def _end(self, answer: Answer, cycle: RequestResponseCycle, rest: bytes | memoryview) -> None:
        """Send the last of an answer."""
        if rest and not self.transport.is_closing():
            self.corked.write(rest)
        cycle.response_complete = True
        if answer.release is not None:
            self._unreleased.append(answer.release)
            if self.has_let_go():
                self._release(True)
        self.on_response_complete()
        if not cycle.keep_alive:  # the server is being shut down
            self.transport.close()

    def _know_head(self, data: bytes, cycle: RequestResponseCycle) -> None:
        """Note the head of a request that was all there was in `data`, whole."""
        head = data[: len(data) - len(cycle.body)]
        if head.endswith(b"\r\n\r\n"):
            self._known_head = _Head.of(head, cycle.scope)  # type: ignore[arg-type]

    def _answered_again(self, head: _Head, data: bytes) -> bool:
        """Whether `data` was one request with a known head, and is answered: then nobody has to parse it.

        The parser stands between two requests, before and after it.
        """
        if self.cycle.scope is not head.scope or self.flow.write_paused or self.transport.is_closing():
            return False
        body = head.body_of(data)
        answer = None if body is None or self._answer_again is None else self._answer_again(head.scope, body)
        if answer is None:
            return False
        self._idle = None
        self._send(answer, self.cycle)
        return True

    def _release(self, free: bool) -> None:
        releases, self._unreleased = self._unreleased, []
        for release in releases:
            release(free)

    def _opening(self) -> bytes:
        """The first lines of a 200: uvicorn makes the list of its own headers anew each second."""
        headers = self.server_state.default_headers
        if Connection._default_lines[0] is not headers:
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
            Connection._default_lines = (headers, STATUS_LINE[200] + lines)
        return Connection._default_lines[1]

    def send_400_response(self, msg: str) -> None:
        if self._in_head() and self._is_head_too_large():
            self._refuse_head()
        else:
            self.refuse(400, "malformed_request", "what was sent is not HTTP/1.1")

    def _refuse_head(self) -> None:
        self.refuse(413, "too_large", f"the request's head is longer than {MAX_HEAD_BYTES} bytes")

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

    def _is_at_rest(self) -> bool:
        """Whether all requests that have begun are whole and answered: what comes next is the beginning of one."""
        cycle = self.cycle
        if cycle is None:
            return self.scope is None
        return cycle.scope is self.scope and cycle.response_complete and not cycle.more_body and not self.pipeline

    def _in_head(self) -> bool:
        """Whether a request has begun and its head is not whole yet."""
        return self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)


def _let_replies_leave_at_once(connected: socket.socket | None) -> None:
    """Have a Unix socket take a reply of a megabyte in one write, as TCP does, whose buffers grow by themselves.

    With the 208 KiB that Linux gives it, such a reply takes a handful of writes, each after a turn of the event loop.
    """
    if connected is not None and connected.family == socket.AF_UNIX:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BUFFER)


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

    def send_together(self, head: bytes, body: bytes | memoryview) -> None:
        """Write both at once."""
        self._transport.writelines((head, body))

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
