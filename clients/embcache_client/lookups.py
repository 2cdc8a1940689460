"""Lookups: how a client looks rows up where that is not just one call: near-cache first, then parts. Does no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from embcache_client.buffers import BufferPool
from embcache_client.call import Steps
from embcache_client.lookup import Ids, Versions, check, queries_of
from embcache_client.near import NearCache, is_plain
from embcache_client.parts import MAX_CONNECTIONS, Parts
from embcache_client.results import LookupResult


class Lookups:
    """What a client was told of how to look up. Safe to use from many threads."""

    def __init__(self, buffers: BufferPool, connections: int, near_cache_rows: int, max_staleness_s: float) -> None:
        """Raises ValueError."""
        if not 1 <= connections <= MAX_CONNECTIONS:
            raise ValueError(f"connections is {connections!r}, not a number from 1 to {MAX_CONNECTIONS}")
        if max_staleness_s and not near_cache_rows:
            raise ValueError(f"max_staleness_s={max_staleness_s!r} says nothing without near_cache_rows")
        self._near = NearCache(near_cache_rows, max_staleness_s, buffers) if near_cache_rows else None
        self._parts = Parts(connections, buffers)
        self.take_one_call = self._near is None and connections == 1

    def steps(
        self, tables: Mapping[str, Ids], dtype: str, version: Versions, conditions: dict[str, Any]
    ) -> Steps[LookupResult]:
        """Of a lookup of rows; ValueError or TypeError, at once, for arguments that can never be right."""
        queries = queries_of(tables, version)
        ask = partial(self._parts.ask, dtype=dtype, conditions=conditions)
        if self._near is None or not is_plain(queries, conditions):
            return ask(queries)
        check(queries, dtype, **conditions)  # whether a call is made or not
        return self._near.lookup(queries, dtype, ask)
