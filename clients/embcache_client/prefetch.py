"""Prefetches: rows that will be looked up soon are brought up a tier. Does no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from embcache_client import wire
from embcache_client.call import Call
from embcache_client.errors import ProtocolError
from embcache_client.http1 import Response
from embcache_client.lookup import Ids, Versions, queries_of
from embcache_client.results import Prefetched

TARGET: Final = "/v1/prefetch"


def prefetch_call(tables: Mapping[str, Ids], version: Versions) -> Call[Prefetched]:
    """ValueError or TypeError for arguments that can never be right."""
    queries = queries_of(tables, version)
    if not queries:
        raise ValueError("a prefetch needs at least one table")
    return Call("POST", TARGET, _read, wire.encode_prefetch(queries), wire.MEDIA_TYPE)


def _read(response: Response) -> Prefetched:
    reply = wire.decode_map(response.body)
    ids, queued = reply.get("ids"), reply.get("queued")
    if type(ids) is int and type(queued) is int and 0 <= queued <= ids:
        return Prefetched(ids, queued)
    raise ProtocolError(f"the answer to a prefetch is {reply!r:.100}, not numbers of ids and of those queued")
