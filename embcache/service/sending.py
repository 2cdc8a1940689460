"""Replies of lookups on their way out: head and body in one system call, pooled memory back once it is free.

ASGI's `send` begins by waiting until the kernel has taken what was written before (Connection sets the transport's
limit to 0). So once an empty piece has been sent, the body has left its buffer, unless the connection broke.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgpack

from embcache.service.bodies import Scope, Send, speaks_json
from embcache.service.buffers import Buffer, BufferPool
from embcache.service.connection import EXTENSION, Connection
from embcache.service.failures import Failure
from embcache_client.wire import MEDIA_TYPE

_TYPE = (b"content-type", MEDIA_TYPE.encode())
_JSON = (b"content-type", b"application/json")
_NOTHING_YET = {"type": "http.response.body", "body": b"", "more_body": True}
_END = {"type": "http.response.body", "body": b"", "more_body": False}


class Reply(NamedTuple):
    """A body that is ready to go, and the pooled buffer in which it lies; None: memory that is not used again."""

    body: memoryview
    buffer: Buffer | None


async def send_reply(reply: Reply, pool: BufferPool, scope: Scope, send: Send) -> None:
    """Send a reply of status 200, and see its buffer back into the pool (or dropped, if the connection broke)."""
    connection: Connection | None = scope.get("extensions", {}).get(EXTENSION)  # None: not the front's own server
    if connection is not None:
        connection.corked.cork()
    if reply.buffer is None:
        await send(_head(200, len(reply.body)))
        await send({"type": "http.response.body", "body": reply.body})
        return
    free = False
    try:
        await send(_head(200, len(reply.body)))
        await send({"type": "http.response.body", "body": reply.body, "more_body": True})
        await send(_NOTHING_YET)
        free = connection is not None and connection.has_let_go()
    finally:
        pool.settle(reply.buffer, free)
    await send(_END)


async def send_msgpack(status: int, body: bytes, send: Send) -> None:
    """Send a small reply in msgpack."""
    await send(_head(status, len(body)))
    await send({"type": "http.response.body", "body": body})


async def send_failure(failure: Failure, scope: Scope, send: Send) -> None:
    """Send an error in msgpack; in JSON to who sent JSON or accepts it, such as a person at a terminal."""
    told = {"error": failure.error}
    as_json = speaks_json(scope)
    body = json.dumps(told).encode() if as_json else msgpack.packb(told)
    await send(_head(failure.status, len(body), failure.headers, _JSON if as_json else _TYPE))
    await send({"type": "http.response.body", "body": body})


def head_lines(size: int) -> bytes:
    """The lines that tell of a body of `size` bytes, as they are sent."""
    return b"content-type: application/msgpack\r\ncontent-length: %d\r\n" % size


def _head(
    status: int, size: int, headers: tuple[tuple[bytes, bytes], ...] = (), kind: tuple[bytes, bytes] = _TYPE
) -> dict[str, Any]:
    return {
        "type": "http.response.start",
        "status": status,
        "headers": (kind, (b"content-length", b"%d" % size), *headers),
    }
