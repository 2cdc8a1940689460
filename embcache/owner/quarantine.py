"""Batches that were set aside: over their table's `max_norm`, and kept until somebody drops or releases them.

    meta value              what
    "aside/POSITION"        the record of a batch that is listed, as msgpack; empty for one that is not any more, for as
                            long as the log has its entry: who reads the log sees by the key that it changed no row
    "aside-rows/POSITION/N" the batch as it stands in the log, in pieces, since rocksdict holds the GIL while it writes
    "aside-marks/POSITION"  of which of its rows there is something newer, see marks.py
    "aside-scanned"         the position up to which the log was read for that

The applier sets a batch aside: the pieces first, then in one commit the record, the cursor behind the batch and its
producer's state. A crash before that commit leaves the cursor before the batch, which is then judged by the same rows
again, and its pieces are written over. A record goes in one commit, too: with the cursor behind the batch that releases
it (releases.py), or when it is dropped.
Invariant: while a batch is listed, the log is not trimmed beyond what was read of it for marks.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack
import xxhash

from embcache.errors import StorageCorrupt, UnknownTable
from embcache.owner.entries import from_payload, to_payload
from embcache.owner.updates import Batch
from embcache_storage.store import RowStore

HEAD: Final = "aside/"
ROWS: Final = "aside-rows/"
MARKS: Final = "aside-marks/"
SCANNED: Final = "aside-scanned"

PIECE_BYTES: Final = 512 << 10
LEAST_BYTES: Final = 64 << 10  # what a batch counts as in the quarantine, at least
TOLD: Final = 64  # positions that a producer is told of at once
_NAMED: Final = 10  # how many positions an error names


@dataclass(frozen=True, slots=True)
class Record:
    """A batch that is set aside. Why: the row of `id` in `table` at its worst, whose `norm` was to be over `limit`, as
    were those of `over` of its changes of rows in all. `since` is when, in seconds since 1970; `nbytes` of the batch in
    the log's form, whose checksum is `checksum`."""

    position: int
    producer: str
    epoch: int
    seq: int
    table: str
    version: str
    id: int
    norm: float
    limit: float
    over: int
    rows: int
    nbytes: int
    checksum: int
    since: float

    @property
    def counted_bytes(self) -> int:
        """What it takes of `updates.quarantine_bytes`."""
        return max(self.nbytes, LEAST_BYTES)

    @property
    def pieces(self) -> int:
        return -(-self.nbytes // PIECE_BYTES)

    def to_bytes(self) -> bytes:
        packed: bytes = msgpack.packb(dataclasses.asdict(self))
        return packed

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        return cls(**msgpack.unpackb(data))


@dataclass(slots=True)
class Quarantine:
    """All that is set aside, as the store has it. On the loop; `write` and `read` are for threads.

    `bound`: bytes of batches, beyond which producers that have some here are refused more. `turn`: held by whoever
    reads the log for marks, releases or drops.
    """

    store: RowStore
    bound: int
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    scanned: int = 0
    count: int = 0  # set aside since the owner started
    nbytes: int = 0
    ordered: dict[int, int] = field(default_factory=dict)  # releases that are in the log and not applied, by position
    _records: dict[int, Record] = field(default_factory=dict)  # by position, ascending
    _producers: dict[str, dict[int, None]] = field(default_factory=dict)  # positions of each, ascending
    _past: set[int] = field(default_factory=set)  # that were listed, and whose entries the log may have

    def __len__(self) -> int:
        return len(self._records)

    @property
    def is_full(self) -> bool:
        return self.nbytes >= self.bound

    def load(self, heads: Mapping[str, bytes], scanned: bytes | None) -> None:
        """Take up what the store holds: all meta values under HEAD, and that of SCANNED."""
        self.scanned = int(scanned or 0)
        for key in sorted(heads):
            if heads[key]:
                self._enter(Record.from_bytes(heads[key]))
            else:
                self._past.add(int(key[len(HEAD) :]))

    # --- what there is -------------------------------------------------------------------------------------------

    def holds(self, position: int) -> bool:
        """Whether the batch of a position is listed."""
        return position in self._records

    def skips(self, position: int) -> bool:
        """Whether the entry of the log at an applied position changed no row, since it was set aside."""
        return position in self._records or position in self._past

    def find(self, position: int) -> Record:
        """The record of a position. UnknownTable where none is listed."""
        record = self._records.get(position)
        if record is None:
            raise UnknownTable(
                f"no batch of position {position} is set aside, or not any more: {self._listed()}",
                {"position": str(position)},
            )
        return record

    def _listed(self) -> str:
        if not self._records:
            return "none is"
        newest = list(self._records)[-_NAMED:]
        more = f"{len(self._records)} are, the newest at positions" if len(self._records) > _NAMED else "those are at"
        return f"{more} {', '.join(map(str, newest))} (`embcache quarantine list`)"

    def all(self) -> list[Record]:
        """By position."""
        return list(self._records.values())

    def page(self, after: int, limit: int) -> tuple[list[Record], int | None]:
        """The first records behind a position, the oldest first, and the one to go on behind, if there are more."""
        behind = [position for position in self._records if position > after]
        page = [self._records[position] for position in behind[:limit]]
        return page, page[-1].position if page and len(behind) > len(page) else None

    def told(self, producer: str) -> dict[str, Any]:
        """What a producer is told: how many of its batches are listed, and the positions of the newest, ascending."""
        listed = list(self._producers.get(producer, ()))
        return {"quarantined": listed[-TOLD:], "quarantined_count": len(listed)}

    def read(self, record: Record) -> Batch:
        """In a thread: the batch. StorageCorrupt where it is not what was written."""
        pieces = [self.store.get_meta(_piece_key(record.position, piece)) for piece in range(record.pieces)]
        payload = b"".join(piece or b"" for piece in pieces)
        if len(payload) != record.nbytes or _checksum(payload, record.position) != record.checksum:
            raise StorageCorrupt(f"the batch that was set aside at position {record.position} is damaged")
        batch = from_payload(payload)
        assert isinstance(batch, Batch)
        return batch

    # --- what comes, and goes ------------------------------------------------------------------------------------

    def write(self, position: int, batch: Batch) -> tuple[int, int]:
        """In a thread: write a batch's pieces, which are nothing without a record; -> (bytes, checksum)."""
        payload = to_payload(batch)
        for piece, begin in enumerate(range(0, len(payload), PIECE_BYTES)):
            part = bytes(payload[begin : begin + PIECE_BYTES])
            self.store.commit((), {_piece_key(position, piece): part})
        return len(payload), _checksum(payload, position)

    def metas_of(self, record: Record) -> dict[str, bytes | None]:
        """What lists it, to be committed with the cursor behind it; then `add` it."""
        return {head_key(record.position): record.to_bytes()}

    def add(self, record: Record) -> None:
        """It is in the store."""
        self.count += 1
        self._enter(record)

    def metas_without(self, position: int) -> dict[str, bytes | None]:
        """What takes a record away, or says of the entry at a position that it changed no row; then `remove` it."""
        record = self._records.get(position)
        pieces = range(0 if record is None else record.pieces)
        gone: dict[str, bytes | None] = dict.fromkeys([_piece_key(position, piece) for piece in pieces])
        return {head_key(position): b"", marks_key(position): None, **gone}

    def remove(self, position: int) -> None:
        """It is gone from the store."""
        self._past.add(position)
        self.ordered.pop(position, None)
        record = self._records.pop(position, None)
        if record is not None:
            self.nbytes -= record.counted_bytes
            del self._producers[record.producer][position]

    def forgotten(self, first: int) -> list[int]:
        """Positions before the log's first that need not be known any more: forget their keys, then `forget` them."""
        return [position for position in self._past if position < first]

    def forget(self, positions: Iterable[int]) -> None:
        """Their keys are gone from the store."""
        self._past.difference_update(positions)

    def _enter(self, record: Record) -> None:
        self._records[record.position] = record
        self._producers.setdefault(record.producer, {})[record.position] = None
        self.nbytes += record.counted_bytes


def positions_set_aside(store: RowStore) -> set[int]:
    """For who reads the log of a store by itself: positions at which it has entries that changed no row.

    All of them up to the cursor; what is beyond it is not applied yet, and nobody knows.
    """
    return {int(key[len(HEAD) :]) for key in store.metas(HEAD)}


def head_key(position: int) -> str:
    """The key of a record."""
    return f"{HEAD}{position:020d}"


def marks_key(position: int) -> str:
    """The key of a record's marks."""
    return f"{MARKS}{position:020d}"


def _piece_key(position: int, piece: int) -> str:
    return f"{ROWS}{position:020d}/{piece}"


def _checksum(payload: bytes | memoryview, position: int) -> int:
    return xxhash.xxh3_64_intdigest(payload, seed=position)
