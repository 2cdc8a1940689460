"""What the endpoints of a front share. Built once, by front.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Request
from fastapi.params import Depends as DependsMarker
from fastapi.security import HTTPBearer

from embcache.config import Role, Settings
from embcache.errors import MalformedRequest, UnsupportedMediaType
from embcache.metrics import Counters
from embcache.service.auth import Doorkeeper
from embcache.service.bodies import read_body
from embcache.service.data import LookupEndpoint
from embcache.service.prefetch import PrefetchEndpoint
from embcache.service.reader import Reader
from embcache.service.updates import UpdatesEndpoint
from embcache.service.warm_gate import WarmGate
from embcache_client.wire import MEDIA_TYPE

MAX_JSON_BYTES = 4 << 20  # a spec with a constant default row of 65,536 numbers takes half of that


@dataclass(frozen=True, slots=True)
class Service:
    """A front's parts. `blocks`: the counts of all fronts, of which `counters` writes one."""

    settings: Settings
    reader: Reader
    doorkeeper: Doorkeeper
    counters: Counters
    blocks: Sequence[memoryview]
    lookups: LookupEndpoint
    updates: UpdatesEndpoint
    prefetches: PrefetchEndpoint
    warm_gate: WarmGate

    @classmethod
    def of(cls, settings: Settings, blocks: Sequence[memoryview], index: int) -> Service:
        """The parts of front number `index`."""
        reader, doorkeeper, counters = Reader(settings.cold.path), Doorkeeper(settings.token), Counters(blocks[index])
        parts = (reader, settings.server, doorkeeper, counters)
        data = (LookupEndpoint(*parts), UpdatesEndpoint(*parts), PrefetchEndpoint(*parts))
        gate = WarmGate(settings.warm.ready_share)
        return cls(settings, reader, doorkeeper, counters, blocks, *data, gate)


def service_of(request: Request) -> Service:
    """The service that a request is for."""
    service: Service = request.app.state.service
    return service


TheService: TypeAlias = Annotated[Service, Depends(service_of)]

_shown_in_docs = HTTPBearer(auto_error=False, description="A [[token]] of the configuration; none needed without any.")


def needs(role: Role) -> DependsMarker:
    """A route's dependency: the caller has `role`. It is checked before the body is read."""

    async def check(request: Request, service: TheService, _: Annotated[object, Depends(_shown_in_docs)]) -> None:
        admit(request, service, role)

    marker: DependsMarker = Depends(check)
    return marker


def admit(request: Request, service: Service, role: Role) -> None:
    """Pass a request whose token has `role`; Unauthenticated or Forbidden."""
    service.doorkeeper.admit(dict(request.scope["headers"]).get(b"authorization"), role)


def json_body(example: object) -> dict[str, Any]:
    """What a route's documentation says of a body that the route reads by itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"example": example}}}}


MSGPACK_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {MEDIA_TYPE: {}}}}


async def read_json(request: Request) -> Any:
    """The JSON of a request's body, bounded while it is read."""
    headers = dict(request.scope["headers"])
    declared = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if declared != b"application/json":
        raise UnsupportedMediaType(
            f"the request has content-type {declared[:60].decode('latin-1')!r}; it should be application/json"
        )
    try:
        return json.loads(await read_body(headers, request.receive, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
