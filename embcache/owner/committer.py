"""The committer: appends batches to the update log, many with one sync, and answers for each once it is durable.

Order. All on the loop, but for the log's own calls:
1. `push` judges a batch against what is accepted, gives it the next position, and puts it in line. No await in it, so
   that no other batch comes between the judgement and the place in line.
2. One task takes all that stand in line, appends them and syncs, in a thread. What comes meanwhile waits for the next
   turn: one sync for all of it.
3. Durable batches go to the applier, in order; then whoever pushed them, or the same batch again, is answered.
If the log fails, everything in line fails with it, later batches too, since they were judged as if the failed ones had
been accepted: the log takes back what was appended, the producers' state goes back to what is durable, and positions
are given again. Nothing of it was acknowledged.

Invariant: durable <= accepted; a position up to `durable` never changes its content; an answer comes only for durable
positions.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from embcache.errors import EmbcacheError, Overloaded
from embcache.owner.producers import Producer, Producers
from embcache.owner.threads import StoreThreads, log, service_error
from embcache.owner.updates import Batch, to_payload
from embcache_storage.log import UpdateLog


@dataclass(frozen=True, slots=True)
class Accepted:
    """Where a batch stands in the order of all, and the producer's state after it."""

    position: int
    batch: Batch
    producer: Producer


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a push. `duplicate`: it had been accepted before."""

    position: int
    duplicate: bool


@dataclass(slots=True)
class _Waiting:
    accepted: Accepted
    durable: asyncio.Future[None]


class Committer:
    """Takes batches in; every method runs on the loop."""

    def __init__(
        self,
        update_log: UpdateLog,
        threads: StoreThreads,
        producers: Producers,
        hand_on: Callable[[list[Accepted]], None],
        max_waiting_bytes: int,
    ) -> None:
        """`hand_on` gets durable batches, in order. `max_waiting_bytes`: of batches that are not durable yet."""
        self._log = update_log
        self._threads = threads
        self._producers = producers
        self._hand_on = hand_on
        self._max_waiting = max_waiting_bytes
        self._durable_state = dict(producers.accepted)
        self._line: list[_Waiting] = []
        self._flying: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._broken = False
        self._waiting_bytes = 0
        self.durable = update_log.last

    @property
    def accepted(self) -> int:
        """The position of the newest batch that was accepted, durable or not."""
        return self.durable + len(self._flying) + len(self._line)

    async def push(self, batch: Batch) -> Receipt:
        """Accept a batch, once; returns when it is durable.

        Fenced, SequenceGap, Conflict; Overloaded when too much waits; StorageFull and the log's other errors.
        """
        duplicate = self._producers.is_duplicate(batch)
        position = self._producers.get(batch.producer).position if duplicate else self._enter(batch)
        await self._until_durable(position)
        return Receipt(position, duplicate)

    async def open(self, name: str) -> Producer:
        """Open a producer: raise its epoch, durably. MalformedRequest for a bad name, and the log's errors.

        An opening is an entry of the log like a batch: it stands in one order with the batches of older epochs, those
        before it that fail with it included.
        """
        state = self._producers.get(name)
        opening = Batch(name, state.epoch + 1, state.last_seq, state.mark, state.digest, ())
        position = self._enter(opening)
        opened = self._producers.get(name)
        await self._until_durable(position)
        return opened

    async def drain(self) -> None:
        """Until nothing stands in line."""
        while waiting := (*self._flying, *self._line):
            with contextlib.suppress(EmbcacheError):
                await asyncio.shield(waiting[-1].durable)

    async def _until_durable(self, position: int) -> None:
        for waiting in (*self._flying, *self._line):
            if waiting.accepted.position == position:
                await asyncio.shield(waiting.durable)

    async def run(self) -> None:
        """Commits what is pushed, for as long as it runs."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._line:
                await self._commit()

    def _enter(self, batch: Batch) -> int:
        if self._waiting_bytes and self._waiting_bytes + batch.nbytes > self._max_waiting:
            raise Overloaded("too many updates wait for the disk already", {"retry_after_ms": 100})
        position = self.accepted + 1
        state = self._producers.accept(batch, position, time.time())
        durable = asyncio.get_running_loop().create_future()
        durable.add_done_callback(_looked_at)
        self._line.append(_Waiting(Accepted(position, batch, state), durable))
        self._waiting_bytes += batch.nbytes
        self._arrived.set()
        return position

    async def _commit(self) -> None:
        self._flying, self._line = self._line, []
        batches = [waiting.accepted.batch for waiting in self._flying]
        try:
            await self._threads.append(self._append, batches)
        except Exception as error:
            self._fail(error)
            return
        done, self._flying = self._flying, []
        self.durable += len(done)
        for waiting in done:
            self._waiting_bytes -= waiting.accepted.batch.nbytes
            self._durable_state[waiting.accepted.batch.producer] = waiting.accepted.producer
        self._hand_on([waiting.accepted for waiting in done])
        for waiting in done:
            waiting.durable.set_result(None)

    def _append(self, batches: list[Batch]) -> None:
        """In a thread: append and sync, or leave the log as it was."""
        if self._broken:  # a failed turn's entries stand there still, or may
            self._log.retract(self.durable)
            self._broken = False
        try:
            self._log.append([to_payload(batch) for batch in batches])
            self._log.sync()
        except BaseException:
            self._broken = True
            self._log.retract(self.durable)
            self._broken = False
            raise

    def _fail(self, error: Exception) -> None:
        failed = self._flying + self._line
        self._flying, self._line, self._waiting_bytes = [], [], 0
        self._producers.accepted = dict(self._durable_state)
        log.warning("%d batches of updates were not accepted: %s", len(failed), error)
        for waiting in failed:
            waiting.durable.set_exception(service_error(error))


def _looked_at(future: asyncio.Future[None]) -> None:
    """Whoever waited may be gone: an error that nobody hears is no fault."""
    if not future.cancelled():
        future.exception()
