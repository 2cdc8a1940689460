"""The asyncio side of the transport: connections, kept alive on one event loop, and the calls made over them.

A connection is an asyncio.BufferedProtocol, so that bodies are received straight into their pooled buffers here too.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, cast

from embcache_client.buffers import BufferPool
from embcache_client.call import Attempts, Call, Endpoint, Steps, T, next_calls
from embcache_client.errors import ClientError, ConnectFailed, ConnectionLost, Timeout
from embcache_client.http1 import Place, Response, ResponseReader
from embcache_client.transport import JOINED_BYTES, MAX_IDLE

_UNASKED: Final = 1024  # bytes of room for what nobody asked for


class AsyncConnection(asyncio.BufferedProtocol):
    """One connection, which carries one call at a time. After an exception from exchange() it is of no more use."""

    def __init__(self, endpoint: Endpoint, buffers: BufferPool) -> None:
        self._address = endpoint.address
        self._reader = ResponseReader(buffers, endpoint.max_reply_bytes)
        self._unasked = bytearray(_UNASKED)
        self._answer: asyncio.Future[Response] | None = None
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._end = ""  # why it is over, once it is
        self.exchanges = 0

    async def exchange(self, head: bytes, body: bytes, place: Place | None = None) -> Response:
        """Send a request and receive its answer. Raises ConnectionLost or ProtocolError."""
        if self._transport is None or self._end:
            raise self._lost(self._end)
        self._reader.start(place)
        self._answer = asyncio.get_running_loop().create_future()
        if len(body) <= JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        response = await self._answer
        self.exchanges += 1
        return response

    @property
    def can_be_kept(self) -> bool:
        return self._reader.keep_alive and not self._end

    @property
    def is_quiet(self) -> bool:
        """Nothing has come since the last answer, not even what the loop has not been told of yet."""
        return not self._end and not self._poll.poll(0)

    def close(self) -> None:
        self._end = self._end or "the client closed it"
        if self._transport is not None:
            self._transport.abort()

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._poll.register(transport.get_extra_info("socket"), select.POLLIN)

    def get_buffer(self, sizehint: int) -> memoryview | bytearray:
        return self._unasked if self._answer is None else self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        if self._answer is None:
            self._end = "the service sent what nobody asked for"
            self.close()
            return
        try:
            self._reader.received(nbytes)
        except ClientError as error:
            self._settle(error)
        else:
            if self._reader.done:
                self._settle(self._reader.response())

    def eof_received(self) -> bool:
        self._ended("the service closed it")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(str(exc or "closed"))

    def _ended(self, reason: str) -> None:
        self._end = self._end or reason
        if self._answer is None:
            return
        if not self._reader.done and self._reader.end_of_stream():
            self._settle(self._reader.response())
        else:
            self._settle(self._lost(self._end))

    def _settle(self, outcome: Response | ClientError) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        if isinstance(outcome, ClientError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    def _lost(self, reason: str) -> ConnectionLost:
        began, kept = self._reader.began, self.exchanges > 0
        when = "in the middle of the answer" if began else "before the answer"
        return ConnectionLost(f"connection to {self._address} lost {when}: {reason}", answer_began=began, was_kept=kept)


class AsyncTransport:
    """Makes calls to one service from one event loop, over as many connections as calls are under way."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.buffers = BufferPool()
        self._endpoint = endpoint
        self._idle: deque[AsyncConnection] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def run(self, call: Call[T], deadline: float | None = None) -> T:
        """Make the call, trying again where that is safe (see call.py). Raises ClientError.

        deadline: of time.monotonic(), where the call is not all that has to be done within the client's timeout.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("an AsyncClient stays with the event loop of its first call; make one for each loop")
        deadline = self._endpoint.deadline_of(call) if deadline is None else deadline
        attempts: Attempts | None = None
        while True:
            try:
                return call.result(
                    await self._attempt(call, deadline, fresh=attempts is not None and attempts.lost_one)
                )
            except ClientError as error:
                attempts = attempts or Attempts(call, self._endpoint.policy, deadline)
                pause = attempts.pause_after(error)
            await asyncio.sleep(pause)

    async def run_lookup(self, steps: Steps[T]) -> T:
        """Go through a lookup that takes several calls, all within the client's timeout. Raises ClientError."""
        deadline = self._endpoint.deadline_of()
        calls, result = next_calls(steps, None)
        while calls:
            outcome: list[Any] | ClientError
            try:
                if len(calls) == 1:
                    outcome = [await self.run(calls[0], deadline)]
                else:
                    outcome = await self._run_together(calls, deadline)
            except ClientError as error:
                outcome = error
            calls, result = next_calls(steps, outcome)
        return cast("T", result)

    async def _run_together(self, calls: Sequence[Call[Any]], deadline: float) -> list[Any]:
        """Make calls once each at the same time, over connections of their own."""
        if self._closed:
            raise RuntimeError("the client is closed")
        attempts = (self._attempt(call, deadline, fresh=False) for call in calls)
        responses = await asyncio.gather(*attempts, return_exceptions=True)
        for response in responses:
            if isinstance(response, BaseException):
                raise response
        return [call.result(cast("Response", response)) for call, response in zip(calls, responses, strict=True)]

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _attempt(self, call: Call[T], deadline: float, *, fresh: bool) -> Response:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                connection = (None if fresh else self._take_idle()) or await self._connect()
                try:
                    response = await connection.exchange(self._endpoint.head_of(call), call.body, call.place)
                except BaseException:
                    connection.close()
                    raise
        except TimeoutError:
            raise Timeout(f"no whole answer from {self._endpoint.address} within the timeout") from None
        if self._closed or not connection.can_be_kept or len(self._idle) >= MAX_IDLE:
            connection.close()
        else:
            self._idle.append(connection)
        return response

    def _take_idle(self) -> AsyncConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_quiet:
                return connection
            connection.close()
        return None

    async def _connect(self) -> AsyncConnection:
        loop, address = asyncio.get_running_loop(), self._endpoint.address
        try:
            if address.unix_path is None:
                _, connection = await loop.create_connection(self._new_connection, address.host, address.port)
            else:
                _, connection = await loop.create_unix_connection(self._new_connection, address.unix_path)
        except TimeoutError as error:  # the system's own, not this call's deadline
            raise ConnectFailed(f"no connection to {address}: {error}") from error
        except OSError as error:
            raise ConnectFailed(f"no connection to {address}: {error}") from error
        return connection

    def _new_connection(self) -> AsyncConnection:
        return AsyncConnection(self._endpoint, self.buffers)
