"""Whole tables in and out, page by page: rows travel as msgpack, the calls around them as JSON.

An import lives in the owner. Its id in a path carries what is needed to encode rows for it (name, dim, dtype), so that
any front takes any page, and a front that dies takes no import with it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import msgpack
import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from numpy.typing import NDArray

from embcache import lookup
from embcache.errors import DimensionMismatch, MalformedRequest, UnknownTable, UnsupportedDtype
from embcache.service import failures, guard
from embcache.service.bodies import ClientGone, check_msgpack, read_body
from embcache.service.context import MSGPACK_BODY, Service, TheService, admit, json_body, needs, read_json
from embcache.service.fields import unpack_map
from embcache.spec import DTYPES, NAME_PATTERN, TableSpec
from embcache.tablecalls import Import, ScanPage
from embcache_client import rowtypes
from embcache_client.wire import MEDIA_TYPE

MAX_PAGE_BYTES = 16 << 20  # of a page's rows in f32
_NO_IDS = np.empty(0, np.uint64)
_IMPORT_ID = re.compile(rf"([0-9a-f]{{1,64}})-(f32|f16|bf16|q8)-([0-9]{{1,5}})-({NAME_PATTERN})", re.ASCII)


class MsgpackRoute(APIRoute):
    """A route that answers in msgpack, errors included."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ClientGone:
                raise
            except Exception as error:
                failure = failures.of(error)
                request.app.state.service.counters.failed(failure.code)
                headers = {name.decode(): value.decode() for name, value in failure.headers}
                return msgpack_reply({"error": failure.error}, failure.status, headers)

        return answer


router = APIRouter(tags=["transfer"])
pages = APIRouter(tags=["transfer"], route_class=MsgpackRoute)


@router.post("/v1/tables/{table}/imports", dependencies=[needs("write")], openapi_extra=json_body({"spec": None}))
async def begin_import(table: str, request: Request, service: TheService) -> dict[str, str]:
    """Begin a new version of a table, which nobody sees before its commit. `{"spec": null}`, or the spec of a new one;
    with `"version"`: fill a version by its name, which lookups get once it is switched to.

    A table or a named version that is not there yet is made by the commit; that needs the role `admin`.
    """
    body = await read_json(request)
    version = body.get("version") if isinstance(body, dict) else None
    if not isinstance(body, dict) or body.keys() - {"spec", "version"} or not isinstance(version, str | None):
        raise MalformedRequest(
            'the body should be {"spec": null}, or {"spec": {...}} for a table that is not there yet; with '
            '"version": "NAME" for rows that go into a version of that name'
        )
    spec = None if body.get("spec") is None else TableSpec.parse(body["spec"])
    cache = service.reader.cache()
    there = (await asyncio.to_thread(cache.attached)).views
    made = table not in there.live if version is None else (table, version) not in there.versions
    if made and (spec is not None or version is not None):
        admit(request, service, "admin")
    begun = await cache.importing_async(table, spec, version)
    return {"import": import_id(begun), "version": begun.version}


@pages.post("/v1/imports/{id}/rows", dependencies=[needs("write")], openapi_extra=MSGPACK_BODY)
async def write_rows(id: str, request: Request, service: TheService) -> Response:
    """Rows of an import, ids ascending over all of them: `ids` bin u64[n], `dtype`, `rows` bin [n, dim] and for q8
    `scale` and `bias`. Answers the rows so far."""
    headers = dict(request.scope["headers"])
    check_msgpack(headers)
    load = await _resumed(service, id)
    body = await read_body(headers, request.receive, service.settings.server.max_body_bytes)
    pending = await asyncio.to_thread(lambda: load.send(*read_page(body, load.spec.dim)))
    return msgpack_reply({"rows": await pending})


@router.post("/v1/imports/{id}/commit", dependencies=[needs("write")])
async def commit_import(id: str, service: TheService) -> dict[str, Any]:
    """The new version goes live at once, in place of the one before; one that was named is staged, and complete."""
    done = await (await _resumed(service, id)).commit()
    return {"table": done["table"], "version": done["version"], "rows": done["rows"], "position": str(done["position"])}


@router.delete("/v1/imports/{id}", dependencies=[needs("write")])
async def abort_import(id: str, service: TheService) -> dict[str, Any]:
    """Nothing of the import remains."""
    await (await _resumed(service, id)).abort()
    return {"aborted": id}


