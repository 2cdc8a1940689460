"""POST /v1/prefetch: a plain ASGI function beside FastAPI's stack, msgpack both ways; answered before rows are read."""

from __future__ import annotations

import asyncio

import msgpack

from embcache import prefetching
from embcache.config import Server
from embcache.metrics import Counters
from embcache.service import failures
from embcache.service.auth import Doorkeeper
from embcache.service.bodies import ClientGone, Receive, Scope, Send, check_msgpack, read_body
from embcache.service.reader import Reader
from embcache.service.requests import parse_prefetch
from embcache.service.sending import send_failure, send_msgpack
from embcache_client.results import Prefetched

PATH = "/v1/prefetch"


class PrefetchEndpoint:
    """The ASGI application of PATH."""

    def __init__(self, reader: Reader, server: Server, doorkeeper: Doorkeeper, counters: Counters) -> None:
        self._reader = reader
        self._server = server
        self._doorkeeper = doorkeeper
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            told = await self._queue(scope, receive)
        except ClientGone:
            return
        except (Exception, asyncio.CancelledError) as error:
            failure = failures.of(error)
            self._counters.failed(failure.code)
            await send_failure(failure, scope, send)
            return
        await send_msgpack(202, msgpack.packb({"ids": told.ids, "queued": told.queued}), send)

    async def _queue(self, scope: Scope, receive: Receive) -> Prefetched:
        if scope["method"] != "POST":
            raise failures.NoSuchMethod(scope["method"], PATH, "POST")
        headers = dict(scope["headers"])
        self._doorkeeper.admit(headers.get(b"authorization"), "read")
        check_msgpack(headers)
        body = await read_body(headers, receive, self._server.max_body_bytes)
        cache = await self._reader.current()
        queries = parse_prefetch(body, self._server.max_ids_per_request, cache.feature_of)
        return await prefetching.prefetch(cache.ready_attachment(), queries)
