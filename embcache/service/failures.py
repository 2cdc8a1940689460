"""What goes wrong, as PROTOCOL's error map: one description for every exception, for msgpack and JSON replies alike.

Codes beside those of embcache.errors: `not_found` (404, no such path) and `method_not_allowed` (405).
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi.exceptions import RequestValidationError

from embcache.errors import EmbcacheError, Internal, MalformedRequest, NotReady

logger = logging.getLogger("embcache.service")

DEFAULT_RETRY_AFTER_MS = 200


class Failure(NamedTuple):
    """An answer that is an error: HTTP status, the `error` map, headers beside type and length."""

    status: int
    error: dict[str, Any]
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def code(self) -> str:
        return str(self.error["code"])

    @classmethod
    def told_by(cls, error: EmbcacheError) -> Failure:
        """The failure of an error of the tree, with the headers that its status calls for."""
        described = error.to_dict()
        if error.http_status == HTTPStatus.UNAUTHORIZED:
            return cls(error.http_status, described, ((b"www-authenticate", b"Bearer"),))
        if error.http_status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            wait_ms = error.detail.get("retry_after_ms", DEFAULT_RETRY_AFTER_MS)
            described["detail"] = {**error.detail, "retry_after_ms": wait_ms}
            return cls(error.http_status, described, ((b"retry-after", b"%d" % math.ceil(wait_ms / 1000)),))
        return cls(error.http_status, described)


class NoSuchPath(Exception):
    """404: nothing is served at this path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"there is nothing at {path[:200]!r}; GET /docs lists what there is")


class NoSuchMethod(Exception):
    """405: the path is served, by other methods. `allowed`: "GET, PUT"."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{path[:200]} takes {allowed}, not {method[:20]}")
        self.allowed = allowed


def of(error: BaseException) -> Failure:
    """The failure that tells of `error`. What is unforeseen is logged with an id, which the failure carries."""
    if isinstance(error, NoSuchPath):
        return Failure(404, {"code": "not_found", "message": str(error), "detail": {}})
    if isinstance(error, NoSuchMethod):
        described = {"code": "method_not_allowed", "message": str(error), "detail": {"allowed": error.allowed}}
        return Failure(405, described, ((b"allow", error.allowed.encode()),))
    if isinstance(error, RequestValidationError):
        error = MalformedRequest("; ".join(map(_complaint, error.errors())))
    if isinstance(error, asyncio.CancelledError):  # the grace is over: see front.py
        error = NotReady("the service is stopping, and the request was not done in time")
    if not isinstance(error, EmbcacheError):
        error = _unforeseen(error)
    return Failure.told_by(error)


def _complaint(fault: dict[str, Any]) -> str:
    """What FastAPI found wrong in a path or a query, in one line."""
    kind, *names = map(str, fault["loc"])
    words = fault["msg"].removeprefix("Input ")
    return f"{kind} {'.'.join(names)}: {words} (got {fault.get('input')!r:.60})"


def _unforeseen(error: BaseException) -> Internal:
    error_id = secrets.token_hex(8)
    logger.error("unforeseen error %s", error_id, exc_info=error)
    return Internal(
        f"something unforeseen happened; the service's log tells more under {error_id}", {"error_id": error_id}
    )
