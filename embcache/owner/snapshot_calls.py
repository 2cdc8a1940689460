"""The calls of a link that take snapshots and audit what is in memory: what they take, and what they answer.

A snapshot is made by an errand's process (errands.py), which takes the files as they are: nobody waits for it. All that
is done here is to move rows into files first, without the GIL, so that little is left to be replayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from embcache.config import Cold
from embcache.errors import ConfigError, EmbcacheError, MalformedRequest, NotReady, Overloaded, UnknownTable
from embcache.owner.arguments import U32, integer, text
from embcache.owner.errands import Errand
from embcache.owner.parts import Parts
from embcache.owner.server import Answer, Handle
from embcache.owner.threads import log, service_error
from embcache.owner.warm_audit import WarmAudit

_KEPT: Final = 16  # snapshots that are done, and can be asked about
_STOP_S: Final = 10.0


@dataclass(slots=True)
class _Snapshot:
    id: str
    errand: Errand | None = None
    at: list[Any] = field(default_factory=lambda: ["flush", 0, 0])
    done: dict[str, Any] | None = None
    error: EmbcacheError | None = None
    stopped: bool = False
    task: asyncio.Task[None] | None = None

    def told(self) -> dict[str, Any]:
        state = "failed" if self.error else "done" if self.done else "running"
        error = None if self.error is None else self.error.to_dict()
        return {"state": state, "at": self.at, "done": self.done, "failure": error}


class SnapshotCalls:
    """Answers calls by their op; see operations.py. Every method runs on the loop."""

    def __init__(self, parts: Parts, cold: Cold) -> None:
        self._parts = parts
        self._cold = cold
        self._warm = WarmAudit(parts)
        self._snapshots: dict[str, _Snapshot] = {}
        self._ops: dict[str, Handle] = {
            "snapshot_begin": self.begin,
            "snapshot_state": self.state,
            "snapshot_stop": self.stop,
            "check": self.check,
        }

    def beside(self, others: Handle) -> Handle:
        """Answers these calls, and leaves all others to `others`."""

        async def answer(meta: Mapping[str, Any], payload: memoryview) -> Answer:
            op = self._ops.get(str(meta.get("op")), others)
            return await op(meta, payload)

        return answer

    async def close(self) -> None:
        """End what is under way; nothing of it is left."""
        tasks = [each.task for each in self._snapshots.values() if each.task is not None]
        for each in self._snapshots.values():
            self._end(each)
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_S)

    async def begin(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"path": absolute, of a folder that is not there} -> {"snapshot": its id}. Overloaded while one is made."""
        target = text(meta, "path")
        if any(each.error is None and each.done is None for each in self._snapshots.values()):
            raise Overloaded("another snapshot is being taken", {"retry_after_ms": 1000})
        made = _Snapshot(secrets.token_hex(8))
        self._snapshots[made.id] = made
        for old in list(self._snapshots)[:-_KEPT]:
            del self._snapshots[old]
        made.task = asyncio.get_running_loop().create_task(self._make(made, target))
        return {"snapshot": made.id}, ()

    async def state(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"snapshot"} -> {"state": "running", "done" or "failed", "at": [what, done, total], "done", "failure"}."""
        return self._find(text(meta, "snapshot")).told(), ()

    async def stop(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"snapshot"} -> {}: nothing of it is left, if it was not done already."""
        found = self._find(text(meta, "snapshot"))
        self._end(found)
        if found.task is not None:
            await asyncio.wait([found.task])
        return {}, ()

    async def check(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"version", "set"} -> {"findings", "rows", "done", "total", "next": [version, set] or null}.

        Audits a piece of what is in memory, see warm_audit.py; [0, 0] is the first one.
        """
        return await self._warm.piece(integer(meta, "version", U32), integer(meta, "set", U32)), ()

    async def _make(self, made: _Snapshot, target: str) -> None:
        began = asyncio.get_running_loop().time()
        try:
            await self._parts.threads.bulk(self._parts.store.flush_all)
            if made.stopped:
                raise NotReady("the snapshot was stopped")
            told = await asyncio.to_thread(self._run, made, target)
            seconds = asyncio.get_running_loop().time() - began
            made.done = {**told, "seconds": round(seconds, 3)}
            log.info("snapshot at position %d in %s, %.1f s", told["position"], told["path"], seconds)
        except ConfigError as error:
            made.error = MalformedRequest(str(error))
        except Exception as error:
            made.error = NotReady("the snapshot was stopped") if made.stopped else service_error(error)
        if made.error is not None:
            log.warning("no snapshot in %s: %s", target, made.error)

    def _run(self, made: _Snapshot, target: str) -> dict[str, Any]:
        """In a thread: starting a process takes its time, too."""

        def tell(what: str, done: int, total: int) -> None:
            made.at = [what, done, total]

        made.errand = Errand("snapshot", {"cold": self._cold.model_dump_json(), "target": target})
        if made.stopped:
            made.errand.stop()
        return made.errand.run(tell)

    def _find(self, snapshot: str) -> _Snapshot:
        found = self._snapshots.get(snapshot)
        if found is None:
            raise UnknownTable(
                f"there is no snapshot {snapshot[:40]!r} since the owner started", {"snapshot": snapshot}
            )
        return found

    def _end(self, made: _Snapshot) -> None:
        made.stopped = True
        if made.errand is not None and made.done is None:
            with contextlib.suppress(ProcessLookupError):
                made.errand.stop()
