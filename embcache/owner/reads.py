"""Cold reads: which ids are read from the store, who shares a read, and how rows come into the arena.

Order, and why it is enough. The loop is one thread, and all that touches the arena runs on it; only the store is read
in other threads.
1. A request finds reads under way that hold its ids and starts a read of the rest in one step of the loop. So no id is
   read twice at once.
2. A request joins a read only if that began at an applied position no older than the request's own. (Applied is what is
   published, which may be later than the rows are in the arena, see feeds.py: who asks in between may still join an
   older read, and who asks afterwards may not.)
3. When a read is back, one step of the loop, with no await in it: looks which region the version has; puts the rows in
   and marks what is absent; ends the flight; wakes who waits. So whoever asks later finds the rows in the arena, and
   the late read of a dropped version touches nothing: the region cannot go between the look and the writing, and no
   other version ever has the number. Where it has none, since it is moved just then, the rows go nowhere. Another
   region than there was when the read began is as good: what makes a row too old is an update, and rule 4 tells it.
4. An update is in the store before one step of the loop replaces its rows in the arena and marks the reads under way
   that hold its ids as overtaken there: what they bring may be older, so it is answered to those who asked before, and
   neither put in nor marked absent. Reads that begin later find the new row.
Invariant: a row in the arena, or an absent mark, is as the store had it when the last update was applied there, or
newer. Rows that fail their checksum are neither: they stay unknown and every request for them hears `damaged`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from embcache.errors import Overloaded
from embcache.host.expiry import as_in_memory
from embcache.owner.catalogue import Version
from embcache.owner.flight import Batch, Ids, Places, Rows
from embcache.owner.threads import StoreThreads, log
from embcache_storage.store import ABSENT, FOUND, RowStore, VersionGone

GONE = 3  # the state of all ids of a version that is gone; 0 to 2 are the store's

# One step on the loop handles at most this much, so that nobody waits long behind a large request.
PIECE_IDS = 16_384
PIECE_BYTES = 4 << 20
WAVE_BYTES = 8 << 20
# A thread takes batches up to about this many ids at once, so that many small tables do not cost a switch each.
JOB_IDS = 1024
# What may be asked for at once, over all links.
MAX_PENDING_BYTES = 512 << 20
MAX_PENDING_READS = 1024


class Region(Protocol):
    """What a read needs of a HostTable."""

    def insert(self, ids: Ids, rows: Rows) -> None: ...

    def restore(self, ids: Ids, rows: Rows, use: int) -> None: ...

    def mark_absent(self, ids: Ids) -> None: ...


@dataclass(frozen=True, slots=True)
class Part:
    """What a request asks of one version: rows of ids u64 [n], any order, repeats allowed.

    use: for rows that were in memory once, how much they were in use; they push out none that are there.
    """

    version: int
    row_bytes: int
    ids: Ids
    use: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its answer."""
        return len(self.ids) * (self.row_bytes + 1)


@dataclass(slots=True)
class Answer:
    """State u8 [n] and rows u8 [n, row_bytes] of a part, in pieces that follow each other."""

    state: list[Rows] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Targets:
    """What reads ask of tables and memory, as it is now.

    `known(version)` is what is known of it, None once it is gone, `region(version)` is where its rows may be put (None:
    nowhere for now), `position()` is the applied position.
    """

    known: Callable[[int], Version | None]
    region: Callable[[int], Region | None]
    position: Callable[[], int]


