"""Request bodies and their headers: admitted by type and size before they are read, bounded while they arrive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from embcache.errors import MalformedRequest, TooLarge, UnsupportedMediaType
from embcache_client.wire import MEDIA_TYPE, MEDIA_TYPES

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = Mapping[bytes, bytes]  # by name in lower case

_MSGPACK = frozenset(name.encode() for name in MEDIA_TYPES)


class ClientGone(Exception):
    """The client went away before its body was whole: nobody waits for an answer."""


def check_msgpack(headers: Headers) -> None:
    """Raises UnsupportedMediaType unless the body is declared as msgpack."""
    declared = headers.get(b"content-type")
    if declared is None or (declared not in _MSGPACK and declared.partition(b";")[0].strip().lower() not in _MSGPACK):
        shown = "no content-type" if declared is None else f"content-type {declared[:60].decode('latin-1')!r}"
        raise UnsupportedMediaType(f"the request has {shown}; it should be {MEDIA_TYPE}", {"right": list(MEDIA_TYPES)})


def speaks_json(scope: Scope) -> bool:
    """Whether the request's body is declared as JSON, or JSON is among what its client accepts by name."""
    return any(
        media.partition(b";")[0].strip().lower() == b"application/json"
        for name, value in scope["headers"]
        if name in (b"content-type", b"accept")
        for media in value.split(b",")
    )


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes.

    Raises TooLarge as soon as more is announced or has arrived, ClientGone when the client hangs up.
    """
    announced = headers.get(b"content-length")
    if announced is not None and _length(announced) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _length(announced: bytes) -> int:
    if not announced.isdigit():
        raise MalformedRequest(f"content-length: {announced[:40].decode('latin-1')!r} should be a number of bytes")
    return int(announced[:20])


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {limit} bytes, the limit of server.max_body_bytes: send it in smaller requests",
        {"max_body_bytes": limit},
    )
