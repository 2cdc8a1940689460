"""Tables for people and admins, in JSON: list, look at, create, drop; one row with the tier it came from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request, Response

from embcache.cache import EmbeddingCache
from embcache.errors import DeadlineExceeded, MalformedRequest, NotReady, UnknownTable
from embcache.gpu.device import DeviceError
from embcache.hot.tier import HotTier
from embcache.lookup import Query, VersionGoneError
from embcache.metrics import TIERS
from embcache.named import not_there
from embcache.places import Place
from embcache.service.context import TheService, json_body, needs, read_json
from embcache.spec import TableSpec

router = APIRouter(tags=["tables"])

_EXAMPLE = {"dim": 64, "dtype": "f32", "default": "zeros"}
FeatureId = Annotated[int, Path(ge=0, le=2**64 - 1, description="A feature ID")]


@router.get("/v1/tables", dependencies=[needs("read")])
async def list_tables(service: TheService) -> dict[str, Any]:
    """All tables: spec, version, rows, and rows and bytes in each tier; the same for each of their versions.

    `not_there`: tables that settings such as `warm.fixed` name, and that are none of these.
    """
    entries = await _entries(service.reader.cache())
    return {"tables": [entries[name] for name in sorted(entries)], "not_there": not_there(service.settings, entries)}


@router.get("/v1/tables/{table}", dependencies=[needs("read")])
async def show_table(table: str, service: TheService) -> dict[str, Any]:
    """One table: spec, version, rows, and rows and bytes in each tier; the same for each of its versions."""
    return await _entry(service.reader.cache(), table)


@router.put("/v1/tables/{table}", dependencies=[needs("admin")], openapi_extra=json_body(_EXAMPLE))
async def create_table(table: str, request: Request, response: Response, service: TheService) -> dict[str, Any]:
    """Create a table from a spec; the keys are those of `[[table]]`. The same spec again changes nothing."""
    body = await read_json(request)
    if not isinstance(body, dict):
        raise MalformedRequest("the body should be a JSON object, the spec of the table")
    if body.setdefault("name", table) != table:
        raise MalformedRequest(f"the spec is named {body['name']!r:.80}, and the path says {table!r:.80}")
    spec = TableSpec.parse(body)
    cache = service.reader.cache()
    created, position = await cache.create_table_async(spec)
    response.status_code = 201 if created else 200
    return await _entry(cache, table) | {"position": str(position)}


@router.patch("/v1/tables/{table}", dependencies=[needs("admin")], openapi_extra=json_body({"max_norm": 100.0}))
async def limit_table(table: str, request: Request, service: TheService) -> dict[str, Any]:
    """Give a table another `max_norm`, null for none; nothing else of a spec can be changed in place."""
    body = await read_json(request)
    if not isinstance(body, dict) or body.keys() != {"max_norm"}:
        raise MalformedRequest('the body should be {"max_norm": number or null}: all else takes another version')
    cache = service.reader.cache()
    position = await cache.limit_async(table, body["max_norm"])
    return await _entry(cache, table) | {"position": str(position)}


@router.delete("/v1/tables/{table}", dependencies=[needs("admin")])
async def drop_table(table: str, service: TheService) -> dict[str, Any]:
    """Drop a table and all its rows."""
    position = await service.reader.cache().drop_table_async(table)
    return {"dropped": table, "position": str(position)}


@router.get("/v1/tables/{table}/rows/{id}", dependencies=[needs("read")])
async def show_row(table: str, id: FeatureId, service: TheService) -> dict[str, Any]:
    """One row, with the tier it came from; the table's default row and "missing" where the id has none."""
    cache = await service.reader.current()
    lookup = cache.prepare([Query(table, np.array([id], np.uint64))], "f32")
    part = lookup.parts[0]
    buffer = np.zeros(part.rows_bytes + 8, np.uint8)
    deadline = time.monotonic() + service.settings.server.deadline_ms / 1000
    try:
        for question in lookup.steps(buffer, [Place(rows=0, scale=0, bias=0, status=part.rows_bytes)]):
            assert lookup.hot is not None
            if not await asyncio.to_thread(lookup.hot.wait, question, deadline):
                raise DeadlineExceeded("the GPU did not answer in time")
        if lookup.left:
            await lookup.finish_async(deadline)
    except (VersionGoneError, DeviceError):
        raise NotReady(f"table {table!r} got new rows just now: ask again", {"retry_after_ms": 50}) from None
    return {
        "table": part.table,
        "version": part.version,
        "id": str(id),
        "tier": TIERS[buffer[part.rows_bytes]],
        "row": buffer[: part.rows_bytes].view(np.float32).tolist(),
    }


async def _entry(cache: EmbeddingCache, table: str) -> dict[str, Any]:
    entries = await _entries(cache)
    if table not in entries:
        cache.feature_of(table)  # says which name is near
        raise UnknownTable(f"table {table!r} changed just now: ask again", {"table": table})
    return entries[table]


async def _entries(cache: EmbeddingCache) -> dict[str, dict[str, Any]]:
    """What is told of each table, by name: of its live version, and of all of them, the live one first."""
    specs = await asyncio.to_thread(cache.tables)  # may fetch the catalogue
    stats = await cache.stats_async()
    versions = [entry for entry in stats["tables"] if entry["table"] in specs]
    hot: Mapping[int, int] = {}
    if isinstance(cache.hot, HotTier):
        hot = await asyncio.to_thread(cache.hot.rows_held, [entry["number"] for entry in versions])
    told: dict[str, list[dict[str, Any]]] = {}
    for counts in versions:
        told.setdefault(counts["table"], []).append(_told(counts, hot.get(counts["number"], 0)))
    return {table: _table(entries) for table, entries in told.items() if entries[0]["state"] == "live"}


def _table(versions: list[dict[str, Any]]) -> dict[str, Any]:
    live = {key: value for key, value in versions[0].items() if key not in ("state", "follow")}
    return {**live, "versions": versions}


def _told(counts: Mapping[str, Any], hot_rows: int) -> dict[str, Any]:
    """Of one version."""
    hot_bytes = hot_rows * TableSpec.parse(counts["spec"]).row_bytes
    return {
        "spec": counts["spec"],
        "version": counts["label"],
        "state": counts["state"],
        "follow": counts["follow"],
        "live_since": None if counts["live_since"] is None else str(counts["live_since"]),
        "rows": counts["rows"],
        "rows_exact": counts["rows_exact"],
        "misses": counts["misses"],
        "tiers": {
            "hot": {"rows": hot_rows, "bytes": hot_bytes},
            "warm": {"rows": counts["warm_rows"], "bytes": counts["warm_bytes"]},
            "cold": {"rows": counts["rows"], "bytes": counts["cold_bytes"]},
        },
    }
