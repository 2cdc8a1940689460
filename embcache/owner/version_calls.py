"""The calls of a link that are about versions of tables: staged, switched to, dropped. See operations.py."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from embcache.errors import MalformedRequest
from embcache.owner.arguments import get, text
from embcache.owner.copies import Copies
from embcache.owner.parts import Parts
from embcache.owner.server import Answer
from embcache.owner.warmup import WarmUp

MAX_WARM_S = 300.0  # less than what readers wait for an answer
MAX_TABLES = 1024  # of one switch


class VersionCalls:
    """Answers calls by their op; see operations.py."""

    def __init__(self, parts: Parts) -> None:
        self._tables = parts.tables
        self._intake = parts.intake
        self._warm_up = WarmUp(parts.memory, parts.bringer, parts.tables)
        self._copies = Copies(parts)
        self._warming = asyncio.Lock()  # one switch after the other: they would take each other's memory

    async def stage(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"table", "version", "spec": its own keys, "follow", "source": version or null} -> {"version", "spec",
        "position"}; with a source it has its rows.
        """
        asked = text(meta, "table"), text(meta, "version"), get(meta, "spec", dict)
        follow, source = get(meta, "follow", bool), meta.get("source")
        if source is None:
            version, position = await self._tables.stage(*asked, follow=follow)
        else:
            version, position = await self._copies.stage(*asked, text(meta, "source"), follow=follow)
        return {"version": version.label, "spec": version.spec.to_json(), "position": position}, ()

    async def limit(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"table", "max_norm": number or null} -> {"position"}: from there on updates are judged by it."""
        position = await self._tables.limit(text(meta, "table"), meta.get("max_norm"))
        return {"position": position or self._intake.applier.applied}, ()

    async def drop_version(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"table", "version"} -> {"position"}."""
        return {"position": await self._tables.drop_version(text(meta, "table"), text(meta, "version"))}, ()

    async def switch(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"tables": {table: version}, "follow": bool or null, "warm_s"} -> {"position", "warmed": {table: {"ids",
        "warmed"}}} for those that were not live before.

        `ids`: of how many ids it was tried to have rows in memory before the switch, `warmed`: of how many they are.
        """
        targets = get(meta, "tables", dict)
        if not all(isinstance(part, str) for pair in targets.items() for part in pair):
            raise MalformedRequest('"tables" should be a map from names of tables to names of their versions')
        if len(targets) > MAX_TABLES:
            raise MalformedRequest(f"a switch is of at most {MAX_TABLES} tables, not of {len(targets)}")
        follow = None if meta.get("follow") is None else get(meta, "follow", bool)
        limit_s = float(get(meta, "warm_s", float))
        if not 0 <= limit_s <= MAX_WARM_S:
            raise MalformedRequest(f"warm_s: {limit_s:g} should be a number of seconds from 0 to {MAX_WARM_S:g}")
        async with self._warming:
            return await self._switch(targets, follow, limit_s)

    async def _switch(self, targets: Mapping[str, str], follow: bool | None, limit_s: float) -> Answer:
        moves = self._tables.moves(targets)
        self._tables.check_switch(targets, follow)  # rather than after all has been warmed
        try:
            warmed = await self._warm_up.run(moves, limit_s)
            position = await self._tables.switch(targets, follow)
        finally:
            self._tables.share_memory(move.after.spec.name for move in moves)
        told = {each.move.after.spec.name: each.to_json() for each in warmed}
        return {"position": position or self._intake.applier.applied, "warmed": told}, ()
