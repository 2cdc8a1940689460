"""The committer: appends entries to the update log, many with one sync, and answers for each once it is safe.

Safe is durable, or, with durability "interval", in the log: then a timer syncs, and power loss may take what was
answered since. Openings of producers and changes of tables are synced at once all the same: a lost opening would let
an older process of the name push on.

Order. All on the loop, but for the log's own calls:
1. `push` judges a batch against what is accepted, gives it the next position, and puts it in line. No await in it, so
   that no other batch comes between the judgement and the place in line.
2. One task takes all that stand in line, appends them and syncs, in a thread. What comes meanwhile waits for the next
   turn: one sync for all of it.
3. Entries that are safe go to the applier, in order; then whoever pushed them, or the same batch again, is answered.
If the log fails, everything in line fails with it, later batches too, since they were judged as if the failed ones had
been accepted: the log takes back what was appended, the producers' state goes back to what is in the log, and positions
are given again. Nothing of it was acknowledged. Where the log cannot even take back (a disk that filled up under it), a
restart may find those entries and count them: then who pushed them is not told that nothing was accepted, but to ask
again (NotReady).

Invariant: durable <= logged <= accepted; an answer comes only for positions up to `logged`, whose content never
changes; with durability "sync" `logged` is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from embcache.config import Updates
from embcache.errors import EmbcacheError, NotReady, Overloaded
from embcache.host import expiry
from embcache.owner.catalogue import TableChange
from embcache.owner.entries import Entry, to_payload
from embcache.owner.producers import Producer, Producers
from embcache.owner.threads import StoreThreads, log, service_error
from embcache.owner.updates import Batch, RowsChange, Sweep
from embcache_storage.log import UpdateLog
from embcache_storage.store import StoreError

Resolve: TypeAlias = Callable[[], tuple[RowsChange, ...]]


@dataclass(frozen=True, slots=True)
class Accepted:
    """Where an entry stands in the order of all, and for a batch the producer's state after it."""

    position: int
    entry: Entry
    producer: Producer | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a push. `duplicate`: it had been accepted before."""

    position: int
    duplicate: bool


@dataclass(slots=True)
class _Waiting:
    accepted: Accepted
    must_sync: bool
    safe: asyncio.Future[None]


class Committer:
    """Takes entries in; every method runs on the loop."""

    def __init__(
        self,
        update_log: UpdateLog,
        threads: StoreThreads,
        producers: Producers,
        hand_on: Callable[[list[Accepted]], None],
        bounds: Updates,
    ) -> None:
        """`hand_on` gets safe entries, in order."""
        self._log = update_log
        self._threads = threads
        self._producers = producers
        self._hand_on = hand_on
        self._max_waiting = bounds.waiting_bytes
        self._interval_s = bounds.sync_interval_s if bounds.durability == "interval" else None
        self._logged_state = dict(producers.accepted)
        self._line: list[_Waiting] = []
        self._flying: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._broken = False
        self._waiting_bytes = 0
        self._now = 0  # in ms since 1970: batches are accepted at times in the order of their positions
        self.logged = self.durable = update_log.last

    @property
    def accepted(self) -> int:
        """The position of the newest entry that was accepted, safe or not."""
        return self.logged + len(self._flying) + len(self._line)

    async def push(self, batch: Batch, resolve: Resolve) -> Receipt:
        """Accept a batch without its changes, once; returns when it is safe.

        `resolve` gives its changes, by the tables as they are in this step; it is not asked about a duplicate, whose
        tables may be gone. Its errors; Fenced, SequenceGap, Conflict; Overloaded when too much waits; StorageFull and
        the log's other errors.
        """
        duplicate = self._producers.is_duplicate(batch)
        if duplicate:
            position = self._producers.get(batch.producer).position
        else:
            self._now = max(self._now, expiry.now_ms())
            position = self._enter_batch(dataclasses.replace(batch, changes=resolve(), at=self._now), must_sync=False)
        await self._until_safe(position)
        return Receipt(position, duplicate)

    async def open(self, name: str) -> Producer:
        """Open a producer: raise its epoch, durably. MalformedRequest for a bad name, and the log's errors.

        An opening is an entry of the log like a batch: it stands in one order with the batches of older epochs, those
        before it that fail with it included.
        """
        state = self._producers.get(name)
        opening = Batch(name, self._producers.next_epoch(name), state.last_seq, state.mark, state.digest, ())
        position = self._enter_batch(opening, must_sync=True)
        opened = self._producers.get(name)
        await self._until_safe(position)
        return opened

    async def order(self, change: TableChange) -> int:
        """Give a change of tables its position; returns when it is durable."""
        position = self._enter(change, None, must_sync=True)
        await self._until_safe(position)
        return position

    async def release(self, batch: Batch) -> int:
        """Give what is left of a batch that was set aside its position; returns when it is durable."""
        self._now = max(self._now, expiry.now_ms())
        position = self._enter(dataclasses.replace(batch, at=self._now), None, must_sync=True)
        await self._until_safe(position)
        return position

    async def sweep(self, sweep: Sweep) -> int:
        """Give a sweep its position; returns when it is safe."""
        position = self._enter(sweep, None, must_sync=False)
        await self._until_safe(position)
        return position

    def forget(self, names: Iterable[str]) -> None:
        """Producers of whom nothing stands in line are as if they had never opened, but for their epochs."""
        for name in names:
            forgotten = self._producers.accepted.pop(name)
            self._producers.floor = max(self._producers.floor, forgotten.epoch)
            self._logged_state.pop(name, None)

    async def drain(self) -> None:
        """Until nothing stands in line, and what was answered is durable as far as the disk allows."""
        while waiting := (*self._flying, *self._line):
            with contextlib.suppress(EmbcacheError):
                await asyncio.shield(waiting[-1].safe)
        await self._sync()

    async def run(self) -> None:
        """Commits what is pushed, for as long as it runs."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._line:
                await self._commit()

    async def sync_regularly(self) -> None:
        """With durability "interval": syncs what was answered before, for as long as it runs."""
        while self._interval_s is not None:
            await asyncio.sleep(self._interval_s)
            await self._sync()

    async def _sync(self) -> None:
        logged = self.logged
        if self.durable == logged:
            return
        try:
            await self._threads.append(self._log.sync)
        except Exception as error:
            log.error("updates up to position %d are not safe from power loss: %s", logged, error)
            return
        self.durable = max(self.durable, logged)

    async def _until_safe(self, position: int) -> None:
        for waiting in (*self._flying, *self._line):
            if waiting.accepted.position == position:
                await asyncio.shield(waiting.safe)

    def _enter_batch(self, batch: Batch, *, must_sync: bool) -> int:
        if self._waiting_bytes and self._waiting_bytes + batch.nbytes > self._max_waiting:
            raise Overloaded("too many updates wait for the disk already", {"retry_after_ms": 100})
        state = self._producers.accept(batch, self.accepted + 1, time.time())
        return self._enter(batch, state, must_sync)

    def _enter(self, entry: Entry, producer: Producer | None, must_sync: bool) -> int:
        position = self.accepted + 1
        safe = asyncio.get_running_loop().create_future()
        safe.add_done_callback(_looked_at)
        self._line.append(_Waiting(Accepted(position, entry, producer), must_sync, safe))
        self._waiting_bytes += entry.nbytes
        self._arrived.set()
        return position

    async def _commit(self) -> None:
        self._flying, self._line = self._line, []
        entries = [waiting.accepted.entry for waiting in self._flying]
        must_sync = self._interval_s is None or any(waiting.must_sync for waiting in self._flying)
        try:
            await self._threads.append(self._append, entries, must_sync)
        except Exception as error:
            self._fail(error)
            return
        done, self._flying = self._flying, []
        self.logged += len(done)
        if must_sync:
            self.durable = self.logged
        for waiting in done:
            self._waiting_bytes -= waiting.accepted.entry.nbytes
        self._logged_state.update(states(waiting.accepted for waiting in done))
        self._hand_on([waiting.accepted for waiting in done])
        for waiting in done:
            waiting.safe.set_result(None)

    def _append(self, entries: list[Entry], must_sync: bool) -> None:
        """In a thread: append, and sync if need be, or leave the log as it was."""
        if self._broken:  # a failed turn's entries stand there still, or may
            self._log.retract(self.logged)
            self._broken = False
        try:
            self._log.append([to_payload(entry) for entry in entries])
            if must_sync:
                self._log.sync()
        except BaseException as error:
            self._broken = True
            try:
                self._log.retract(self.logged)
            except StoreError as still:
                if self._log.holds(self.logged + 1):
                    raise _Unknown(error) from still
            else:
                self._broken = False
            raise

    def _fail(self, error: Exception) -> None:
        failed = self._flying + self._line
        self._flying, self._line, self._waiting_bytes = [], [], 0
        self._producers.accepted = dict(self._logged_state)
        log.warning("%d entries of the update log were not accepted: %s", len(failed), error)
        told = service_error(error)
        if isinstance(error, _Unknown):
            told = NotReady(
                f"whether this was accepted is not known yet, send the very same again: {error}",
                {"retry_after_ms": 1000},
            )
        for waiting in failed:
            waiting.safe.set_exception(told)


class _Unknown(Exception):
    """Entries are in the log, or not, and cannot be taken back."""


def states(entries: Iterable[Accepted]) -> dict[str, Producer]:
    """The producers' states after entries, by name."""
    return {
        accepted.entry.producer: accepted.producer
        for accepted in entries
        if isinstance(accepted.entry, Batch) and accepted.producer is not None
    }


def _looked_at(future: asyncio.Future[None]) -> None:
    """Whoever waited may be gone: an error that nobody hears is no fault."""
    if not future.cancelled():
        future.exception()
