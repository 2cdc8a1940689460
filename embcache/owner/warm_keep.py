"""Keeping which rows are in memory: a list of ids for each live version (kept_ids.py), every now and then and at the
end, for the warm start of the next owner. Runs on the loop; lists are written in a thread.

Invariant: a list is written anew only once the rows of the list before it have come back (warm_start.py), or an owner
that ends soon after its start would keep the little that it has got so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Final

from embcache.owner import kept_ids
from embcache.owner.by_use import Listed, by_use
from embcache.owner.catalogue import LIVE, Version
from embcache.owner.memory import Memory
from embcache.owner.tables import Tables
from embcache.owner.threads import StoreThreads, log
from embcache.owner.warm_start import WarmStart

_AT_THE_END_S: Final = 3.0


class WarmKeep:
    """Keeps an owner's lists. `every_s` 0: keeps none, and removes those that are there."""

    def __init__(
        self, folder: Path, every_s: float, threads: StoreThreads, memory: Memory, tables: Tables, start: WarmStart
    ) -> None:
        """In a data folder, of the versions whose rows `start` has brought back."""
        self._folder = folder
        self._every_s = every_s
        self._threads = threads
        self._memory = memory
        self._tables = tables
        self._start = start
        self._begun = False

    def begin(self) -> None:
        """Once the tables have their memory, and before anybody asks."""
        if self._every_s:
            self._start.begin()
            self._begun = True

    async def watch(self) -> None:
        """Bring back what was kept, and keep what is there, for as long as it runs."""
        if not self._every_s:
            await self._tidy(())
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start.run())
            group.create_task(self._keep_on())

    async def close(self) -> None:
        """Keep what is there at the end, once `watch` has ended; for some seconds at most."""
        if self._begun:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AT_THE_END_S):
                    await self._keep()

    async def _keep_on(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._keep()

    async def _keep(self) -> None:
        try:
            live = [version for version in self._tables.versions() if version.state == LIVE]
            await self._tidy([version.number for version in live if await self._keep_one(version)])
        except Exception as error:  # a full disk, mostly
            log.warning("which rows are in memory is not kept: %s", error)

    async def _keep_one(self, version: Version) -> bool:
        """Keep a version's list, the one before it where that is better -> whether it has one."""
        if self._start.is_under_way(version.number):
            return True
        listed = await by_use(self._memory, version.number)
        if not listed.whole:
            return True
        if listed.ids:
            await self._write(version, listed)
        return bool(listed.ids)

    async def _write(self, version: Version, listed: Listed) -> None:
        stopped = threading.Event()
        path = kept_ids.path_of(self._folder, version.number)
        try:
            order = (path, version.number, version.spec.name, listed.pieces, stopped)
            await self._threads.bulk(kept_ids.write, *order)
        except asyncio.CancelledError:
            stopped.set()
            raise

    async def _tidy(self, versions: list[int] | tuple[()]) -> None:
        try:
            await self._threads.bulk(kept_ids.tidy, self._folder, versions)
        except OSError as error:
            log.warning("%s cannot be tidied: %s", self._folder / kept_ids.FOLDER, error)
