"""What a producer pushes: batches of changes, and their form in the update log. Touches neither store nor arena.

    u32  bytes of the msgpack map
    map  {"producer", "epoch", "seq", "mark", "digest", "changes": [[version, op, dtype, n, row_bytes], ...]}
    then, each padded to 8 bytes from the start: ids u64 [n] and encoded rows u8 [n, row_bytes] of each change
All numbers little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgpack
import numpy as np
import xxhash

from embcache.owner.flight import Ids, Rows

ASSIGN, ADD, DELETE = OPS = ("assign", "add", "delete")

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class TableChange:
    """One op on rows of a table version: ids u64 [n], repeats allowed, and encoded rows u8 [n, row_bytes].

    `dtype` is the code of the rows' own form, which need not be the table's. `delete` has rows of no bytes.
    """

    version: int
    op: str
    dtype: int
    ids: Ids
    rows: Rows

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + self.rows.nbytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that count once, and all or none. `seq` is the producer's number for it, `mark` its place in its input.

    `digest` tells a batch from another one under the same number. An opening is a batch without changes, of the new
    epoch, with the rest as the producer's last batch had it.
    """

    producer: str
    epoch: int
    seq: int
    mark: bytes
    digest: bytes
    changes: tuple[TableChange, ...]

    @property
    def nbytes(self) -> int:
        return sum(change.nbytes for change in self.changes)


def digest_of(mark: bytes, changes: Sequence[tuple[str, str, int, Ids, Rows]]) -> bytes:
    """The digest of a batch's content: of (table, op, dtype, ids, rows) for each change, and of the mark."""
    state = xxhash.xxh3_128(msgpack.packb([mark, [[name, op, dtype, len(ids)] for name, op, dtype, ids, _ in changes]]))
    for _, _, _, ids, rows in changes:
        state.update(np.ascontiguousarray(ids).data)
        state.update(np.ascontiguousarray(rows).data)
    return state.digest()


def to_payload(batch: Batch) -> bytes:
    """The batch as an entry of the log."""
    shapes = [[c.version, c.op, c.dtype, len(c.ids), c.rows.shape[1]] for c in batch.changes]
    head = msgpack.packb(
        {
            "producer": batch.producer,
            "epoch": batch.epoch,
            "seq": batch.seq,
            "mark": batch.mark,
            "digest": batch.digest,
            "changes": shapes,
        }
    )
    pieces = [_LENGTH.pack(len(head)), head, bytes(-(_LENGTH.size + len(head)) % 8)]
    for change in batch.changes:
        for array in (change.ids, change.rows):
            pieces += [np.ascontiguousarray(array).data.cast("B") if array.size else b"", bytes(-array.nbytes % 8)]
    return b"".join(pieces)


def from_payload(payload: bytes) -> Batch:
    """The batch of `to_payload`. Its arrays look into `payload`."""
    (length,) = _LENGTH.unpack_from(payload)
    head = msgpack.unpackb(payload[_LENGTH.size : _LENGTH.size + length])
    at = _padded(_LENGTH.size + length)
    changes = []
    for version, op, dtype, n, row_bytes in head.pop("changes"):
        ids = np.frombuffer(payload, np.uint64, n, at)
        at += 8 * n
        rows = np.frombuffer(payload, np.uint8, n * row_bytes, at).reshape(n, row_bytes)
        at += _padded(n * row_bytes)
        changes.append(TableChange(version, op, dtype, ids, rows))
    return Batch(changes=tuple(changes), **head)


def _padded(size: int) -> int:
    return -(-size // 8) * 8
