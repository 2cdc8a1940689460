"""Versions of a table for admins, in JSON: stage one beside the live one, switch tables to others, drop one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request

from embcache.cache import WARM_S
from embcache.errors import MalformedRequest
from embcache.service.context import TheService, json_body, needs, read_json
from embcache.service.fields import mistyped, unknown_key

router = APIRouter(tags=["versions"])

_STAGE = frozenset({"version", "spec", "follow", "source"})
_SWITCH = frozenset({"tables", "follow", "warm_s"})


@router.post(
    "/v1/tables/{table}/versions",
    dependencies=[needs("admin")],
    status_code=201,
    openapi_extra=json_body({"version": "next", "spec": {"dtype": "f16"}, "follow": True}),
)
async def stage_version(table: str, request: Request, service: TheService) -> dict[str, Any]:
    """Add an empty version beside the live one, for an import to fill. `spec`: what of the live one's it has otherwise
    (dtype, default, add); `follow`: whether updates of the table go to it, too; `source`: the version whose rows it
    begins with."""
    body = _map(await read_json(request), _STAGE)
    version = _needed(body, "version", str, "a name")
    spec = body.get("spec") or {}
    if not isinstance(spec, dict):
        mistyped("spec", spec, 'a map of what the version has of its own, such as {"dtype": "f16"}')
    follow = _flag(body) or False
    source = body.get("source")
    if not isinstance(source, str | None):
        mistyped("source", source, "the name of a version of the table")
    staged = await service.reader.cache().stage_async(table, version, spec, follow, source)
    told = {"table": table, "version": staged.version, "state": "staged", "follow": follow}
    return told | {"spec": staged.spec.to_json(), "position": str(staged.position)}


@router.put(
    "/v1/active",
    dependencies=[needs("admin")],
    openapi_extra=json_body({"tables": {"item": "next"}, "follow": True, "warm_s": 30}),
)
async def switch_versions(request: Request, service: TheService) -> dict[str, Any]:
    """Make versions live, of any number of tables, at once for every lookup. `warm_s`: how long rows are brought into
    memory for them before, at most; `follow`: whether updates go on to the versions before."""
    body = _map(await read_json(request), _SWITCH)
    tables = _needed(body, "tables", dict, "a map from tables to their versions")
    if not tables or not all(isinstance(version, str) for version in tables.values()):
        mistyped("tables", tables, 'a map from tables to their versions, such as {"item": "next"}')
    warm_s = body.get("warm_s", WARM_S)
    if isinstance(warm_s, bool) or not isinstance(warm_s, int | float) or not 0 <= warm_s < 1e9:
        mistyped("warm_s", warm_s, "a number of seconds, from 0 to 300")
    switched = await service.reader.cache().switch_async(tables, _flag(body), warm_s)
    return {"tables": tables, "warmed": dict(switched.warmed), "position": str(switched.position)}


@router.delete("/v1/tables/{table}/versions/{version}", dependencies=[needs("admin")])
async def drop_version(table: str, version: str, service: TheService) -> dict[str, Any]:
    """Drop a version that is not live, and its rows."""
    position = await service.reader.cache().drop_version_async(table, version)
    return {"table": table, "dropped": version, "position": str(position)}


def _map(body: Any, keys: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise MalformedRequest(f"the body should be a JSON object with the keys {', '.join(sorted(keys))}")
    if body.keys() - keys:
        unknown_key("", body.keys() - keys, keys)
    return body


def _needed(body: Mapping[str, Any], key: str, kind: type, right: str) -> Any:
    value = body.get(key)
    if not isinstance(value, kind):
        mistyped(key, value, right, present=key in body)
    return value


def _flag(body: Mapping[str, Any]) -> bool | None:
    value = body.get("follow")
    if value is not None and not isinstance(value, bool):
        mistyped("follow", value, "true or false")
    return value
