"""POST /v1/updates and /v1/producers/{producer}: plain ASGI functions beside FastAPI's stack, msgpack both ways.

Before the body is read: method, token, media type, announced size. What is accepted is the owner's to say; nothing of a
batch is kept here, so a client that heard no answer sends the very same batch again.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack

from embcache import updatecalls
from embcache.config import Server
from embcache.metrics import Counters
from embcache.service import failures, guard
from embcache.service.auth import Doorkeeper
from embcache.service.bodies import ClientGone, Receive, Scope, Send, check_msgpack, read_body
from embcache.service.fields import unknown_key, unpack_map
from embcache.service.reader import Reader
from embcache.service.sending import send_failure, send_msgpack
from embcache.service.update_requests import parse_update
from embcache.updatecalls import Producer

UPDATES_PATH = "/v1/updates"
PRODUCERS_PATH = "/v1/producers/"
_MAX_OPENING_BYTES = 1 << 10


class UpdatesEndpoint:
    """The ASGI application of both paths."""

    def __init__(self, reader: Reader, server: Server, doorkeeper: Doorkeeper, counters: Counters) -> None:
        self._reader = reader
        self._server = server
        self._doorkeeper = doorkeeper
        self._counters = counters

    @staticmethod
    def serves(path: str) -> bool:
        """Whether a path is this application's."""
        return path == UPDATES_PATH or path.startswith(PRODUCERS_PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["path"] == UPDATES_PATH:
                status, reply = await self._push(scope, receive)
            else:
                status, reply = 200, await self._producer(scope, receive)
        except ClientGone:
            return
        except (Exception, asyncio.CancelledError) as error:
            failure = failures.of(error)
            self._counters.failed(failure.code)
            await send_failure(failure, scope, send)
            return
        await send_msgpack(status, msgpack.packb(reply), send)

    async def _push(self, scope: Scope, receive: Receive) -> tuple[int, dict[str, Any]]:
        headers = self._admit(scope, "POST", "write")
        body = await read_body(headers, receive, self._server.max_body_bytes)
        cache = await self._reader.current()
        attachment = cache.ready_attachment()
        request = parse_update(body, self._server.max_ids_per_request, cache.feature_of)
        within = self._server.deadline_ms / 1000 if request.applied else None
        pushed = await updatecalls.push(
            attachment, request.producer, request.epoch, request.seq, request.changes, request.mark, within
        )
        reply = {
            "position": pushed.position,
            "history": pushed.history,
            "durable": pushed.durable,
            "duplicate": pushed.duplicate,
            "quarantined": pushed.quarantined,
            "quarantined_count": pushed.quarantined_count,
        }
        return (202 if request.applied and pushed.applied < pushed.position else 200), reply

    async def _producer(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        name = scope["path"][len(PRODUCERS_PATH) :]
        if scope["method"] == "GET":
            self._admit(scope, "GET", "read")
            cache = await self._reader.current()
            return _told(await updatecalls.show_producer(cache.ready_attachment(), name))
        headers = self._admit(scope, "POST", "write", "GET, POST")
        raw = await read_body(headers, receive, _MAX_OPENING_BYTES)
        guard.measure(raw, 1, 16)
        body = unpack_map(raw)
        if body:
            unknown_key("", body.keys(), frozenset())
        cache = await self._reader.current()
        return _told(await updatecalls.open_producer(cache.ready_attachment(), name))

    def _admit(self, scope: Scope, method: str, role: Any, allowed: str | None = None) -> dict[bytes, bytes]:
        """The headers of a request that may be made."""
        if scope["method"] != method:
            raise failures.NoSuchMethod(scope["method"], scope["path"], allowed or method)
        headers = dict(scope["headers"])
        self._doorkeeper.admit(headers.get(b"authorization"), role)
        if method == "POST":
            check_msgpack(headers)
        return headers


def _told(producer: Producer) -> dict[str, Any]:
    return {
        "epoch": producer.epoch,
        "last_seq": producer.last_seq,
        "last_epoch": producer.last_epoch,
        "mark": producer.mark,
        "position": producer.position,
        "history": producer.history,
        "quarantined": producer.quarantined,
        "quarantined_count": producer.quarantined_count,
    }