@pages.get("/v1/tables/{table}/rows", dependencies=[needs("read")])
async def read_rows(
    table: str,
    service: TheService,
    start: Annotated[int, Query(ge=0, le=2**64 - 1, description="The first id")] = 0,
    limit: Annotated[int, Query(ge=1, le=1 << 20, description="Most rows; there may be fewer")] = 8192,
    dtype: Annotated[str | None, Query(description="Of the rows; that on disk by default")] = None,
    version: Annotated[str | None, Query(description="The live one by default; name it to go on reading")] = None,
) -> Response:
    """Rows of a table by ascending id, in msgpack; `next` is where the following page starts, nil at the end."""
    cache = await service.reader.current()
    dim = cache.prepare([lookup.Query(table, _NO_IDS, version)], "f32").parts[0].shape[1]
    page = await cache.scan_rows_async(table, start, min(limit, max(1, MAX_PAGE_BYTES // (4 * dim))), version)
    return await asyncio.to_thread(page_reply, page, checked_dtype(dtype or page.dtype))


def import_id(begun: Import) -> str:
    """What the paths of an import's calls name it by."""
    return f"{begun.id}-{begun.spec.cold_dtype}-{begun.spec.dim}-{begun.spec.name}"


async def _resumed(service: Service, id: str) -> Import:
    """The import of a path, as far as its rows go: a table whose dtype is that on disk.

    What is not one of ours is found out by the owner, or by the rows not fitting.
    """
    match = _IMPORT_ID.fullmatch(id)
    if match is None:
        raise UnknownTable(
            f"there is no import {id[:80]!r}: name it as the answer to its beginning did", {"import": id}
        )
    spec = TableSpec.parse({"name": match[4], "dtype": match[2], "dim": int(match[3])})
    attachment = await asyncio.to_thread(service.reader.cache().attached)
    return Import(attachment, {"import": match[1], "version": "", "spec": spec.to_json()})


def read_page(body: bytes, dim: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """(ids u64[n], rows f32[n, dim]) of the msgpack body of rows. MalformedRequest, DimensionMismatch."""
    guard.measure(body, 1, 64)
    page = unpack_map(body)
    columns = ("scale", "bias") if page.get("dtype") == "q8" else ()
    for key in sorted(map(str, page.keys() ^ {"ids", "dtype", "rows", *columns})):
        raise MalformedRequest(f"{key[:64]}: {'has no place in' if key in page else 'is missing from'} such rows")
    code = rowtypes.code_of(checked_dtype(page["dtype"]))
    ids = _bin(page, "ids", np.dtype("<u8"), None)
    values = _bin(page, "rows", rowtypes.ELEMENTS[code], ids.size * dim).reshape(ids.size, dim)
    scale, bias = (_bin(page, key, np.dtype("<f4"), ids.size) for key in columns or (None, None))
    return ids, rowtypes.decode(values, code, scale, bias)


def _bin(page: dict[str, Any], key: str | None, dtype: np.dtype[Any], count: int | None) -> Any:
    """The bin at `key` as an array of `count` elements, where that is known."""
    if key is None:
        return None
    raw = page[key]
    if type(raw) is not bytes or len(raw) % dtype.itemsize:
        raise MalformedRequest(f"{key}: should be a bin of {dtype.name}, {dtype.itemsize} bytes each")
    array = np.frombuffer(raw, dtype)
    if count is not None and array.size != count:
        raise DimensionMismatch(f"{key}: has {array.size} elements, and the ids and the table's dim ask for {count}")
    return array


def page_reply(page: ScanPage, dtype: str) -> Response:
    """A page of rows, in one of the wire's dtypes."""
    encoded = rowtypes.encode(page.rows, rowtypes.code_of(dtype))
    reply: dict[str, Any] = {"table": page.table, "version": page.version, "dtype": dtype}
    reply |= {"shape": list(page.rows.shape), "ids": page.ids.data, "rows": encoded.values.data}
    if encoded.scale is not None and encoded.bias is not None:
        reply |= {"scale": encoded.scale.data, "bias": encoded.bias.data}
    return msgpack_reply(reply | {"next": None if page.next is None else str(page.next)})


def checked_dtype(name: Any) -> str:
    """One of the wire's dtypes; UnsupportedDtype."""
    if type(name) is not str or name not in DTYPES:
        raise UnsupportedDtype(f"dtype: {name!r:.60} is none of {', '.join(DTYPES)}")
    return name


def msgpack_reply(value: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgpack.packb(value), status, headers, MEDIA_TYPE)
