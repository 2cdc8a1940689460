"""The calls of a link that are about what is in memory: how far a warm start is, which rows are in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embcache.host.eviction import MOST_USE
from embcache.owner.arguments import U32, integer
from embcache.owner.by_use import LIST_SETS
from embcache.owner.parts import Parts
from embcache.owner.server import Answer


class WarmCalls:
    """Answers calls by their op; see operations.py."""

    def __init__(self, parts: Parts) -> None:
        self._memory = parts.memory
        self._start = parts.warm_start

    async def warm_start(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{} -> {"tables": [...]}, see WarmStart.progress."""
        return {"tables": self._start.progress()}, ()

    async def in_use(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"version", "use", "set"} -> {"next": set or null, "later"}, ids u64 [n] of some sets from that one on whose
        rows are in use just so much.

        later: whether to ask again, since rows of the last owner's memory that were in use are still coming back.
        """
        version, use = integer(meta, "version", U32), integer(meta, "use", int(MOST_USE))
        first = integer(meta, "set", U32)
        if self._start.brings_rows_in_use(version):
            return {"next": first, "later": True}, ()
        held = self._memory.tables.get(version)
        if held is None or first >= held.table.region.sets:
            return {"next": None, "later": False}, ()
        ids, uses = held.table.held(first, LIST_SETS)
        following = first + LIST_SETS
        following_or_none = following if following < held.table.region.sets else None
        return {"next": following_or_none, "later": False}, (ids[uses == use],)
