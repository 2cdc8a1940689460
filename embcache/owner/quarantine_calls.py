"""The calls of a link about batches that are set aside: listed, shown, dropped, released. See operations.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from embcache.errors import MalformedRequest
from embcache.owner.arguments import U64, integer
from embcache.owner.parts import Parts
from embcache.owner.quarantine import Record
from embcache.owner.releases import Releases
from embcache.owner.server import Answer

MAX_PAGE = 1000


class QuarantineCalls:
    """Answers calls by their op."""

    def __init__(self, parts: Parts) -> None:
        self._quarantine = parts.intake.quarantine
        self._releases = Releases(parts.threads, parts.tables, parts.intake)

    async def page(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"after": position, "limit"} -> {"count", "bytes", "batches": [a record each], "next": position or null}.

        The oldest first; go on `after` what `next` says.
        """
        limit = integer(meta, "limit", U64)
        if not 1 <= limit <= MAX_PAGE:
            raise MalformedRequest(f"limit: {limit} should be from 1 to {MAX_PAGE}")
        records, following = self._quarantine.page(integer(meta, "after", U64), limit)
        told = {"count": len(self._quarantine), "bytes": self._quarantine.nbytes, "next": following}
        return {**told, "batches": [_told(record) for record in records]}, ()

    async def show(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"position"} -> a record, with "changes": [{"table", "op", "rows", "skipped"}, ...]."""
        record, parts = await self._releases.show(integer(meta, "position", U64))
        return {**_told(record), "changes": [dataclasses.asdict(part) for part in parts]}, ()

    async def drop(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"position"} -> {}, once it is forgotten for good."""
        await self._releases.drop(integer(meta, "position", U64))
        return {}, ()

    async def release(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"position"} -> {"position": of the new batch, "rows": that it changed, "skipped"}, once it is applied."""
        return dataclasses.asdict(await self._releases.release(integer(meta, "position", U64))), ()


def _told(record: Record) -> dict[str, Any]:
    told = dataclasses.asdict(record)
    del told["checksum"]
    told["bytes"] = told.pop("nbytes")
    return told
