"""POST /v1/lookup: a plain ASGI function, dispatched before FastAPI's stack, which would cost a quarter of the time.

The order matters. Before the body is read: method, token, media type, announced size. Before the head of the reply goes
out: everything that may fail, but for the second half of a large reply (second_half.py). The reply's buffer is used
again only once the transport has let go of it.
What the arena holds is answered without waiting for anything; only what it lacks is awaited.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from embcache import updatecalls
from embcache.cache import EmbeddingCache
from embcache.config import Server
from embcache.errors import EmbcacheError, NotReady
from embcache.gpu.device import DeviceError
from embcache.hot.question import LeftQuestion, Question
from embcache.lookup import Lookup, VersionGoneError
from embcache.metrics import Counters
from embcache.service import failures
from embcache.service.auth import Doorkeeper
from embcache.service.bodies import ClientGone, Receive, Scope, Send, check_msgpack, read_body
from embcache.service.buffers import Buffer, BufferPool
from embcache.service.connection import Answer
from embcache.service.reader import Reader
from embcache.service.repeats import Repeats
from embcache.service.replies import Skeleton, lay_out
from embcache.service.requests import LookupRequest, parse_lookup
from embcache.service.second_half import SecondHalf
from embcache.service.sending import Reply, head_lines, send_failure, send_reply

PATH = "/v1/lookup"
_VERSION_TRIES = 8  # how many commits may overtake one lookup
_BEGUN = "embcache.begun"  # where a scope holds what answer_now began
_LOOKS_AT_ONCE, _NAP_S = 2000, 0.001  # at what the hot tier was asked; between them the loop does what else there is
SMALL = 96 << 10  # bytes; replies up to here get memory of their own, which malloc has at hand


class _Behind(Exception):
    """The position that a request asks for is not applied yet, or was never accepted."""

    def __init__(self, request: LookupRequest) -> None:
        self.request = request


@dataclass(slots=True)
class _Begun:
    """A lookup under way: the steps that are still to come, and what the hot tier is asked before the next one."""

    asked: bytes
    request: LookupRequest
    lookup: Lookup
    skeleton: Skeleton
    reply: Reply
    steps: Iterator[Question | LeftQuestion]
    question: Question | LeftQuestion | None


class LookupEndpoint:
    """The ASGI application of PATH."""

    def __init__(self, reader: Reader, server: Server, doorkeeper: Doorkeeper, counters: Counters) -> None:
        self.pool = BufferPool(server.reply_pool)
        self._reader = reader
        self._server = server
        self._doorkeeper = doorkeeper
        self._counters = counters
        self._repeats = Repeats(server.max_ids_per_request, partial(self._room, pooled=False), self._give_back)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = time.monotonic()
        try:
            begun = scope.pop(_BEGUN, None)
            if begun is None:
                body = await read_body(self._admit(scope), receive, self._server.max_body_bytes)
                begun = await self._begin_when_applied(body, arrived)
            reply = await self._finish(begun, arrived)
        except ClientGone:
            return
        except (Exception, asyncio.CancelledError) as error:
            failure = failures.of(error)
            self._counters.failed(failure.code)
            await send_failure(failure, scope, send)
            return
        await send_reply(reply, self.pool, scope, send)

    def answer_now(self, scope: Scope, body: bytes) -> Answer | None:
        """See connection.AnswersNow: what the arena alone can answer.

        Otherwise this application is called next, and goes on from what was begun here, or says what is wrong.
        """
        arrived = time.monotonic()
        try:
            self._admit(scope)
            answer = self.answer_again(scope, body)
            if answer is not None:
                return answer
            cache = self._reader.cache()
            if cache.stale or len(body) > self._server.max_body_bytes:
                return None
            begun = self._begin(cache, body)
            if begun.question or begun.lookup.left or begun.request.strict:
                scope[_BEGUN] = begun
                return None
            reply = self._end(begun, arrived)
            self._repeats.learn(body, begun.request, cache)
        except Exception:
            return None
        return self._answer(reply)

    def answer_again(self, scope: Scope, body: bytes) -> Answer | None:
        """The answer to a request that is like one before, but for its ids, if the arena has all its rows.

        For who was admitted. None: nothing was begun.
        """
        arrived = time.monotonic()
        if len(body) > self._server.max_body_bytes:
            return None
        over_tcp = scope["client"] is not None  # a Unix socket gains nothing from halves
        try:
            answered = self._repeats.answer(self._reader.cache(), body, in_halves=over_tcp)
        except EmbcacheError:  # said by the usual way
            return None
        if answered is None:
            return None
        if answered.done < answered.count:
            rest = SecondHalf(answered, self._reader, self._counters, arrived, self._server.deadline_ms / 1000)
            return self._answer(answered.reply, answered.end, rest)
        self._counters.answered(answered.table, answered.status)
        self._counters.looked_up(time.monotonic() - arrived)
        return self._answer(answered.reply)

    def _answer(self, reply: Reply, end: int | None = None, rest: SecondHalf | None = None) -> Answer:
        release = None if reply.buffer is None else partial(self.pool.settle, reply.buffer)
        return Answer(head_lines(len(reply.body)), reply.body[:end], release, rest)

    def _admit(self, scope: Scope) -> dict[bytes, bytes]:
        """The headers of a request that may be made."""
        if scope["method"] != "POST":
            raise failures.NoSuchMethod(scope["method"], PATH, "POST")
        headers = dict(scope["headers"])
        self._doorkeeper.admit(headers.get(b"authorization"), "read")
        check_msgpack(headers)
        return headers

    async def _begin_when_applied(self, body: bytes, arrived: float) -> _Begun:
        """`_begin`, once the position that the request asks for is applied."""
        cache = await self._reader.current()
        try:
            return self._begin(cache, body)
        except _Behind as behind:
            left = arrived + self._budget_s(behind.request) - time.monotonic()
            await updatecalls.wait_applied(cache.ready_attachment(), behind.request.min_position, max(0.0, left))
        return self._begin(await self._reader.current(), body)

    def _begin(self, cache: EmbeddingCache, body: bytes, *, use_hot: bool = True) -> _Begun:
        """All that can be done without waiting."""
        request = parse_lookup(body, self._server.max_ids_per_request, cache.feature_of)
        lookup = cache.prepare(request.queries, request.dtype, use_hot=use_hot)
        lookup.check_history(request.history)
        if request.min_position > lookup.position:
            raise _Behind(request)
        skeleton = lay_out(lookup.position, lookup.history, request.dtype, tuple(lookup.parts))
        hot_first = lookup.asks_hot_first
        array, buffer = self._room(skeleton.size, hot_first)
        reply = Reply(array.data, buffer)
        try:
            skeleton.write(reply.body)
            reached = buffer is not None and buffer.pinned
            steps = lookup.steps(array, skeleton.places, hot_first=hot_first and reached)
            return _Begun(body, request, lookup, skeleton, reply, steps, next(steps, None))
        except BaseException:
            self._give_back(reply)
            raise

    async def _finish(self, begun: _Begun, arrived: float) -> Reply:
        """Have the owner answer for the ids that are left; from the beginning, where a version went away meanwhile."""
        deadline = arrived + self._budget_s(begun.request)
        for _ in range(_VERSION_TRIES):
            begun = await self._through_hot(begun, deadline)
            try:
                if begun.lookup.left:
                    await begun.lookup.finish_async(deadline)
                return self._end(begun, arrived)
            except VersionGoneError:
                self._give_back(begun.reply)
                cache = self._reader.cache()
                await cache.refresh_async()
                begun = self._begin(cache, begun.asked)
            except BaseException:
                self._give_back(begun.reply)
                raise
        self._give_back(begun.reply)
        raise NotReady("the tables changed with every try to look them up", {"retry_after_ms": 50})

    async def _through_hot(self, begun: _Begun, deadline: float) -> _Begun:
        """The lookup with all its steps taken; one begun anew, where the hot tier fails or is late."""
        try:
            if await self._take_steps(begun, deadline):
                return begun
        except DeviceError:  # the tier is off now
            pass
        except BaseException:
            self._lose(begun.reply)
            raise
        self._lose(begun.reply)
        return self._begin(self._reader.cache(), begun.asked, use_hot=False)

    async def _take_steps(self, begun: _Begun, deadline: float) -> bool:
        """Take each step once the hot tier has answered what it was asked before; False where it has not in time."""
        hot = begun.lookup.hot
        while begun.question is not None:
            assert hot is not None
            looks = 0
            while not hot.look(begun.question):
                if time.monotonic() > deadline:
                    return False
                looks += 1
                await asyncio.sleep(0 if looks < _LOOKS_AT_ONCE else _NAP_S)
            begun.question = next(begun.steps, None)
        return True

    def _end(self, begun: _Begun, arrived: float) -> Reply:
        """The reply, all its rows found or given up. Raises what `strict` makes of those that were not found."""
        if begun.request.strict:
            begun.lookup.check_strict()
        for part, place in zip(begun.lookup.parts, begun.skeleton.places, strict=True):
            status = begun.reply.body[place.status : place.status + part.status_bytes]
            self._counters.answered(part.table, bytes(status))
        self._counters.looked_up(time.monotonic() - arrived)
        return begun.reply

    def _room(self, size: int, pooled: bool) -> tuple[NDArray[np.uint8], Buffer | None]:
        if size <= SMALL and not pooled:
            return np.empty(size, np.uint8), None
        buffer = self.pool.take(size)
        return buffer.array[:size], buffer

    def _give_back(self, reply: Reply) -> None:
        if reply.buffer is not None:
            self.pool.give(reply.buffer)

    def _lose(self, reply: Reply) -> None:
        """The device may still write into the buffer: its memory goes once that is over."""
        if reply.buffer is not None:
            self.pool.drop(reply.buffer)

    def _budget_s(self, request: LookupRequest) -> float:
        return (self._server.deadline_ms if request.deadline_ms is None else request.deadline_ms) / 1000
