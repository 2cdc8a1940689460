"""Blocking sockets: connections, kept alive and shared among threads, and the calls made over them.

The sockets are blocking ones with SO_RCVTIMEO and SO_SNDTIMEO rather than Python's timeouts: those poll before each
system call and cannot use MSG_WAITALL, by which the kernel gathers a whole body in one call, and counts the time limit
down over all of it. A connection carries one call at a time.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, cast

from embcache_client.address import Address
from embcache_client.buffers import BufferPool
from embcache_client.call import Attempts, Call, Endpoint, Steps, T, next_calls
from embcache_client.errors import ClientError, ConnectFailed, ConnectionLost, Timeout
from embcache_client.http1 import Place, Response, ResponseReader

MAX_IDLE: Final = 64  # connections kept for later
JOINED_BYTES: Final = 64 << 10  # a request body up to this size is copied behind its head, to leave in one piece
LIMIT_STEP_S: Final = 0.005  # a socket's own time limit is set anew when it is off by more than this


class Connection:
    """One connected socket. After an exception from exchange() it is of no more use."""

    def __init__(self, address: Address, buffers: BufferPool, max_reply_bytes: int, deadline: float) -> None:
        """Raises ConnectFailed or Timeout."""
        self._address = address
        self._reader = ResponseReader(buffers, max_reply_bytes)
        self._limit_s = 0.0
        self._is_half_dead = False
        self.exchanges = 0
        self.socket = _connect(address, deadline)
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)

    def exchange(self, head: bytes, body: bytes, deadline: float, place: Place | None = None) -> Response:
        """Send a request and receive its answer. Raises ConnectionLost, Timeout or ProtocolError."""
        self.ask(head, body, deadline, place)
        return self.answer(deadline)

    def ask(self, head: bytes, body: bytes, deadline: float, place: Place | None) -> None:
        """The first half of exchange(): send the request."""
        self._reader.start(place)
        try:
            self._limit(deadline)
            self._send(head, body, deadline)
        except BlockingIOError:
            raise self._late() from None
        except OSError as error:
            raise self._lost(str(error)) from error

    def answer(self, deadline: float) -> Response:
        """The second half: receive the answer."""
        try:
            self._limit(deadline)
            self._receive(deadline)
        except BlockingIOError:
            raise self._late() from None
        except OSError as error:
            raise self._lost(str(error)) from error
        self.exchanges += 1
        return self._reader.response()

    def _send(self, head: bytes, body: bytes, deadline: float) -> None:
        try:
            if len(body) <= JOINED_BYTES:
                self._send_all(head + body, deadline)
            else:
                self._send_all(head, deadline)
                self._send_all(body, deadline)
        except (BrokenPipeError, ConnectionResetError):
            # The service may have refused the body (401, 413) and closed: its answer, if any, can still be read.
            self._is_half_dead = True

    def _send_all(self, data: bytes, deadline: float) -> None:
        """Not socket.sendall(), which would wait the time limit anew after each part that the service took."""
        sent = self.socket.send(data)
        while sent < len(data):
            self._limit(deadline)
            sent += self.socket.send(memoryview(data)[sent:])

    def _receive(self, deadline: float) -> None:
        reader = self._reader
        while True:
            flags = socket.MSG_WAITALL if reader.wants_whole_body else 0
            count = self.socket.recv_into(reader.space(), 0, flags)
            if count:
                reader.received(count)
            elif not reader.end_of_stream():
                raise ConnectionResetError("the service closed it")
            if reader.done:
                return
            self._limit(deadline)

    @property
    def can_be_kept(self) -> bool:
        return self._reader.keep_alive and not self._is_half_dead

    @property
    def is_quiet(self) -> bool:
        """Nothing has come since the last answer: neither bytes that nobody asked for, nor the end."""
        return not self._poll.poll(0)

    def close(self) -> None:
        self.socket.close()

    def _limit(self, deadline: float) -> None:
        """Let no system call on the socket last past the deadline, by more than two LIMIT_STEP_S."""
        left = deadline - time.monotonic()
        if left <= self._limit_s <= left + 2 * LIMIT_STEP_S:
            return
        if left <= 0:
            raise BlockingIOError
        self._limit_s = left + LIMIT_STEP_S
        interval = struct.pack("@ll", int(self._limit_s), int(self._limit_s % 1 * 1_000_000))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)

    def _late(self) -> Timeout:
        return Timeout(f"no whole answer from {self._address} within the timeout")

    def _lost(self, reason: str) -> ConnectionLost:
        began, kept = self._reader.began, self.exchanges > 0
        when = "in the middle of the answer" if began else "before the answer"
        return ConnectionLost(f"connection to {self._address} lost {when}: {reason}", answer_began=began, was_kept=kept)


def _connect(address: Address, deadline: float) -> socket.socket:
    left = deadline - time.monotonic()
    try:
        if left <= 0:
            raise TimeoutError
        if address.unix_path is None:
            connected = socket.create_connection((address.host, address.port), timeout=left)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            connected = _connect_unix(address.unix_path, left)
    except TimeoutError:
        raise Timeout(f"no connection to {address} within the timeout") from None
    except OSError as error:
        raise ConnectFailed(f"no connection to {address}: {error}") from error
    connected.settimeout(None)
    return connected


def _connect_unix(path: str, timeout_s: float) -> socket.socket:
    unconnected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        unconnected.settimeout(timeout_s)
        unconnected.connect(path)
    except BaseException:
        unconnected.close()
        raise
    return unconnected


class Transport:
    """Makes calls to one service, from any number of threads, over as many connections as calls are under way."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.buffers = BufferPool()
        self._endpoint = endpoint
        self._idle: deque[Connection] = deque()
        self._process = os.getpid()
        self._closed = False

    def run(self, call: Call[T], deadline: float | None = None) -> T:
        """Make the call, trying again where that is safe (see call.py). Raises ClientError.

        deadline: of time.monotonic(), where the call is not all that has to be done within the client's timeout.
        """
        self._check_open()
        deadline = self._endpoint.deadline_of(call) if deadline is None else deadline
        attempts: Attempts | None = None
        while True:
            fresh = attempts is not None and attempts.lost_one
            try:
                return call.result(self._attempt(call, deadline, fresh=fresh))
            except ClientError as error:
                attempts = attempts or Attempts(call, self._endpoint.policy, deadline)
                pause = attempts.pause_after(error)
            time.sleep(pause)

    def run_lookup(self, steps: Steps[T]) -> T:
        """Go through a lookup that takes several calls, all within the client's timeout. Raises ClientError."""
        deadline = self._endpoint.deadline_of()
        calls, result = next_calls(steps, None)
        while calls:
            outcome: list[Any] | ClientError
            try:
                outcome = [self.run(calls[0], deadline)] if len(calls) == 1 else self._run_together(calls, deadline)
            except ClientError as error:
                outcome = error
            calls, result = next_calls(steps, outcome)
        return cast("T", result)

    def _run_together(self, calls: Sequence[Call[Any]], deadline: float) -> list[Any]:
        """Make calls once each, over connections of their own: all are sent before the first answer is received."""
        self._check_open()
        under_way: list[Connection] = []
        try:
            for call in calls:
                connection = self._take_idle() or self._connect(deadline)
                under_way.append(connection)
                connection.ask(self._endpoint.head_of(call), call.body, deadline, call.place)
            responses = [connection.answer(deadline) for connection in under_way]
        except BaseException:
            for connection in under_way:
                connection.close()
            raise
        for connection in under_way:
            self._give_back(connection)
        return [call.result(response) for call, response in zip(calls, responses, strict=True)]

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")

    def close(self) -> None:
        """Close what is idle; what is under way in other threads closes when it ends."""
        self._closed = True
        self._close_idle()

    def _attempt(self, call: Call[T], deadline: float, *, fresh: bool) -> Response:
        connection = (None if fresh else self._take_idle()) or self._connect(deadline)
        try:
            response = connection.exchange(self._endpoint.head_of(call), call.body, deadline, call.place)
        except BaseException:
            connection.close()
            raise
        self._give_back(connection)
        return response

    def _connect(self, deadline: float) -> Connection:
        endpoint = self._endpoint
        return Connection(endpoint.address, self.buffers, endpoint.max_reply_bytes, deadline)

    def _take_idle(self) -> Connection | None:
        if self._process != os.getpid():  # after a fork the connections are the parent's: close this process's ends
            self._process = os.getpid()
            self._close_idle()
        while True:
            try:
                connection = self._idle.pop()  # the one used last: its buffers are warm, and the others may grow old
            except IndexError:
                return None
            if connection.is_quiet:
                return connection
            connection.close()

    def _give_back(self, connection: Connection) -> None:
        if self._closed or not connection.can_be_kept or len(self._idle) >= MAX_IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()
