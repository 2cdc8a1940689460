"""What changed of a table since a position: which ids, and the rows that some ids have, as they are on disk."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from embcache.errors import MalformedRequest, TooLarge
from embcache.service import guard
from embcache.service.bodies import check_msgpack, read_body
from embcache.service.context import MSGPACK_BODY, TheService, needs
from embcache.service.fields import U64, array_of, optional, unknown_key, unpack_map
from embcache.service.transfers import MAX_PAGE_BYTES, MsgpackRoute, checked_dtype, msgpack_reply, page_reply

router = APIRouter(tags=["transfer"], route_class=MsgpackRoute)

_FETCH = frozenset({"ids", "dtype", "version"})


@router.get("/v1/tables/{table}/changes", dependencies=[needs("read")])
async def changed_ids(
    table: str,
    service: TheService,
    since: Annotated[int, Query(ge=0, le=2**64 - 1, description="The position after which changes count")],
    history: Annotated[str | None, Query(description="In which it counts")] = None,
) -> Response:
    """IDs whose rows changed since a position, in msgpack: those of the next updates, up to `position`. Go on from
    there until it is `applied`."""
    cache = await service.reader.current()
    page = await cache.changed_async(table, since, history)
    told = {"table": page.table, "version": page.version, "history": page.history}
    return msgpack_reply({**told, "position": page.position, "applied": page.applied, "ids": page.ids.data})


@router.post("/v1/tables/{table}/rows", dependencies=[needs("read")], openapi_extra=MSGPACK_BODY)
async def fetch_rows(table: str, request: Request, service: TheService) -> Response:
    """The rows that some ids have, as they are on disk: a page as `GET` gives it, of those of them that have one, in
    their order. In msgpack both ways; the body has `ids`, bin u64[n], and may have `dtype` and `version`."""
    headers = dict(request.scope["headers"])
    check_msgpack(headers)
    body = await read_body(headers, request.receive, service.settings.server.max_body_bytes)
    guard.measure(body, 1, 16)
    asked = unpack_map(body)
    if not asked.keys() <= _FETCH:
        unknown_key("", asked.keys() - _FETCH, _FETCH)
    ids = array_of(asked, "ids", U64, "body")
    if ids is None:
        raise MalformedRequest("ids: is missing; it should be a bin of u64")
    version, dtype = optional(asked, "version", str), optional(asked, "dtype", str)
    cache = await service.reader.current()
    view = cache.attachment.views.find(table, version)
    most = max(1, MAX_PAGE_BYTES // (4 * view.spec.dim))
    if ids.size > most:
        raise TooLarge(f"{ids.size} rows of {view.spec.dim}; at most {most} are fetched at once", {"rows": most})
    page = await cache.fetch_rows_async(table, ids, version)
    return await asyncio.to_thread(page_reply, page, checked_dtype(dtype or page.dtype))
