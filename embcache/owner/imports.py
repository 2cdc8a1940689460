"""Imports under way: rows on their way into a new version that nobody sees before its commit. Touches no arena.

A commit is: the store takes the rows in, all at once, as a version that the catalogue does not name; then tables.py
orders the change of the catalogue, and the table has its new rows. A crash before that entry is in the log leaves the
old rows (the version without a name is dropped at the next start), a crash after it the new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable
from typing import TypeVar

import numpy as np

from embcache.errors import InvalidRows, Overloaded, UnknownTable
from embcache.host import expiry
from embcache.host.memory import give_back_freed_memory
from embcache.owner.flight import Ids, Rows
from embcache.owner.tables import Tables
from embcache.owner.threads import StoreThreads, log
from embcache.owner.versions import NewVersion
from embcache.spec import TableSpec, row_bytes
from embcache_storage.store import BulkLoad, RowStore

MAX_IMPORTS = 64
# Pieces that wait for a disk, over all imports.
MAX_WAITING_BYTES = 512 << 20

T = TypeVar("T")


class _Import:
    """One import. Its pieces are taken one after the other, in the order in which they came.

    A piece is answered once it is in line and the one before it is written, so that one is written while the next comes
    along. `behind` writes the last one that was answered; what became of it, the next call is told.
    """

    def __init__(self, new: NewVersion, load: BulkLoad) -> None:
        self.id = secrets.token_hex(8)
        self.new = new
        self.load = load
        self.turn = asyncio.Lock()
        self.last_id = -1
        self.rows = 0
        self.behind: asyncio.Task[None] | None = None
        self.ended = False
        self.touch()

    def touch(self) -> None:
        """Something of it was heard now."""
        self.heard = asyncio.get_running_loop().time()


class Imports:
    """All imports of an owner. Every method runs on the loop."""

    def __init__(self, store: RowStore, threads: StoreThreads, tables: Tables, idle_s: float) -> None:
        """An import of which nothing is heard for `idle_s` seconds is aborted."""
        self._store = store
        self._threads = threads
        self._tables = tables
        self._idle_s = idle_s
        self._imports: dict[str, _Import] = {}
        self._waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._imports)

    async def begin(self, table: str, spec: TableSpec | None, version: str | None = None) -> tuple[str, NewVersion]:
        """Begin an import into `table`, which its commit creates by `spec` where it is not there: (import, version).

        version: the one to fill, or a new one to stage, and no lookup sees a difference; None: one that the commit puts
        in the live one's place. UnknownTable without table and spec; Conflict when the table has another spec, or for a
        version that is live or was.
        """
        if len(self._imports) >= MAX_IMPORTS:
            raise Overloaded(f"{MAX_IMPORTS} imports are under way already", {"retry_after_ms": 5000})
        new = await self._tables.plan_version(table, spec, version)
        load = await self._threads.bulk(self._store.bulk, new.version.number, new.spec.cold_row_bytes)
        entry = _Import(new, load)
        self._imports[entry.id] = entry
        return entry.id, new

    def row_bytes(self, import_id: str) -> int:
        """Bytes of an encoded row as this import takes it: in the disk's form, without when it expires. UnknownTable
        when there is no such import.
        """
        spec = self._find(import_id).new.spec
        return row_bytes(spec.dim, spec.cold_dtype)

    async def add(self, import_id: str, ids: Ids, rows: Rows) -> int:
        """Take ids u64 [n], ascending over all pieces, with rows u8 [n, row_bytes] -> rows of the import so far.

        InvalidRows for ids out of order: nothing of the piece is taken. A store's error ends the import; it may be that
        of the piece before, and that of the last piece is told by the commit.
        """
        entry = self._find(import_id)
        nbytes = ids.nbytes + rows.nbytes
        if self._waiting_bytes and self._waiting_bytes + nbytes > MAX_WAITING_BYTES:
            raise Overloaded("too many rows wait for the disk already", {"retry_after_ms": 200})
        self._waiting_bytes += nbytes
        try:
            async with entry.turn:
                self._check(entry, ids)
                await self._written(entry)
                if len(ids):
                    entry.last_id = int(ids[-1])
                    entry.rows += len(ids)
                    write = self._write(entry, ids, rows, nbytes)
                    entry.behind, nbytes = asyncio.get_running_loop().create_task(write), 0
                return entry.rows
        finally:
            self._waiting_bytes -= nbytes
            entry.touch()

    async def commit(self, import_id: str) -> tuple[NewVersion, int, int]:
        """Make the imported rows those of the table, or of its version, at once -> (version, its rows, position)."""
        entry = self._find(import_id)
        async with entry.turn:
            self._check(entry)
            await self._written(entry)
            await self._threads.bulk(give_back_freed_memory)  # of pieces: there are two versions' indices for a while
            rows = await self._guarded(entry, self._threads.bulk(entry.load.commit))
            self._forget(entry)
            position = await self._tables.take_over(entry.new, rows)
        await self._threads.bulk(give_back_freed_memory)  # of the version before
        return entry.new, rows, position

    async def abort(self, import_id: str) -> None:
        """End an import and remove its rows."""
        await self._abort(self._find(import_id))

    async def abort_all(self) -> None:
        """End every import: the owner stops."""
        for entry in list(self._imports.values()):
            await self._abort(entry)

    async def abort_idle(self) -> None:
        """Ends imports of which nothing was heard for long."""
        now = asyncio.get_running_loop().time()
        for entry in list(self._imports.values()):
            if not entry.turn.locked() and now - entry.heard >= self._idle_s:
                log.warning("import %s into %r was idle for %g s: aborted", entry.id, entry.new.name, self._idle_s)
                await self._abort(entry)

    async def watch(self) -> None:
        """Aborts idle imports for as long as it runs."""
        while True:
            await asyncio.sleep(min(5.0, self._idle_s / 4))
            await self.abort_idle()

    def _find(self, import_id: str) -> _Import:
        entry = self._imports.get(import_id)
        if entry is None:
            raise _no_import(import_id)
        return entry

    def _check(self, entry: _Import, ids: Ids | None = None) -> None:
        """While it was waited for the import's turn, it may have ended."""
        if entry.ended:
            raise _no_import(entry.id)
        if ids is None or not len(ids):
            return
        if int(ids[0]) <= entry.last_id:
            raise InvalidRows(f"ids must ascend: {ids[0]} comes after {entry.last_id} of the piece before")
        if not np.all(ids[1:] > ids[:-1]):
            at = int(np.argmin(ids[1:] > ids[:-1]))
            raise InvalidRows(f"ids must ascend: {ids[at + 1]} comes after {ids[at]} (id {at + 1} of this piece)")

    async def _write(self, entry: _Import, ids: Ids, rows: Rows, nbytes: int) -> None:
        """Write a piece, which is among what waits until then. After an error nothing of the import is on the disk."""
        try:
            await self._threads.bulk(_add, entry, ids, rows, expiry.now_ms())
        except Exception:
            await self._threads.bulk(entry.load.abort)
            raise
        finally:
            self._waiting_bytes -= nbytes
            entry.touch()

    async def _written(self, entry: _Import) -> None:
        """Wait for the piece that is written; the store's error ends the import. In its turn."""
        if entry.behind is not None:
            await asyncio.wait([entry.behind])  # it goes on if whoever waits does not
            behind, entry.behind = entry.behind, None
            if error := behind.exception():
                await self._end(entry)
                raise error

    async def _guarded(self, entry: _Import, call: Awaitable[T]) -> T:
        """A call of the import's load, which can only be aborted after an error."""
        try:
            return await call
        except Exception:
            await self._end(entry)
            raise

    async def _abort(self, entry: _Import) -> None:
        async with entry.turn:
            if not entry.ended:
                with contextlib.suppress(Exception):
                    await self._written(entry)
                await self._end(entry)

    async def _end(self, entry: _Import) -> None:
        self._forget(entry)
        await self._threads.bulk(entry.load.abort)

    def _forget(self, entry: _Import) -> None:
        entry.ended = True
        self._imports.pop(entry.id, None)


def _add(entry: _Import, ids: Ids, rows: Rows, now: int) -> None:
    """In a thread: rows that may expire do so by when they came."""
    spec = entry.new.spec
    if spec.ttl_s is not None:
        rows = expiry.with_expiries(rows, np.full(len(rows), expiry.after(now, spec.ttl_s), np.uint64))
    entry.load.add(ids, rows)


def _no_import(import_id: str) -> UnknownTable:
    return UnknownTable(
        f"no import {import_id!r} is under way: it was committed, aborted, or idle for too long", {"import": import_id}
    )
