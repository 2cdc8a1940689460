"""RocksLog: the UpdateLog as a column family of the store's own database, so that one sync covers both.

    column family "log"       key = position u64, piece u32, both big-endian
        piece 0               the head: HEAD below, then the payload's first piece
        piece 1, 2, ...       what does not fit the head's cell
    column family "default"   "l:trimmed": the newest position that was trimmed, as decimal digits

An entry is there once its head is, which is written last; what a crash leaves without a head is removed at open. Pieces
are small because rocksdict holds the GIL while it writes; it releases it while it syncs. The database must not sync
with each write, then.

Invariant: entries first .. last have a head and all pieces, and nothing stands behind `last`, or `last` was not told.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

import xxhash
from rocksdict import WriteBatch

from embcache_storage.gate import Gate
from embcache_storage.log import Entry, Payload, Trimmed
from embcache_storage.rocks_errors import engine_errors
from embcache_storage.store import StoreCorrupt

log = logging.getLogger(__name__)

FAMILY: Final = "log"
PIECE_BYTES: Final = 512 << 10  # part of the form on disk: another size is another format
_TRIMMED: Final = b"l:trimmed"
_KEY: Final = Struct(">QI")
_END: Final = b"\xff" * (_KEY.size + 1)
_HEAD: Final = Struct("<QQQd")


class _Head(NamedTuple):
    """What stands before a payload: its length, the bytes of all entries before it, its checksum, and when it came."""

    nbytes: int
    before: int
    checksum: int
    appended: float

    @property
    def pieces(self) -> int:
        return max(1, -(-self.nbytes // PIECE_BYTES))


class RocksLog:
    """An UpdateLog in an open database, within the gate of the store that opened it."""

    def __init__(self, database: Any, family: Any, gate: Gate, clock: Callable[[], float] = time.time) -> None:
        """family: rocksdict's view of the column family; it is the log's to close. clock: seconds since 1970."""
        self._database = database
        self._family = family
        self._gate = gate
        self._clock = clock
        with engine_errors("cannot open the update log"):
            trimmed = database.get(_TRIMMED)
            self.first = 1 + (0 if trimmed is None else int(trimmed))
            self.last = self._find_last()
        newest = self._head(self.last) if self.last >= self.first else None
        self._total = 0 if newest is None else newest.before + newest.nbytes

    @property
    def nbytes(self) -> int:
        return self._total - self._head(self.first).before if self.last >= self.first else 0

    def append(self, payloads: Sequence[Payload]) -> int:
        with self._gate:
            position, total = self.last, self._total
            now = self._clock()
            batch, held = WriteBatch(raw_mode=True), 0
            for payload in payloads:
                position += 1
                head = _Head(len(payload), total, _checksum(payload, position), now)
                total += head.nbytes
                for piece in reversed(range(head.pieces)):
                    held += self._put(batch, position, piece, head, payload)
                    if held >= PIECE_BYTES:
                        self._write(batch)
                        batch, held = WriteBatch(raw_mode=True), 0
            if held:
                self._write(batch)
            self.last, self._total = position, total
            return position

    def sync(self) -> None:
        with self._gate, engine_errors("cannot make the update log durable"):
            self._database.flush_wal(True)

    def retract(self, position: int) -> None:
        with self._gate:
            total = 0
            if position >= self.first:
                head = self._head(position)
                total = head.before + head.nbytes
            self._remove(_KEY.pack(position + 1, 0), _END, "cannot take back what was not acknowledged")
            self.last, self._total = position, total

    def holds(self, position: int) -> bool:
        with self._gate:
            return self._get(position, [0])[0] is not None

    def read(self, after: int, limit_bytes: int, upto: int | None = None) -> list[Entry]:
        with self._gate:
            try:
                return self._read(after, limit_bytes, self.last if upto is None else min(upto, self.last))
            except StoreCorrupt:
                if after + 1 < self.first:  # trimmed meanwhile, which `first` tells before it is done
                    raise Trimmed(after, self.first) from None
                raise

    def _read(self, after: int, limit_bytes: int, last: int) -> list[Entry]:
        if after + 1 < self.first:
            raise Trimmed(after, self.first)
        entries: list[Entry] = []
        for position in range(after + 1, last + 1):
            head, first = self._cell(position)
            limit_bytes -= head.nbytes
            if entries and limit_bytes < 0:
                break
            entries.append(Entry(position, self._payload(position, head, first)))
        return entries

    def trim(self, upto: int, keep_bytes: int, keep_since: float) -> None:
        with self._gate:
            end = min(upto, self.last)
            outside = range(self.first, end + 1)

            def is_kept(position: int) -> bool:
                head = self._head(position)
                return head.appended >= keep_since and self._total - head.before <= keep_bytes

            trimmed = self.first - 1 + bisect_left(outside, True, key=is_kept)
            if trimmed >= self.first:
                batch = WriteBatch(raw_mode=True)
                batch.put(_TRIMMED, b"%d" % trimmed)
                batch.delete_range(_KEY.pack(0, 0), _KEY.pack(trimmed + 1, 0), self._handle)
                before, self.first = self.first, trimmed + 1  # first: who reads beside it finds entries gone
                try:
                    with engine_errors("cannot trim the update log"):
                        self._database.write(batch)
                except BaseException:
                    self.first = before
                    raise

    def flush(self) -> None:
        """Move the entries into a file. Within the gate of the store, which asks for it."""
        self._family.flush()

    def close(self) -> None:
        """Let go of the column family. Nobody may be inside the gate."""
        try:
            self._family.close()
        except Exception as error:
            log.warning("updates stay in the write-ahead log, since they cannot be flushed: %s", error)

    @property
    def _handle(self) -> Any:
        """Names the column family in a batch. Got anew each time: who holds it holds the database open."""
        return self._database.get_column_family_handle(FAMILY)

    def _put(self, batch: Any, position: int, piece: int, head: _Head, payload: Payload) -> int:
        """Add a piece of a payload to a batch; -> its bytes."""
        part = memoryview(payload)[piece * PIECE_BYTES : (piece + 1) * PIECE_BYTES]
        value = bytes(part) if piece else b"".join((_HEAD.pack(*head), part))
        batch.put(_KEY.pack(position, piece), value, self._handle)
        return len(value)

    def _write(self, batch: Any) -> None:
        try:
            with engine_errors("cannot append to the update log"):
                self._database.write(batch)
        except BaseException:
            self.retract(self.last)
            raise

    def _remove(self, begin: bytes, end: bytes, what: str) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(begin, end, self._handle)
        with engine_errors(what):
            self._database.write(batch)

    def _find_last(self) -> int:
        """The newest position that has a head; what stands behind it is removed."""
        found = self._family.iter()
        found.seek_to_last()
        while found.valid():
            position, _ = _KEY.unpack(found.key())
            found.seek(_KEY.pack(position, 0))
            if found.valid() and found.key() == _KEY.pack(position, 0):
                return int(position)
            self._remove(_KEY.pack(position, 0), _END, "cannot remove what a crash left half-done")
            found = self._family.iter()
            found.seek_to_last()
        found.status()
        return self.first - 1

    def _head(self, position: int) -> _Head:
        return self._cell(position)[0]

    def _cell(self, position: int) -> tuple[_Head, bytes]:
        """An entry's head, and the first piece of its payload."""
        cell = self._get(position, [0])[0]
        if cell is None or len(cell) < _HEAD.size:
            raise StoreCorrupt(f"the update log has lost the entry at position {position}")
        return _Head(*_HEAD.unpack_from(cell)), cell[_HEAD.size :]

    def _payload(self, position: int, head: _Head, first: bytes) -> bytes:
        others = self._get(position, range(1, head.pieces))
        if None in others:
            raise StoreCorrupt(f"the update log has lost a piece of the entry at position {position}")
        payload = b"".join((first, *(other or b"" for other in others)))
        if len(payload) != head.nbytes or _checksum(payload, position) != head.checksum:
            raise StoreCorrupt(f"the update log's entry at position {position} is damaged")
        return payload

    def _get(self, position: int, pieces: Sequence[int]) -> list[bytes | None]:
        """Cells of an entry. A list get releases the GIL, a single one would not."""
        with engine_errors(f"cannot read the update log at position {position}"):
            cells: list[bytes | None] = self._family.get([_KEY.pack(position, piece) for piece in pieces])
            return cells


def _checksum(payload: Payload, position: int) -> int:
    """Of a payload and its place: an entry found elsewhere fails it."""
    return xxhash.xxh3_64_intdigest(payload, seed=position)
