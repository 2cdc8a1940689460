"""A reader's line to the owner of a data folder: calls out, replies in, and the memory that the owner shares.

Used by fronts, by attached processes and by the command line. Needs neither the store nor the arena's code: the file
descriptors are handed on as they come.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from embcache.errors import EmbcacheError, NotReady, Overloaded, TooLarge
from embcache.local import frames
from embcache.local.greeting import greet
from embcache.local.paths import reachable

# What may wait for an owner that does not read; more than that is answered Overloaded here.
MAX_WAITING_BYTES = 256 << 20
_PIECES_A_SEND = 64


class Reply(NamedTuple):
    """What the owner answered. `payload` is memory of its own; a NumPy view of it keeps it."""

    meta: dict[str, Any]
    payload: memoryview


class Link:
    """One connection to an owner, for any number of threads and calls at once.

    Calls never block: what the socket does not take at once is sent by the link's own thread, which receives as well.
    A link that is lost stays lost; connect a new one. `arena_fd` (to be mapped read-only) and `ring_fd` (this link's
    own ring, read and write) belong to the link and stay open until `close`, lost or not; mappings of them outlive it.
    """

    def __init__(self, connection: socket.socket, hello: dict[str, Any], arena_fd: int, ring_fd: int) -> None:
        """Takes over a connection that was greeted; use `connect`."""
        self.hello = hello
        self.arena_fd = arena_fd
        self.ring_fd = ring_fd
        self._connection = connection
        self._reader = frames.FrameReader(frames.MAX_REPLY_META, frames.MAX_REPLY_PAYLOAD)
        self._lock = threading.Lock()  # over what follows
        self._calls: dict[int, Future[Reply]] = {}
        self._next_call = 1
        self._outbox: deque[memoryview] = deque()
        self._waiting_bytes = 0
        self._lost: NotReady | None = None
        self._on_loss: list[Callable[[], None]] = []
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="embcache-link", daemon=True)
        self._thread.start()

    @classmethod
    def connect(cls, folder: str | Path, timeout: float) -> Link:
        """Connect to the owner of the data folder `folder` within `timeout` seconds. NotReady says why it cannot be."""
        path = Path(folder)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            with reachable(path / frames.SOCKET_NAME) as address:
                connection.connect(address)
            hello, arena_fd, ring_fd = greet(connection)
            connection.setblocking(False)
        except OSError as error:
            connection.close()
            raise NotReady(f"no owner answers at {path / frames.SOCKET_NAME}: {_reason(error)}") from error
        except BaseException:
            connection.close()
            raise
        return cls(connection, hello, arena_fd, ring_fd)

    @property
    def closed(self) -> bool:
        """Whether the link was lost or closed: every call fails from then on."""
        return self._lost is not None

    def call(
        self, op: str, meta: Mapping[str, Any] | None = None, payload: Sequence[frames.Buffer] = ()
    ) -> Future[Reply]:
        """Ask the owner to do `op`. Leave the payload's arrays as they are until the future is done.

        The future fails with the owner's error, with NotReady when the link is lost before the reply, with Overloaded
        when too much waits for the owner already, with TooLarge when a frame is beyond the limits. Cancelling it
        only drops the reply.
        """
        future: Future[Reply] = Future()
        try:
            with self._lock:
                self._send(future, {**(meta or {}), "op": op}, payload)
        except EmbcacheError as error:
            future.set_exception(error)
        return future

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, from the link's thread, when the link is lost or closed; now if it is already."""
        with self._lock:
            if self._lost is None:
                self._on_loss.append(callback)
                return
        callback()

    def close(self) -> None:
        """Close the link and its descriptors; calls that wait fail with NotReady. A second call does nothing."""
        with self._lock:
            self._lost = self._lost or NotReady("the link to the owner was closed")
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)
            fds, self.arena_fd, self.ring_fd = (self.arena_fd, self.ring_fd), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def abandon(self) -> None:
        """In a forked child: let go of what was inherited. The parent's link goes on; this one has no thread."""
        self._lock = threading.Lock()  # somebody may have held the other one
        self._lost = NotReady("the link was made before a fork, in another process")
        self._connection.close()
        for fd in (self.arena_fd, self.ring_fd, self._wake_fd):
            if fd >= 0:
                os.close(fd)
        self.arena_fd = self.ring_fd = self._wake_fd = -1

    def _send(self, future: Future[Reply], meta: Mapping[str, Any], payload: Sequence[frames.Buffer]) -> None:
        if self._lost is not None:
            raise NotReady(self._lost.message, self._lost.detail)
        pieces = frames.encode(self._next_call, meta, payload)
        _check_size(pieces)
        waiting = sum(piece.nbytes for piece in pieces)
        if self._outbox and self._waiting_bytes + waiting > MAX_WAITING_BYTES:
            raise Overloaded("the owner does not keep up with what is sent to it", {"retry_after_ms": 100})
        self._calls[self._next_call] = future
        self._next_call += 1
        idle = not self._outbox
        self._outbox.extend(pieces)
        self._waiting_bytes += waiting
        if idle:
            self._flush()
            if self._outbox:
                os.eventfd_write(self._wake_fd, 1)

    def _flush(self) -> None:
        """Sends what the socket takes now. A dead socket is noticed by the thread, which receives the same error."""
        outbox = self._outbox
        while outbox:
            try:
                sent = self._connection.sendmsg([outbox[i] for i in range(min(len(outbox), _PIECES_A_SEND))])
            except BlockingIOError:
                return
            except OSError:
                outbox.clear()
                self._waiting_bytes = 0
                return
            self._waiting_bytes -= sent
            while outbox and sent >= outbox[0].nbytes:
                sent -= outbox.popleft().nbytes
            if sent:
                outbox[0] = outbox[0][sent:]

    def _run(self) -> None:
        """The link's thread: receives replies, sends what had to wait, and cleans up after the link's end."""
        reason = "the owner closed the link"
        try:
            while self._step():
                pass
        except Exception as error:  # whatever it is: who waits must hear of it
            reason = f"the link to the owner broke: {error}"
        self._end(NotReady(reason))

    def _step(self) -> bool:
        poll = select.poll()
        with self._lock:
            poll.register(self._connection, select.POLLIN | (select.POLLOUT if self._outbox else 0))
        poll.register(self._wake_fd, select.POLLIN)
        events = dict(poll.poll())
        if self._wake_fd in events:
            os.eventfd_read(self._wake_fd)
        happened = events.get(self._connection.fileno(), 0)
        if happened & select.POLLOUT:
            with self._lock:
                self._flush()
        if happened & ~select.POLLOUT and not self._receive():
            return False
        return self._lost is None

    def _receive(self) -> bool:
        """Receives once; False at the end of the stream."""
        try:
            nbytes = self._connection.recv_into(self._reader.buffer())
        except BlockingIOError:
            return True
        for frame in self._reader.received(nbytes):
            self._answer(frame)
        return nbytes > 0

    def _answer(self, frame: frames.Frame) -> None:
        with self._lock:
            future = self._calls.pop(frame.call, None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        if "error" in frame.meta:
            future.set_exception(EmbcacheError.from_dict(frame.meta["error"]))
        else:
            future.set_result(Reply(frame.meta, frame.payload))

    def _end(self, lost: NotReady) -> None:
        """After this nothing of the link is open. Futures are failed last, since their callbacks may look at us."""
        with self._lock:
            self._lost = self._lost or lost
            calls, self._calls = self._calls, {}
            callbacks, self._on_loss = self._on_loss, []
            self._outbox.clear()
            self._connection.close()
            os.close(self._wake_fd)
            self._wake_fd = -1
        for future in calls.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(NotReady(self._lost.message))
        for callback in callbacks:
            callback()


def _check_size(pieces: Sequence[memoryview]) -> None:
    meta, payload = pieces[0].nbytes - frames.HEADER_BYTES, sum(piece.nbytes for piece in pieces[1:])
    for what, size, limit in (
        ("meta", meta, frames.MAX_REQUEST_META),
        ("payload", payload, frames.MAX_REQUEST_PAYLOAD),
    ):
        if size > limit:
            raise TooLarge(f"a call with {size:,} bytes of {what}, of which {limit:,} are allowed: send less at once")


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError | BlockingIOError):
        return "it is too busy or hangs"
    if isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError):
        return "no service runs on this folder"
    return str(error)
