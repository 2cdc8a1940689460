"""The owner's parts, put together: what is opened in which order, and closed in the reverse. Runs on the loop."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable, Mapping
from functools import partial

from embcache.config import Settings
from embcache.host.arena import Arena
from embcache.host.ring import new_ring
from embcache.local import frames
from embcache.named import warnings
from embcache.owner.applier import Tiers
from embcache.owner.bring import Bringer
from embcache.owner.feed_calls import FeedCalls
from embcache.owner.feeds import Feeds
from embcache.owner.imports import Imports
from embcache.owner.intake import Intake
from embcache.owner.lineage import Lineage
from embcache.owner.memory import Memory
from embcache.owner.operations import Operations
from embcache.owner.parts import Parts
from embcache.owner.payoffs import Payoffs
from embcache.owner.prefetches import Prefetches
from embcache.owner.reads import Reads, Targets
from embcache.owner.rings import Rings
from embcache.owner.server import Greeting, Server
from embcache.owner.snapshot_calls import SnapshotCalls
from embcache.owner.stats import Stats
from embcache.owner.sweeper import Sweeper
from embcache.owner.tables import Tables
from embcache.owner.threads import StoreThreads, log
from embcache.owner.warm_keep import WarmKeep
from embcache.owner.warm_start import WarmStart
from embcache.spec import TableSpec
from embcache_storage.store import RowStore

_ROOM_TO_OPEN = 32 << 20  # bytes on the disk
_APPLY_S = 1.0  # for updates at the end; the log keeps the rest


class Owner:
    """The one writer of a data folder: its store, its arena and its socket."""

    def __init__(self, store: RowStore, arena: Arena, settings: Settings) -> None:
        """Takes over an open store and a writable arena that no version is in."""
        self._arena = arena
        self._folder = settings.cold.path
        self._settings = settings
        self.stuck = asyncio.Event()  # whoever runs this owner should end it, and start another
        threads = StoreThreads(self._stuck)
        memory = Memory(arena, huge_pages=settings.warm.huge_pages)
        tables = Tables(store, threads, memory, arena.publish_generation, lambda: self.parts.intake)
        memory.fixed = partial(_fixed_share, tables, settings.warm.fixed_bytes)
        self._payoffs = Payoffs(memory, move=settings.warm.shares == "curve")
        reads = Reads(store, threads, Targets(tables.find, memory.region, lambda: arena.position))
        feeds = Feeds()
        told = (memory.replace, reads.overtaken, feeds, arena.publish_position)
        tiers = Tiers(tables.find, tables.apply, memory.read, *told)
        intake = Intake(store, threads, tiers, settings.updates, self.stuck.set)
        imports = Imports(store, threads, tables, settings.owner.import_idle_s)
        self._lineage = Lineage.here(store.identity, settings.updates.durability == "interval")
        folder, every_s = settings.cold.path, settings.warm.keep_every_s
        bringer = Bringer(memory, reads, tables.find)
        start = WarmStart(folder, threads, bringer, tables)
        self._keep = WarmKeep(folder, every_s, threads, memory, tables, start)
        self.parts = Parts(
            store, threads, memory, tables, reads, imports, intake, feeds, bringer, start, Prefetches(bringer)
        )
        self.rings = Rings(memory)
        stats = Stats(self.parts, lambda: len(self.server.connections), self._payoffs.told)
        self._operations = Operations(self.parts, stats)
        self._snapshots = SnapshotCalls(self.parts, settings.cold)
        self._sweeper = Sweeper(self.parts, settings.updates.sweep_every_s)
        self.server = Server(settings.cold.path, self._greet)
        self._watches: list[asyncio.Task[None]] = []

    async def start(self, declared: Iterable[TableSpec]) -> None:
        """Take up the tables, create the declared ones, and listen."""
        parts = self.parts
        await parts.tables.load(self._lineage)
        await parts.intake.start()
        await parts.tables.open(declared)
        for warning in warnings(self._settings, {version.spec.name for version in parts.tables.versions()}):
            log.warning("%s", warning)
        self._keep.begin()
        watched = (
            *(self.rings, parts.imports, parts.memory, parts.tables, parts.feeds),
            *(self._sweeper, self._keep, parts.prefetches, self._payoffs),
        )
        watches = [each.watch() for each in watched]
        self._watches = [asyncio.get_running_loop().create_task(watch) for watch in watches]
        self.server.start()

    async def stop(self, grace_s: float) -> None:
        """Stop listening, finish what was asked within `grace_s` seconds, then close everything, the store last."""
        self.parts.feeds.close()  # their calls wait for news, and positions for their readers
        await self.server.stop(grace_s)
        await self._snapshots.close()
        for watch in self._watches:
            watch.cancel()
        if self._watches:
            await asyncio.wait(self._watches)
        await self._keep.close()
        parts = self.parts
        await parts.imports.abort_all()
        if await parts.intake.stop(min(grace_s, _APPLY_S)):
            await parts.tables.close()
        await parts.reads.drain()
        self._arena.kill()  # while the store is still ours: another owner's rows may be newer
        parts.threads.close()
        parts.store.close()

    def _stuck(self) -> None:
        """The store has to be opened anew. Not while the disk is full: that would fail, and as it is reads go on."""
        if shutil.disk_usage(self._folder).free >= _ROOM_TO_OPEN and not self.stuck.is_set():
            log.error("the store writes nothing more after the disk was full: the owner has to start anew")
            self.stuck.set()

    def _greet(self) -> Greeting:
        fds = [self._arena.readonly_fd()]
        try:
            fds.append(new_ring())
            ring = self.rings.add(fds[1])
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        meta = {
            "ok": True,
            "protocol": frames.PROTOCOL,
            "history": self.parts.tables.history,
            "generation": self.parts.tables.generation,
            "pid": os.getpid(),
        }
        feed = FeedCalls(self.parts.feeds, ring)

        def on_close() -> None:
            feed.link_ended()
            self.rings.remove(ring)

        return Greeting(meta, fds, self._snapshots.beside(self._operations.of(feed)), on_close)


def _fixed_share(tables: Tables, fixed: Mapping[str, int], number: int) -> int | None:
    """The bytes of the warm tier that the settings give a version: to the live one of a table."""
    name = tables.live_in(number)
    return None if name is None else fixed.get(name)
