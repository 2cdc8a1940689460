"""The ASGI application of a front: lookups, updates and prefetches go to their own endpoints, all else to FastAPI's.

Every error has PROTOCOL's form, whoever raised it.
"""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message

from embcache.service import changes, failures, introspection, quarantine, snapshots, tables, transfers, versions
from embcache.service.bodies import ClientGone, Receive, Scope, Send
from embcache.service.connection import Answer
from embcache.service.context import Service
from embcache.service.data import PATH as LOOKUP_PATH
from embcache.service.failures import Failure
from embcache.service.prefetch import PATH as PREFETCH_PATH

_ABOUT = """Rows of embedding tables by feature ID. Lookups (`POST /v1/lookup`), prefetches (`POST /v1/prefetch`) and
updates (`POST /v1/updates`, `/v1/producers/{producer}`) are msgpack and not listed here: see docs/protocol.md, or use
`embcache_client`."""

_ROUTERS = (
    tables.router,
    versions.router,
    transfers.router,
    transfers.pages,
    changes.router,
    quarantine.router,
    snapshots.router,
    introspection.router,
)


class Front:
    """The application. Sends a request to the endpoint of its own kind, or into FastAPI's stack."""

    def __init__(self, service: Service) -> None:
        self.lookups = service.lookups
        self._updates = service.updates
        self._prefetches = service.prefetches
        self._others = _build(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} here")
        if scope["path"] == LOOKUP_PATH:
            await self.lookups(scope, receive, send)
        elif self._updates.serves(scope["path"]):
            await self._updates(scope, receive, send)
        elif scope["path"] == PREFETCH_PATH:
            await self._prefetches(scope, receive, send)
        else:
            await self._others(scope, receive, send)

    def answer_now(self, scope: Scope, body: bytes) -> Answer | None:
        """See connection.AnswersNow: lookups that the arena alone can answer."""
        return self.lookups.answer_now(scope, body) if scope["path"] == LOOKUP_PATH else None

    def answer_again(self, scope: Scope, body: bytes) -> Answer | None:
        """See connection.AnswersNow."""
        return self.lookups.answer_again(scope, body) if scope["path"] == LOOKUP_PATH else None


def _build(service: Service) -> FastAPI:
    app = FastAPI(
        title="embcache", version=version("embcache"), description=_ABOUT, redoc_url=None, redirect_slashes=False
    )
    app.state.service = service
    for router in _ROUTERS:
        app.include_router(router)
    app.add_exception_handler(HTTPException, _routing_failed)
    app.add_exception_handler(RequestValidationError, _failed)
    app.add_middleware(_Failures, service=service)
    return app


class _Failures:
    """Answers whatever the routes raise. Stands around all of them, so that nothing reaches the server."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientGone:
            return
        except (Exception, asyncio.CancelledError) as error:
            failure = failures.of(error)
            if begun:
                raise
            self._service.counters.failed(failure.code)
            await _as_json(failure)(scope, receive, send)


async def _routing_failed(request: Request, error: Exception) -> Response:
    """404 and 405 of the router."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return await _failed(request, failures.NoSuchMethod(request.method, request.url.path, _allowed(request)))
    if error.status_code == 404:
        return await _failed(request, failures.NoSuchPath(request.url.path))
    return await _failed(request, error)


def _allowed(request: Request) -> str:
    """The methods that would be right. Each is a route of its own, and the router names only the first."""
    methods: set[str] = set()
    for router in _ROUTERS:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.path_regex.match(request.url.path):
                methods |= route.methods or set()
    return ", ".join(sorted(methods or {"GET"}))  # what FastAPI serves by itself is read


async def _failed(request: Request, error: Exception) -> Response:
    failure = failures.of(error)
    request.app.state.service.counters.failed(failure.code)
    return _as_json(failure)


def _as_json(failure: Failure) -> Response:
    headers = {name.decode(): value.decode() for name, value in failure.headers}
    return Response(json.dumps({"error": failure.error}), failure.status, headers, "application/json")
