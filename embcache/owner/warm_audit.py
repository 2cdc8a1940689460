"""Whether what is in memory is what is on disk, while both are in use. Runs on the loop, a piece at a time.

A row may change while it is looked at, and an update is on disk a moment before it is in memory. So a row is wrong that
is the same in memory before and after its row on disk was read, is not that row, and stays so for a while.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embcache.host.expiry import as_in_memory
from embcache.host.table import HostTable
from embcache.owner.flight import Ids, Rows
from embcache.owner.parts import Parts
from embcache.owner.threads import log
from embcache.spec import TableSpec
from embcache_storage.store import FOUND, StoreError

SETS: Final = 1024  # of a piece
_TRIES: Final = 20
_PAUSE_S: Final = 0.1
_AUDITS: Final = 3
_NAMED: Final = 10
_MEND: Final = "start the owner anew: memory is filled from disk again; and tell the maintainers"


class WarmAudit:
    """Looks at an owner's parts; owns none."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def piece(self, version: int, first: int) -> dict[str, Any]:
        """Audit some sets of a version's region -> what of it is wrong, and where to go on."""
        findings: list[dict[str, str]] = []
        if not version and not first:
            findings += self._positions()
        held = sorted(self._parts.memory.tables, key=lambda each: each.version)
        current = next((each for each in held if each.version >= version), None)
        total = sum(each.table.region.sets for each in held)
        if current is None:
            return {"findings": findings, "rows": 0, "done": total, "total": total, "next": None}
        first = first if current.version == version else 0
        if not first:
            findings += await self._invariants(current.version)
        rows, wrong = await self._compare(current.version, first)
        findings += wrong
        end = min(first + SETS, current.table.region.sets)
        done = end + sum(each.table.region.sets for each in held if each.version < current.version)
        following = [current.version, end] if end < current.table.region.sets else [current.version + 1, 0]
        return {"findings": findings, "rows": rows, "done": done, "total": total, "next": following}

    def _positions(self) -> list[dict[str, str]]:
        intake, update_log = self._parts.intake, self._parts.store.log
        applied, durable, logged = intake.applier.applied, intake.committer.durable, intake.committer.logged
        if applied <= logged and durable <= logged <= update_log.last and update_log.first - 1 <= applied:
            return []
        what = f"applied {applied}, durable {durable}, logged {logged}, log {update_log.first} to {update_log.last}"
        return [_finding(f"positions that cannot be: {what}", "update log")]

    def _table(self, version: int) -> HostTable | None:
        held = self._parts.memory.tables.get(version)
        return None if held is None else held.table

    async def _invariants(self, version: int) -> list[dict[str, str]]:
        """Beside the writer first, since that takes long in a large table; only what is odd then holds it up."""
        for attempt in range(_AUDITS + 1):
            table = self._table(version)
            if table is None:
                return []
            try:
                if attempt < _AUDITS:
                    await asyncio.to_thread(table.check)
                else:
                    table.check()
                return []
            except AssertionError as error:
                problem = str(error)
        return [_finding(problem, f"memory of version {version}")]

    async def _compare(self, version: int, first: int) -> tuple[int, list[dict[str, str]]]:
        """(rows compared, what is wrong) of some sets."""
        table, entry = self._table(version), self._parts.tables.find(version)
        if table is None or entry is None:
            return 0, []
        ids, _ = table.held(first, SETS)
        count = len(ids)
        ids = np.ascontiguousarray(ids)
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_PAUSE_S)
            if not len(ids):
                return count, []
            different = await self._different(version, entry.spec, ids)
            if different is None:
                return count, []
            ids = ids[different]
        named = ", ".join(str(each) for each in ids[:_NAMED].tolist())
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        where = f"memory of table {entry.spec.name}, version number {version}"
        return count, [_finding(f"rows that are not as on disk: ids {named}{more}", where)]

    async def _different(self, version: int, spec: TableSpec, ids: Ids) -> NDArray[np.bool_] | None:
        """Which rows of ids are in memory as they were a moment ago, and not as on disk; None once all are gone."""
        before = self._read(version, ids)
        if before is None:
            return None
        try:
            cold, state = await self._parts.threads.bulk(self._parts.store.read, version, spec.cold_row_bytes, ids)
            wanted, _ = await asyncio.to_thread(as_in_memory, cold, spec)
        except StoreError as error:
            log.warning("rows of version %d cannot be compared: %s", version, error)
            return None
        after = self._read(version, ids)
        if after is None:
            return None
        same = before[1] & after[1] & (before[0] == after[0]).all(axis=1)
        different: NDArray[np.bool_] = same & ((state != FOUND) | (after[0] != wanted).any(axis=1))
        return different

    def _read(self, version: int, ids: Ids) -> tuple[Rows, NDArray[np.bool_]] | None:
        table = self._table(version)
        return None if table is None else table.read(ids)


def _finding(what: str, where: str) -> dict[str, str]:
    return {"what": what, "where": where, "mend": _MEND}
