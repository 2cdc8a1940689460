"""What changed of a table since a position: the ids out of the update log, and the rows that they have now.

Stateless: each call reads a bounded piece of the log, in a thread, and says up to which position it is complete;
whoever asks goes on from there, and keeps the ids. So the owner holds nothing for a reader that is slow, or gone.

Invariants. Of a piece that is complete up to P, an id that it does not name has the row now that it had at the position
asked about, or an entry after P changed it. All entries up to the applied position are in the store, and their changes
of tables in the catalogue: so a row that is read after the answer is as of P or newer. An id may be named that is as it
was; one that changed is never left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, assert_never

import numpy as np

from embcache.errors import Conflict, DimensionMismatch, HistoryChanged
from embcache.owner.arguments import U32, U64, integer, text
from embcache.owner.catalogue import Table, TableChange
from embcache.owner.entries import Entry, from_payload
from embcache.owner.flight import Ids
from embcache.owner.parts import Parts
from embcache.owner.server import Answer
from embcache.owner.updates import Batch, Sweep
from embcache.validation import gone
from embcache_storage.log import Trimmed, UpdateLog
from embcache_storage.store import DAMAGED, FOUND, StoreCorrupt

PIECE_BYTES = 8 << 20  # of the log that one call reads
FETCH_BYTES = 32 << 20  # of rows that one call reads


class ChangedCalls:
    """Answers calls by their op; see operations.py."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def changed(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"table", "since", "history" or null} -> {"version": label, "history", "position", "applied", "n"}, ids u64
        [n] ascending: those of which the entries after `since` and up to `position` changed rows of the live version.

        Go on from `position` until it is `applied`. Conflict where that is not known: `since` is beyond what is
        applied, or older than the log; or other rows took the place of all since then. HistoryChanged.
        """
        name, since = text(meta, "table"), integer(meta, "since", U64)
        if meta.get("history") is not None:
            self._check_history(text(meta, "history"))
        # In one step of the loop: the catalogue has the changes of tables up to the applied position.
        applied, table = self._parts.intake.applier.applied, self._parts.tables.named(name)
        _check_since(table, since, applied)
        try:
            piece = await self._parts.threads.bulk(read_piece, self._parts.store.log, table.live.number, since, applied)
        except Trimmed as trimmed:
            raise _trimmed(name, since, trimmed.first - 1) from None
        told = {"version": table.live.label, "history": self._parts.tables.history, "position": piece.position}
        return {**told, "applied": applied, "n": len(piece.ids)}, (piece.ids,)

    async def fetch(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"version": number, "n"}, ids u64 [n] -> {"n", "row_bytes"}, ids u64 [m] of those that have a row, in the
        order asked for, then their rows as they are on disk. None of them comes to host memory by that.
        """
        number, n = integer(meta, "version", U32), integer(meta, "n", U32)
        version = self._parts.tables.find(number)
        if version is None:
            raise gone(number)
        row_bytes = version.spec.cold_row_bytes
        if payload.nbytes != 8 * n or n * row_bytes > FETCH_BYTES:
            raise DimensionMismatch(
                f"{n} ids take {8 * n} bytes, not {payload.nbytes}; {FETCH_BYTES // row_bytes} of {row_bytes} bytes at "
                "most may be asked for at once"
            )
        ids = np.frombuffer(payload, np.uint64)
        rows, state = await self._parts.threads.bulk(self._parts.store.read, number, row_bytes, ids)
        if (state == DAMAGED).any():
            damaged = ids[state == DAMAGED].tolist()
            raise StoreCorrupt(f"the row of id {damaged[0]} is damaged ({len(damaged)} of the {n} asked for)", damaged)
        there = state == FOUND
        return {"n": int(np.count_nonzero(there)), "row_bytes": row_bytes}, (ids[there], rows[there])

    def _check_history(self, asked: str) -> None:
        ours = self._parts.tables.history
        if asked != ours:
            raise HistoryChanged(
                f"history: {asked[:64]!r} is not this service's, which is {ours!r}: its positions mean nothing here; "
                "export the table whole, and go on from the position that this prints",
                {"history": ours},
            )


class Piece(NamedTuple):
    """Ids u64 [n], ascending, that entries up to `position` changed."""

    position: int
    ids: Ids


def changed_ids(entry: Entry, number: int) -> list[Ids]:
    """The ids whose rows in a version an entry of the log may have changed.

    A change of tables has none of a version that is live before and after it: what makes another one live, or makes it
    anew, is told by `Table.since`.
    """
    match entry:
        case Batch() | Sweep():
            return [change.ids for change in entry.changes if number in change.versions]
        case TableChange():
            return []
        case _:
            assert_never(entry)


def read_piece(update_log: UpdateLog, number: int, after: int, applied: int) -> Piece:
    """In a thread: what the next entries after a position changed in a version, none behind the applied one. Trimmed.

    Entries behind it may be taken back while they are read; none up to it ever is.
    """
    entries = update_log.read(after, PIECE_BYTES, applied)
    ids = [ids for entry in entries for ids in changed_ids(from_payload(entry.payload), number)]
    position = entries[-1].position if entries else after
    return Piece(position, np.unique(np.concatenate(ids)) if ids else np.empty(0, np.uint64))


def _check_since(table: Table, since: int, applied: int) -> None:
    name = table.spec.name
    if since > applied:
        raise Conflict(
            f"since: position {since} is beyond what is applied, which is {applied}: nothing can have changed since",
            {"table": name, "since": since, "applied": applied},
        )
    if table.since is None or since < table.since:
        raise Conflict(
            f"since: table {name!r} has got all its rows anew at position {table.since}, when version "
            f"{table.live.label!r} went live (created, imported or switched to), so all of them changed since {since}: "
            "export it whole, and go on from the position that this prints",
            {"table": name, "since": since, "oldest": table.since or applied},
        )


def _trimmed(name: str, since: int, oldest: int) -> Conflict:
    return Conflict(
        f"since: the update log holds what came after position {oldest}, and {since} is older: what changed of table "
        f"{name!r} is not known any more. The oldest that can be asked about now is {oldest}; export the table whole, "
        "and go on from the position that this prints. updates.log_bytes and updates.log_age_s say how much is kept",
        {"table": name, "since": since, "oldest": oldest},
    )
