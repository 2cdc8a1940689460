"""Warm start: the rows that were in memory when the last owner kept its lists (warm_keep.py) come back in the
background, those of most use first. Runs on the loop.

They are brought as all rows are that nobody waits for (bring.py): an update that comes meanwhile overtakes them, and
an id that was deleted is marked absent. They take places that are free and push nothing out: a row that a lookup
brought meanwhile stays, however little use is known of it. One piece is under way at a time, of each table in turn;
while lookups wait for the disk, there is a pause as long as a piece took: they have the other half.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from embcache.host.tables import FILL
from embcache.owner import kept_ids
from embcache.owner.bring import Bringer
from embcache.owner.by_use import CLASSES
from embcache.owner.catalogue import LIVE, Version
from embcache.owner.flight import Ids
from embcache.owner.tables import Tables
from embcache.owner.threads import StoreThreads, log

_LEAST_PAUSE_S: Final = 0.001

LISTING, COMING, DONE = "listing", "coming", "done"


@dataclass(slots=True)
class Return:
    """One version's rows on their way back: `kept` are on its list, `tried` were looked after, `back` are in memory.

    line: (use, ids) of each piece that is still to come.
    """

    version: Version
    state: str = LISTING
    line: deque[tuple[int, Ids]] = field(default_factory=deque)
    kept: int = 0
    tried: int = 0
    back: int = 0
    room: int = 0

    @property
    def wanted(self) -> int:
        """How many can be in memory again: without those that have no row any more, or find no place."""
        return self.back if self.state == DONE else min(self.kept - (self.tried - self.back), self.room)

    def end(self) -> None:
        """Whatever is not back stays away."""
        self.line.clear()
        self.state = DONE

    def to_json(self) -> dict[str, Any]:
        return {
            "table": self.version.spec.name,
            "version": self.version.label,
            "state": self.state,
            "kept": self.kept,
            "wanted": self.wanted,
            "back": self.back,
        }


class WarmStart:
    """That of one owner."""

    def __init__(self, folder: Path, threads: StoreThreads, bringer: Bringer, tables: Tables) -> None:
        """By the lists in a data folder."""
        self._folder = folder
        self._threads = threads
        self._bringer = bringer
        self._tables = tables
        self._returns: dict[int, Return] = {}

    def begin(self) -> None:
        """Note whose rows are to come back: the versions that are live at the start. Before anybody can ask."""
        self._returns = {v.number: Return(v) for v in self._tables.versions() if v.state == LIVE}

    def is_under_way(self, version: int) -> bool:
        """Whether rows of a version are still to come: what it has in memory is not what it had."""
        found = self._returns.get(version)
        return found is not None and found.state != DONE

    def brings_rows_in_use(self, version: int) -> bool:
        """Whether rows of a version are still to come that were in use: those come first."""
        found = self._returns.get(version)
        return found is not None and (found.state == LISTING or bool(found.line and found.line[0][0]))

    def progress(self) -> list[dict[str, Any]]:
        """For each version that was live at the start {"table", "version", "state", "kept", "wanted", "back"}.

        state: "listing" before its list was read, "coming", "done". kept, wanted, back: ids on the list, of how many
        rows can be in memory again as far as is known, of how many are.
        """
        return [each.to_json() for each in self._returns.values()]

    def counts(self, version: int) -> dict[str, int]:
        """{"kept", "wanted", "back"} of a version; zeros for one that was not live at the start."""
        found = self._returns.get(version)
        return {name: getattr(found, name) if found else 0 for name in ("kept", "wanted", "back")}

    async def run(self) -> None:
        """Bring back what there is room for, and end."""
        began = asyncio.get_running_loop().time()
        try:
            await self._bring_all()
        except Exception:  # lookups bring their rows themselves
            log.exception("the warm start ended early")
        for each in self._returns.values():
            each.end()
        if any(each.kept for each in self._returns.values()):
            back, kept = (sum(getattr(each, name) for each in self._returns.values()) for name in ("back", "kept"))
            took = asyncio.get_running_loop().time() - began
            log.info("warm start: %d of %d rows that were in memory are there again after %.1f s", back, kept, took)

    async def _bring_all(self) -> None:
        for each in self._returns.values():
            await self._list(each)
        while busy := [each for each in self._returns.values() if each.state != DONE]:
            for each in busy:
                await self._turn(each)

    async def _list(self, each: Return) -> None:
        version, ids = each.version, list[Ids]()
        path = kept_ids.path_of(self._folder, version.number)
        with contextlib.suppress(FileNotFoundError):
            try:
                ids = await self._threads.bulk(kept_ids.read, path, version.number, version.spec.name)
            except (kept_ids.UselessListError, OSError) as error:
                if isinstance(error, FileNotFoundError):
                    raise
                log.warning("%s is ignored, and %s begins cold: %s", path, version.spec.name, error)
        each.kept = each.room = sum(some.size for some in ids)
        for place, some in enumerate(ids):  # of each use, the most first
            each.line.extend((CLASSES - 1 - place, piece) for piece in self._bringer.pieces(version.number, some))
        each.state = COMING if each.line else DONE

    async def _turn(self, each: Return) -> None:
        """Bring one piece of a version back, unless there is a reason not to."""
        number = each.version.number
        current = self._tables.find(number)
        if current is None or current.state != LIVE or not each.line:
            each.end()
            return
        began = asyncio.get_running_loop().time()
        use, ids = each.line[0]
        try:
            brought = await self._bringer.bring(number, ids, use)
        except Exception:
            log.exception("no more rows of %s are brought back", each.version.spec.name)
            brought = None
        if brought is None:  # or the version is gone
            each.end()
            return
        each.line.popleft()
        each.tried += ids.size
        each.back += int(np.count_nonzero(brought.region.read(ids)[1]))
        each.room = int(brought.region.region.slots * FILL)
        if len(brought.region) >= each.room:
            each.end()
            return
        took = asyncio.get_running_loop().time() - began
        await asyncio.sleep(max(took, _LEAST_PAUSE_S) if brought.shared else _LEAST_PAUSE_S)
