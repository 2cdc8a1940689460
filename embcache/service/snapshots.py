"""Snapshots and audits of a running service, in JSON, for admins."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from embcache import snapshotcalls
from embcache.errors import MalformedRequest
from embcache.local.link import Link
from embcache.service.context import Service, TheService, json_body, needs, read_json

router = APIRouter(tags=["snapshots"])

_EXAMPLE = {"path": "/backups/2026-01-31"}
_PLACE = re.compile(r"(\d{1,10})-(\d{1,10})", re.ASCII)


@router.post("/v1/snapshots", dependencies=[needs("admin")], openapi_extra=json_body(_EXAMPLE))
async def begin_snapshot(request: Request, response: Response, service: TheService) -> dict[str, Any]:
    """Begin a snapshot of all data in a new folder on the service's machine; it appears there when it is whole."""
    body = await read_json(request)
    if not isinstance(body, dict) or body.keys() != {"path"} or not isinstance(body["path"], str):
        raise MalformedRequest('the body should be {"path": absolute path of a folder that is not there yet}')
    response.status_code = 202
    return {"snapshot": await snapshotcalls.begin(_link(service), body["path"])}


@router.get("/v1/snapshots/{snapshot}", dependencies=[needs("admin")])
async def show_snapshot(snapshot: str, service: TheService) -> dict[str, Any]:
    """How far a snapshot is; `state` is running, done or failed."""
    told = await snapshotcalls.state(_link(service), snapshot)
    what, done, total = told["at"]
    result = told["done"] and {**told["done"], "position": str(told["done"]["position"])}
    at = {"what": what, "done": done, "total": total}
    return {"snapshot": snapshot, "state": told["state"], "at": at, "result": result, "error": told["failure"]}


@router.delete("/v1/snapshots/{snapshot}", dependencies=[needs("admin")])
async def stop_snapshot(snapshot: str, service: TheService) -> dict[str, Any]:
    """End a snapshot that is under way; nothing of it is left."""
    await snapshotcalls.stop(_link(service), snapshot)
    return {"stopped": snapshot}


@router.get("/v1/check", dependencies=[needs("admin")])
async def check(
    service: TheService,
    start: Annotated[str, Query(description="`next` of the piece before")] = "0-0",
) -> dict[str, Any]:
    """Audit a piece of what is in host memory, and compare its rows with those on disk; `next` is null at the end."""
    place = _PLACE.fullmatch(start)
    if place is None:
        raise MalformedRequest(f"start: {start[:40]!r} is no `next` of a piece")
    told = await snapshotcalls.check(_link(service), int(place[1]), int(place[2]))
    following = None if told["next"] is None else "{}-{}".format(*told["next"])
    return {**told, "next": following}


def _link(service: Service) -> Link:
    return service.reader.cache().ready_attachment().link
