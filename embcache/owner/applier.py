"""The applier: runs the entries of the update log in order: batches become rows, in the store and then in the arena.

Work goes in pieces of a thousand rows at most, since rocksdict holds the GIL while it writes; small batches share one.
A piece's rows, the cursor behind it and the producers' state are one commit of the store: after any crash the log is
taken up exactly where the rows stand, in the middle of a batch if need be, and so `add` counts once.

Order of a piece: rows committed to the store; then, in one step of the loop, rows replaced in the arena, reads under
way told that they were overtaken (reads.py), and readers that hold rows of their own told what these are now
(feeds.py); after the last piece of a batch, its position published, once every feed has acknowledged what it was told
up to there. The applier does not wait for that, but goes on with the next pieces. A change of tables is a piece of its
own, see tables.py: the catalogue and the cursor are one commit of the store.

Batches for tables with a limit are judged (judging.py) once all before them is in the rows, and before their first
piece is made; one that is over is set aside as a whole (quarantine.py), with the cursor behind it. Once the cursor is
within a batch it was judged good, and is not judged again, whatever comes.
Invariant: what a lookup finds is at least as new as the position published before it began. Applied is what is
published, nothing less.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray

from embcache.owner.catalogue import TableChange, Version
from embcache.owner.committer import Accepted, states
from embcache.owner.computing import Outcome, Said, Work, write
from embcache.owner.feeds import Feeds
from embcache.owner.flight import Ids, Rows
from embcache.owner.guard import Guard
from embcache.owner.judging import Over
from embcache.owner.producers import META
from embcache.owner.quarantine import Quarantine
from embcache.owner.threads import StoreThreads, log
from embcache.owner.updates import Batch
from embcache_storage.store import RowStore, StoreError

CURSOR = "applied"  # the key of the cursor among the store's meta values
PIECE_ROWS = 1024  # a write of so many holds the GIL for 2 to 4 ms
PIECE_BYTES = 512 << 10  # of rows on disk
_RETRY_S = 0.5  # between tries to write what the disk has no room for
_TRIES_A_LINE = 120  # of the log

T = TypeVar("T")


class Cursor(NamedTuple):
    """How far the log is applied: all entries up to `position`, and of the next one this many changes and rows."""

    position: int = 0
    changes: int = 0
    rows: int = 0

    def to_bytes(self) -> bytes:
        packed: bytes = msgpack.packb(tuple(self))
        return packed

    @classmethod
    def from_bytes(cls, data: bytes | None) -> Cursor:
        return cls() if data is None else cls(*msgpack.unpackb(data))


@dataclass(frozen=True, slots=True)
class _Piece:
    work: Mapping[int, Work]
    cursor: Cursor
    done: Sequence[Accepted]  # batches that end in it


@dataclass(frozen=True, slots=True)
class _Unpublished:
    """Entries up to `position` whose rows are in store and arena. `heard` is when the first batch of them came."""

    position: int
    nbytes: int
    heard: float | None


@dataclass(frozen=True, slots=True)
class Tiers:
    """Whom the applier tells: `replace(version, ids, rows)` for the arena, `overtaken(version, ids)` for reads under
    way, `feeds` for rows elsewhere, `publish(position)` for all readers. `read(version, ids)` is what the arena has.
    `find(version)` is None for one that is gone. `change(change, position, meta)` makes a change of tables, whose place
    in the log that is, and keeps meta values beside it; it raises StoreErrors before anything has changed.
    """

    find: Callable[[int], Version | None]
    change: Callable[[TableChange, int, Mapping[str, bytes]], Awaitable[None]]
    read: Callable[[int, Ids], tuple[Rows, NDArray[np.bool_]] | None]
    replace: Callable[[int, Ids, Rows | None], None]
    overtaken: Callable[[int, Ids], None]
    feeds: Feeds
    publish: Callable[[int], None]


class Applier:
    """Applies what the committer hands on. Every method runs on the loop."""

    def __init__(
        self, store: RowStore, threads: StoreThreads, tiers: Tiers, cursor: Cursor, quarantine: Quarantine
    ) -> None:
        self._store = store
        self._threads = threads
        self._tiers = tiers
        self._cursor = cursor
        self._quarantine = quarantine
        judged = cursor.position + (cursor.changes > 0 or cursor.rows > 0)
        self._guard = Guard(quarantine, threads, tiers.find, tiers.read, judged)
        self._queue: deque[Accepted] = deque()
        self._unpublished: deque[_Unpublished] = deque()
        self._applied = cursor.position
        self._arrived = asyncio.Event()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self.waiting_bytes = 0
        self.rows_applied = 0
        self.rows_damaged = 0
        self.rows_swept = 0
        self.first_expiries: dict[int, int] = {}  # of rows that were written since somebody took note, by version
        self.values_saturated = 0

    @property
    def applied(self) -> int:
        """The position up to which every lookup that starts now sees everything: the one that is published."""
        return self._applied

    @property
    def oldest(self) -> float | None:
        """When the oldest batch came that is not applied, in seconds since 1970; None where all are."""
        written = (entries.heard for entries in self._unpublished)
        queued = (accepted.producer.heard for accepted in self._queue if accepted.producer)
        return next((heard for heard in itertools.chain(written, queued) if heard is not None), None)

    def hand_on(self, entries: Sequence[Accepted]) -> None:
        """Take entries that are safe in the log, in order."""
        self._queue.extend(entries)
        self.waiting_bytes += sum(accepted.entry.nbytes for accepted in entries)
        self._arrived.set()

    async def wait(self, position: int) -> None:
        """Until a position is applied."""
        if position > self.applied:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((position, waiter))
            await waiter

    async def run(self) -> None:
        """Applies entries for as long as it runs. A store that cannot write is tried again, for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                first = self._queue[0]
                if isinstance(first.entry, TableChange):
                    await self._change(first, first.entry)
                elif _released(first) and not self._quarantine.holds(_released(first)):
                    await self._pass_over(first)
                elif self._guard.must_judge(first) and (over := await self._judged()) is not None:
                    await self._set_aside(first, over)
                else:
                    await self._tiers.feeds.room()
                    await self._apply(self._next())

    def _next(self) -> _Piece:
        """The next piece: changes from the cursor on, one op for each version, up to PIECE_ROWS and PIECE_BYTES.

        Room is counted in bytes, and a row takes at least its part of a piece that is full of rows, in each version
        that it is for: all of them have the same rows of a batch, whatever piece a crash comes after.
        """
        work: dict[int, Work] = {}
        done: list[Accepted] = []
        cursor, room = self._cursor, PIECE_BYTES
        for accepted in self._queue:
            if isinstance(accepted.entry, TableChange) or self._guard.must_judge(accepted):
                break
            if _released(accepted) and accepted is not self._queue[0]:
                break  # it begins a piece of its own
            for index, change in enumerate(accepted.entry.changes[cursor.changes :], cursor.changes):
                versions = [version for number in change.versions if (version := self._tiers.find(number)) is not None]
                if versions:
                    if any(work[v.number].op != change.op for v in versions if v.number in work):
                        return _Piece(work, cursor, done)
                    row = sum(max(version.spec.cold_row_bytes, PIECE_BYTES // PIECE_ROWS) for version in versions)
                    part = slice(cursor.rows, cursor.rows + max(room // row, 0 if work else 1))
                    for version in versions:
                        at = work.setdefault(version.number, Work(version.spec, version.number, change.op))
                        at.ids.append(change.ids[part])
                        at.said.append(Said(change.dtype, change.rows[part], accepted.entry.at, change.ttl_s))
                    room -= row * len(change.ids[part])
                    if part.stop < len(change.ids):
                        return _Piece(work, Cursor(cursor.position, index, part.stop), done)
                cursor = Cursor(cursor.position, index + 1, 0)
            cursor = Cursor(accepted.position, 0, 0)
            done.append(accepted)
            if room < PIECE_BYTES // PIECE_ROWS:
                break
        return _Piece(work, cursor, done)

    async def _apply(self, piece: _Piece) -> None:
        meta: dict[str, bytes | None] = {CURSOR: piece.cursor.to_bytes()}
        for name, state in states(piece.done).items():
            meta[META + name] = state.to_bytes()
        released = [position for accepted in piece.done if (position := _released(accepted))]
        for position in released:
            meta |= self._quarantine.metas_without(position)
        work = list(piece.work.values())
        for each in work:
            each.held = self._held(each)
        written, outcome = await _until_written(lambda: self._threads.apply(write, self._store, work, meta))
        for version, ids, _, rows in written:
            self._tiers.replace(version, ids, rows)
            self._tiers.overtaken(version, ids)
            self._tiers.feeds.tell(version, ids, rows)
        self._count(outcome)
        for position in released:
            self._quarantine.remove(position)
        self._go_on(piece.cursor, piece.done)

    def _count(self, outcome: Outcome) -> None:
        self.rows_applied += outcome.rows
        self.rows_damaged += outcome.damaged
        self.rows_swept += outcome.swept
        self.values_saturated += outcome.saturated
        for version, expiry in outcome.expiries.items():
            self.first_expiries[version] = min(expiry, self.first_expiries.get(version, expiry))

    def _held(self, work: Work) -> tuple[Rows, NDArray[np.bool_]] | None:
        """Rows that are added to are mostly in memory, and need not be read from disk where the form is the same."""
        spec = work.spec
        if not work.reads or spec.dtype_code != spec.cold_code:
            return None
        return self._tiers.read(work.version, np.concatenate(work.ids))

    async def _judged(self) -> Over | None:
        """Why the next batch is over, if it is. A store that cannot read is tried again: what is not judged waits."""
        return await _until_written(lambda: self._guard.over(self._queue))

    async def _set_aside(self, accepted: Accepted, over: Over) -> None:
        """Keep a batch that is over, and go on behind it: no row of it is changed."""
        record = await _until_written(lambda: self._guard.keep(accepted, over))
        await self._pass(accepted, self._quarantine.metas_of(record))
        self._quarantine.add(record)
        self._go_on(Cursor(accepted.position), [accepted])

    async def _pass_over(self, accepted: Accepted) -> None:
        """A release of what was dropped, or released, since it was ordered: nobody was told that it would happen."""
        await self._pass(accepted, self._quarantine.metas_without(accepted.position))
        self._quarantine.remove(accepted.position)
        self._go_on(Cursor(accepted.position), [accepted])

    async def _pass(self, accepted: Accepted, more: Mapping[str, bytes | None]) -> None:
        """Move the cursor behind an entry that changes no row, and keep meta values with it."""
        meta: dict[str, bytes | None] = {CURSOR: Cursor(accepted.position).to_bytes(), **more}
        meta |= {META + name: state.to_bytes() for name, state in states([accepted]).items()}
        await _until_written(lambda: self._threads.apply(self._store.commit, (), meta))

    async def _change(self, accepted: Accepted, change: TableChange) -> None:
        cursor = Cursor(accepted.position)
        await _until_written(lambda: self._tiers.change(change, cursor.position, {CURSOR: cursor.to_bytes()}))
        self._go_on(cursor, [accepted])

    def _go_on(self, cursor: Cursor, done: Sequence[Accepted]) -> None:
        """What is up to the cursor is in store and arena, and so are the entries that end there."""
        self._cursor = cursor
        if not done:
            return
        for _ in done:
            self._queue.popleft()
        nbytes = sum(accepted.entry.nbytes for accepted in done)
        heard = next((accepted.producer.heard for accepted in done if accepted.producer), None)
        self._unpublished.append(_Unpublished(cursor.position, nbytes, heard))
        self._tiers.feeds.when_acked(self._publish)

    def _publish(self) -> None:
        """No reader holds an older row any more: the first entries that were not published are applied."""
        entries = self._unpublished.popleft()
        self._applied = entries.position
        self.waiting_bytes -= entries.nbytes
        self._tiers.publish(entries.position)
        self._wake()

    def _wake(self) -> None:
        waiting = self._waiters
        self._waiters = [(position, waiter) for position, waiter in waiting if position > self.applied]
        for position, waiter in waiting:
            if position <= self.applied and not waiter.done():
                waiter.set_result(None)


def _released(accepted: Accepted) -> int:
    """The position of the batch that was set aside and of which an entry is what is left; else 0."""
    return accepted.entry.released if isinstance(accepted.entry, Batch) else 0


async def _until_written(write: Callable[[], Awaitable[T]]) -> T:
    """Tries until the store takes it: what is in the log is never left out."""
    for attempt in itertools.count():
        try:
            return await write()
        except StoreError as error:  # a full disk, mostly
            if attempt % _TRIES_A_LINE == 0:
                log.error("updates cannot be applied, trying again and again: %s", error)
            await asyncio.sleep(_RETRY_S)
    raise AssertionError