class Reads:
    """All cold reads of an owner. Every method runs on the loop."""

    def __init__(self, store: RowStore, threads: StoreThreads, targets: Targets) -> None:
        """Reads `store` in `threads`."""
        self._store = store
        self._threads = threads
        self._known = targets.known
        self._region = targets.region
        self._position = targets.position
        self._flying: dict[int, list[Batch]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending_bytes = 0
        self._pending_reads = 0
        self.rows_read = 0
        self.rows_joined = 0

    @property
    def asked(self) -> bool:
        """Whether somebody waits for rows."""
        return self._pending_reads > 0

    async def read(self, parts: Sequence[Part]) -> list[Answer]:
        """State and rows of each part. Overloaded when too much is asked already; a StoreError of its own reads."""
        nbytes = sum(part.nbytes for part in parts)
        if self._pending_reads and (
            self._pending_bytes + nbytes > MAX_PENDING_BYTES or self._pending_reads >= MAX_PENDING_READS
        ):
            raise Overloaded("too many cold rows are being read already", {"retry_after_ms": 50})
        self._pending_bytes += nbytes
        self._pending_reads += 1
        try:
            return await self._in_waves(parts)
        finally:
            self._pending_bytes -= nbytes
            self._pending_reads -= 1

    def overtaken(self, version: int, ids: Ids) -> None:
        """Rows of ids u64 [n] were written to the store: what reads under way bring for them, nobody may keep."""
        for batch in self._flying.get(version, ()):
            batch.overtake(ids)

    async def drain(self) -> None:
        """Waits for all reads under way, whose rows somebody may still get."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _in_waves(self, parts: Sequence[Part]) -> list[Answer]:
        position = self._position()
        answers = [Answer() for _ in parts]
        for wave in _waves(parts):
            shares = self._board([piece for _, piece in wave], position)
            for (index, piece), share in zip(wave, shares, strict=True):
                state, rows = await self._collect(piece, share)
                answers[index].state.append(state)
                answers[index].rows.append(rows)
        return answers

    def _board(self, pieces: Iterable[Part], position: int) -> list[list[_Share]]:
        """For each piece the batches that bring its ids; starts reads of those that nobody fetches. One step."""
        new: list[Batch] = []
        shares = [self._shares(piece, position, new) for piece in pieces]
        for job in _jobs(new):
            task = asyncio.get_running_loop().create_task(self._fly(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return shares

    def _shares(self, piece: Part, position: int, new: list[Batch]) -> list[_Share]:
        known = self._known(piece.version)
        if known is None or not len(piece.ids):
            return []
        shares = []
        left = np.arange(len(piece.ids))
        flying = self._flying.setdefault(piece.version, [])
        for batch in flying:
            if batch.began < position or not left.size:
                continue
            mine, theirs = batch.find(piece.ids[left])
            if mine.size:
                shares.append(_Share(batch, left[mine], theirs))
                left = np.delete(left, mine)
        self.rows_joined += len(piece.ids) - left.size
        if left.size:
            ids = piece.ids[left] if shares else piece.ids
            batch = Batch(piece.version, known.spec, ids, began=self._position(), use=piece.use)
            flying.append(batch)
            new.append(batch)
            shares.append(_Share(batch, left, None))
        return shares

    async def _fly(self, job: Sequence[Batch]) -> None:
        """Reads the batches of a job in a thread and lands each, whatever becomes of who asked."""
        try:
            await self._threads.read(_read_each, self._store, job)
        except Exception as error:  # the threads are closed
            for batch in job:
                batch.error = error
        for batch in job:
            self._land(batch)

    def _land(self, batch: Batch) -> None:
        """The step that rule 3 above speaks of."""
        region = self._region(batch.version)
        if batch.error is None and region is not None:
            try:
                _promote(region, batch)
            except Exception:  # what was read is right all the same
                log.exception("rows of version %d could not be put into the arena", batch.version)
        flying = self._flying[batch.version]
        flying.remove(batch)
        if not flying:
            del self._flying[batch.version]
        self.rows_read += len(batch.ids)
        batch.landed.set_result(None)

    async def _collect(self, piece: Part, shares: Sequence[_Share]) -> tuple[Rows, Rows]:
        """State and rows of a piece, once its batches have landed. What was read in its order is not copied."""
        if not shares:
            return np.full(len(piece.ids), GONE, np.uint8), np.zeros((len(piece.ids), piece.row_bytes), np.uint8)
        for share in shares:
            await asyncio.shield(share.batch.landed)  # whoever stops waiting must not take it from the others
        if len(shares) == 1 and shares[0].theirs is None:
            return await self._result(shares[0])
        state = np.empty(len(piece.ids), np.uint8)
        rows = np.empty((len(piece.ids), piece.row_bytes), np.uint8)
        for share in shares:
            state[share.mine], rows[share.mine] = await self._result(share)
        return state, rows

    async def _result(self, share: _Share) -> tuple[Rows, Rows]:
        """What a batch brought. The error of a read that was only joined is not ours: read the ids ourselves."""
        batch = share.batch
        if isinstance(batch.error, VersionGone):
            ids = batch.ids if share.theirs is None else batch.ids[share.theirs]
            return np.full(len(ids), GONE, np.uint8), np.zeros((len(ids), batch.spec.row_bytes), np.uint8)
        if batch.error is not None:
            if share.theirs is None:
                raise batch.error
            own = Part(batch.version, batch.spec.row_bytes, batch.ids[share.theirs])
            [shares] = self._board([own], self._position())
            return await self._collect(own, shares)
        if share.theirs is None:
            return batch.state, batch.rows
        return batch.state[share.theirs], batch.rows[share.theirs]


@dataclass(frozen=True, slots=True)
class _Share:
    """What a request takes from a batch: its places `mine`, theirs in the batch; None: the whole batch, in order."""

    batch: Batch
    mine: Places
    theirs: Places | None


def _read_each(store: RowStore, job: Sequence[Batch]) -> None:
    """In a thread: fills each batch with rows and state, or with its own error."""
    for batch in job:
        try:
            ids, places = batch.distinct()
            spec = batch.spec
            rows, state = store.read(batch.version, spec.cold_row_bytes, ids)
            rows, _ = as_in_memory(rows, spec)
            batch.rows, batch.state = (rows, state) if places is None else (rows[places], state[places])
        except Exception as error:
            batch.error = error


def _promote(region: Region, batch: Batch) -> None:
    found, absent = batch.state == FOUND, batch.state == ABSENT
    if batch.overtaken is not None:
        found, absent = found & ~batch.overtaken, absent & ~batch.overtaken
    if found.all():
        _put(region, batch.ids, batch.rows, batch.use)
        return
    if found.any():
        _put(region, batch.ids[found], batch.rows[found], batch.use)
    if absent.any():
        region.mark_absent(batch.ids[absent])


def _put(region: Region, ids: Ids, rows: Rows, use: int | None) -> None:
    if use is None:
        region.insert(ids, rows)
    else:
        region.restore(ids, rows, use)


def _jobs(new: Sequence[Batch]) -> Iterator[list[Batch]]:
    """New batches by threads: small ones together."""
    job: list[Batch] = []
    ids = 0
    for batch in new:
        job.append(batch)
        ids += len(batch.ids)
        if ids >= JOB_IDS:
            yield job
            job, ids = [], 0
    if job:
        yield job


def _waves(parts: Sequence[Part]) -> Iterator[list[tuple[int, Part]]]:
    """The parts in pieces, in order, as (index of the part, piece); each wave's answer has about WAVE_BYTES."""
    wave: list[tuple[int, Part]] = []
    nbytes = 0
    for index, part in enumerate(parts):
        step = max(1, min(PIECE_IDS, PIECE_BYTES // part.row_bytes))
        for begin in range(0, len(part.ids), step):
            piece = replace(part, ids=part.ids[begin : begin + step])
            wave.append((index, piece))
            nbytes += piece.nbytes
            if nbytes >= WAVE_BYTES:
                yield wave
                wave, nbytes = [], 0
    if wave:
        yield wave
