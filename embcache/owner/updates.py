"""What changes rows: batches that a producer pushes, and sweeps of what has expired. Touches no store, no arena."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgpack
import numpy as np
import xxhash

from embcache.owner.flight import Ids, Rows

LEAST_BYTES = 256
EXPIRE: Final = "expire"  # the op of a sweep, beside those that producers know


@dataclass(frozen=True, slots=True)
class RowsChange:
    """One op on rows of a table version: ids u64 [n], repeats allowed, and encoded rows u8 [n, row_bytes].

    `dtype` is the code of the rows' own form, which need not be the table's. `delete` has rows of no bytes.
    followers: other versions of the table that the same is done to. ttl_s: what the rows expire after, 0 for never;
    None: as the table has it, or as the row that is added to has it.
    """

    version: int
    op: str
    dtype: int
    ids: Ids
    rows: Rows
    followers: tuple[int, ...] = ()
    ttl_s: int | None = None

    @property
    def versions(self) -> tuple[int, ...]:
        """All versions that it is for."""
        return (self.version, *self.followers)

    @property
    def nbytes(self) -> int:
        """What it counts as among what waits: applying a small row takes about as long as one of LEAST_BYTES."""
        return max(self.ids.nbytes + self.rows.nbytes, LEAST_BYTES * len(self.ids)) * len(self.versions)


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that count once, and all or none. `seq` is the producer's number for it, `mark` its place in its input.

    `digest` tells a batch from another one under the same number. An opening is a batch without changes, of the new
    epoch, with the rest as the producer's last batch had it. `at` is when it was accepted, in ms since 1970: by that
    time alone its rows expire, whenever it is applied. `released`: 0, or the position of
    a batch that was set aside and of which this is what is left (quarantine.py): it is nobody's next batch then.
    """

    producer: str
    epoch: int
    seq: int
    mark: bytes
    digest: bytes
    changes: tuple[RowsChange, ...]
    at: int = 0
    released: int = 0

    @property
    def nbytes(self) -> int:
        return sum(change.nbytes for change in self.changes)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Removes, of the ids of its changes, the rows that had expired at a time in ms.

    A row that was written again since somebody saw it expired has not, and stays.
    """

    at: int
    changes: tuple[RowsChange, ...]

    @property
    def nbytes(self) -> int:
        return sum(change.nbytes for change in self.changes)


def sweep_of(version: int, ids: Ids, at: int) -> Sweep:
    """The sweep of rows of ids u64 [n] of a version, distinct."""
    return Sweep(at, (RowsChange(version, EXPIRE, 0, ids, np.zeros((len(ids), 0), np.uint8)),))


Told: TypeAlias = tuple[str, str, int, Ids, Rows, int | None]  # of a change as sent: table, op, dtype, ids, rows, ttl_s


def digest_of(mark: bytes, changes: Sequence[Told]) -> bytes:
    """The digest of a batch's content and of its mark."""
    told = [
        [name, op, dtype, len(ids), *(() if ttl_s is None else (ttl_s,))] for name, op, dtype, ids, _, ttl_s in changes
    ]
    state = xxhash.xxh3_128(msgpack.packb([mark, told]))
    for _, _, _, ids, rows, _ in changes:
        state.update(np.ascontiguousarray(ids).data)
        state.update(np.ascontiguousarray(rows).data)
    return state.digest()
