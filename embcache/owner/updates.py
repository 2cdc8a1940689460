"""What a producer pushes: batches of changes of rows. Touches neither store nor arena."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgpack
import numpy as np
import xxhash

from embcache.owner.flight import Ids, Rows

LEAST_BYTES = 256


@dataclass(frozen=True, slots=True)
class RowsChange:
    """One op on rows of a table version: ids u64 [n], repeats allowed, and encoded rows u8 [n, row_bytes].

    `dtype` is the code of the rows' own form, which need not be the table's. `delete` has rows of no bytes.
    followers: other versions of the table that the same is done to.
    """

    version: int
    op: str
    dtype: int
    ids: Ids
    rows: Rows
    followers: tuple[int, ...] = ()

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
    epoch, with the rest as the producer's last batch had it.
    """

    producer: str
    epoch: int
    seq: int
    mark: bytes
    digest: bytes
    changes: tuple[RowsChange, ...]

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
