"""Updates as the owner takes them: producers, committer and applier as one thing. Every method runs on the loop.

Batches name tables; they are resolved to versions when they are accepted. So while a change of tables is decided on,
stands in the log and is applied, no batch is accepted (`closed`): what stands before it in the log was judged by the
tables before it, and what follows by those after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from embcache.config import Updates
from embcache.errors import DeadlineExceeded, Overloaded, StorageCorrupt, StorageFull
from embcache.owner.applier import CURSOR, Applier, Cursor, Tiers
from embcache.owner.catalogue import TableChange
from embcache.owner.committer import Accepted, Committer, Receipt, Resolve
from embcache.owner.entries import from_payload
from embcache.owner.marks import Marker
from embcache.owner.producers import FLOOR, META, Producer, Producers
from embcache.owner.quarantine import HEAD, SCANNED, Quarantine, head_key
from embcache.owner.threads import StoreThreads, log
from embcache.owner.updates import Batch, RowsChange
from embcache_storage.log import UpdateLog
from embcache_storage.store import RowStore, StoreError

_READ_BYTES = 16 << 20  # of the log at once, when it is taken up
_TRIM_EVERY_S = 5.0
_FORGET_EVERY_S = 3600.0
_CLOSED_S = 5.0  # who pushes waits so long for a change of tables


class Intake:
    """Takes batches in, once each, and sees to it that they are applied."""

    def __init__(
        self, store: RowStore, threads: StoreThreads, tiers: Tiers, bounds: Updates, broken: Callable[[], None]
    ) -> None:
        """`broken` is called when something unforeseen has ended the committer or the applier."""
        self._store = store
        self._log: UpdateLog = store.log
        self._threads = threads
        self._tiers = tiers
        self._bounds = bounds
        self._broken = broken
        self.quarantine = Quarantine(store, bounds.quarantine_bytes)
        self.marker = Marker(self.quarantine, threads)
        self._open = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take up where the log and the rows stand; returns when all of the log is applied.

        StorageCorrupt where the log lacks entries that are not applied.
        """
        cursor = Cursor.from_bytes(await self._threads.apply(self._store.get_meta, CURSOR))
        if not self._log.first - 1 <= cursor.position <= self._log.last:
            raise StorageCorrupt(
                f"updates are applied up to position {cursor.position}, and the log holds {self._log.first} to "
                f"{self._log.last}: restore the data folder from a copy"
            )
        metas = await self._threads.apply(self._store.metas, META)
        floor = await self._threads.apply(self._store.get_meta, FLOOR)
        known = {key[len(META) :]: Producer.from_bytes(value) for key, value in metas.items()}
        self.producers = Producers(known, int(floor or 0))
        heads = await self._threads.apply(self._store.metas, HEAD)
        self.quarantine.load(heads, await self._threads.apply(self._store.get_meta, SCANNED))
        self.applier = Applier(self._store, self._threads, self._tiers, cursor, self.quarantine)
        self._tiers.publish(cursor.position)
        self._run(self.applier.run())
        await self._take_up(cursor.position)
        self.committer = Committer(self._log, self._threads, self.producers, self.applier.hand_on, self._bounds)
        self._run(self.committer.run())
        self._run(self.committer.sync_regularly())
        self._run(self._trim())
        self._run(self._forget())
        self._open.set()

    async def stop(self, grace_s: float) -> bool:
        """Make what was accepted durable, and apply what can be within `grace_s` seconds; the next start does the rest.

        Nobody may push any more. Returns whether all that was answered is durable.
        """
        if self._open.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self.committer.drain()
                    await self.applier.wait(self.committer.logged)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        return self._open.is_set() and self.committer.durable == self.committer.logged

    @property
    def accepts(self) -> bool:
        """False while tables are changed, or before the log is taken up: who pushes waits then."""
        return self._open.is_set()

    @property
    def oldest_wait_s(self) -> float:
        """How long the oldest batch that is in the log and not applied has been so."""
        heard = self.applier.oldest
        return 0.0 if heard is None else max(0.0, time.time() - heard)

    async def push(self, batch: Batch, resolve: Resolve) -> Receipt:
        """Accept a batch, see `Committer.push`."""
        await self._until_open()

        def admitted() -> tuple[RowsChange, ...]:  # asked about new batches alone
            if self.applier.waiting_bytes > self._bounds.waiting_bytes:
                raise Overloaded("updates come faster than they can be applied", {"retry_after_ms": 200})
            changes = resolve()
            self._check_quarantine(batch.producer, changes)
            return changes

        return await self.committer.push(batch, admitted)

    async def open(self, name: str) -> Producer:
        """Open a producer, see `Committer.open`."""
        await self._until_open()
        return await self.committer.open(name)

    async def wait_applied(self, position: int, timeout_s: float) -> None:
        """Until a position is applied. DeadlineExceeded at once for one that was never accepted."""
        if position > self.committer.accepted:
            raise DeadlineExceeded(
                f"position {position} was never accepted; the newest is {self.committer.accepted}",
                {"min_position": position, "position": self.applier.applied},
            )
        try:
            async with asyncio.timeout(timeout_s):
                await self.applier.wait(position)
        except TimeoutError:
            raise DeadlineExceeded(
                f"position {position} was not applied within {timeout_s:g} s; {self.applier.applied} is",
                {"min_position": position, "position": self.applier.applied},
            ) from None

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Within the block no batch is accepted. One block at a time."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def order(self, change: TableChange) -> int:
        """Make a change of tables, as the entry of the log that follows all that was accepted; -> its position.

        Raises the log's errors, and the change is not made then.
        """
        position = await self.committer.order(change)
        await self.applier.wait(position)
        return position

    def _check_quarantine(self, producer: str, changes: Sequence[RowsChange]) -> None:
        """StorageFull where the quarantine has no room and the producer has batches there: another one may be over.

        What was acknowledged is kept all the same, which is as much more as may wait to be applied, and a batch of each
        producer that has none there. All others push on.
        """
        if not self.quarantine.is_full:
            return
        count = self.quarantine.told(producer)["quarantined_count"]
        versions = (self._tiers.find(change.version) for change in changes)
        if count and any(version is not None and version.spec.max_norm is not None for version in versions):
            raise StorageFull(
                f"producer {producer!r} has {count} batches that were set aside, and updates.quarantine_bytes has no "
                "room for more: release or drop some (embcache quarantine), and push this again",
                {"quarantined": count, "retry_after_ms": 1000},
            )

    async def _until_open(self) -> None:
        """Overloaded where a change of tables takes long, as it does while the disk is full."""
        try:
            async with asyncio.timeout(_CLOSED_S):
                while not self._open.is_set():
                    await self._open.wait()
        except TimeoutError:
            raise Overloaded("tables are being changed, which takes long", {"retry_after_ms": 1000}) from None

    async def _take_up(self, position: int) -> None:
        """Apply what a crash left in the log."""
        if position < self._log.last:
            log.info("applying %d entries of the update log before anything is served", self._log.last - position)
        while position < self._log.last:
            for entry in await self._threads.append(self._log.read, position, _READ_BYTES):
                held = from_payload(entry.payload)
                state = None
                if isinstance(held, Batch) and not held.released:
                    state = self.producers.accept(held, entry.position, time.time())
                self.applier.hand_on([Accepted(entry.position, held, state)])
                position = entry.position
            await self.applier.wait(position)

    async def _trim(self) -> None:
        """Forget old entries of the log, every now and then."""
        while True:
            await asyncio.sleep(_TRIM_EVERY_S)
            since = time.time() - self._bounds.log_age_s
            try:
                upto = await self._read_for_marks()
                await self._threads.append(self._log.trim, upto, self._bounds.log_bytes, since)
                await self._forget_set_aside()
            except Exception:
                log.exception("the update log could not be trimmed")

    async def _read_for_marks(self) -> int:
        """-> the position up to which nobody needs the log."""
        async with self.quarantine.turn:
            upto = self.applier.applied
            await self.marker.scan(upto)
            return upto

    async def _forget_set_aside(self) -> None:
        """Which entries that the log has no more had changed no row."""
        if gone := self.quarantine.forgotten(self._log.first):
            await self._threads.append(self._store.commit, (), dict.fromkeys(map(head_key, gone)))
            self.quarantine.forget(gone)

    async def _forget(self) -> None:
        """Forget producers that were not heard of for long, every now and then.

        Theirs are no entries that wait: those are as young as what they say. Who opens again meanwhile is written
        by the applier's thread, which comes to that after this.
        """
        while True:
            since = time.time() - self._bounds.producer_age_s
            gone = [name for name, state in self.producers.accepted.items() if state.heard < since]
            if gone:
                self.committer.forget(gone)
                log.info("%d producers are forgotten: nothing was heard of them for long", len(gone))
                meta: dict[str, bytes | None] = {FLOOR: b"%d" % self.producers.floor}
                meta |= dict.fromkeys([META + name for name in gone])
                with contextlib.suppress(StoreError):  # they are forgotten again after the next start
                    await self._threads.apply(self._store.commit, (), meta)
            await asyncio.sleep(_FORGET_EVERY_S)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nothing would be taken in or applied any more: better to start anew, by what is in the log."""
        if not task.cancelled() and task.exception() is not None:
            log.critical("updates cannot be taken in any more: the owner has to start anew", exc_info=task.exception())
            self._broken()
