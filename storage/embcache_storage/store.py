"""What a store of embedding rows is: its errors and the `RowStore` protocol.

A store knows bytes, feature IDs and version numbers; table names, dtypes and positions are its owner's business.
This module imports no engine, so whoever builds against the seam needs none either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np
import numpy.typing as npt

from embcache_storage.log import UpdateLog

U64Array = npt.NDArray[np.uint64]
U8Array = npt.NDArray[np.uint8]

ABSENT: Final = 0
"""State of an id that has no row in the version."""
FOUND: Final = 1
"""State of an id whose row was read and whose checksum holds."""
DAMAGED: Final = 2
"""State of an id that has a row which cannot be read, or whose checksum fails."""


# StoreError
#   StoreCorrupt     what lies on disk is not what was written; `ids` names rows where they are known
#   StoreFull        no space left: nothing of the call was kept, reads go on, and later writes work once there is room
#   StoreStuck       an earlier failure keeps the store from writing, though there is room: it has to be opened anew
#   StoreLocked      another process, or another store in this one, has the folder open
#   StoreTimeout     the store did not open in time
#   StoreClosed      the store was closed
#   VersionGone      the version does not exist, or was dropped while the call ran
#   VersionExists    the version to be created exists already
class StoreError(Exception):
    """Anything a store refuses or fails to do."""


class StoreCorrupt(StoreError):
    """What lies on disk is not what was written. `ids` are the feature IDs concerned, where they are known."""

    def __init__(self, message: str, ids: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.ids = tuple(ids)


class StoreFull(StoreError):
    """No space is left on the disk: nothing of the call was kept."""


class StoreStuck(StoreError):
    """After an earlier failure the store writes nothing more until it is closed and opened anew; reads go on."""


class StoreLocked(StoreError):
    """Somebody else has the store open."""


class StoreTimeout(StoreError):
    """The store did not open within its time limit."""


class StoreClosed(StoreError):
    """The store was closed before or during the call."""


class VersionGone(StoreError):
    """The version does not exist, or was dropped while the call ran."""

    def __init__(self, version: int) -> None:
        super().__init__(f"version {version} does not exist in the store, or was dropped")
        self.version = version


class VersionExists(StoreError):
    """The version to be created exists already."""

    def __init__(self, version: int) -> None:
        super().__init__(f"version {version} exists already; version numbers are never used again")
        self.version = version


@dataclass(frozen=True, slots=True)
class Change:
    """Rows to put into a version, or to remove from it: ids u64[n], rows u8[n, row_bytes], or None to remove."""

    version: int
    ids: U64Array
    rows: U8Array | None


class BulkLoad(Protocol):
    """Rows of one new version on their way in. Nobody sees any of them before `commit`, nor after an `abort`.

    One thread at a time. As a context manager it aborts at the end of the block unless it was committed.
    """

    @property
    def rows(self) -> int:
        """How many rows were added so far."""
        ...

    def add(self, ids: U64Array, rows: U8Array) -> None:
        """Add rows u8[n, row_bytes] for ids u64[n], strictly ascending within and over all calls.

        ValueError names the first id out of order or the wrong shape; StoreFull when the disk is full. After an error
        the load can only be aborted.
        """
        ...

    def commit(self) -> int:
        """Create the version with all rows at once and durably; returns their number. VersionExists, StoreFull."""
        ...

    def abort(self) -> None:
        """Forget the rows and remove their files. Does nothing after `commit` or another `abort`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class RowStore(Protocol):
    """Rows of bytes by (version, feature ID), durable, checked on every read.

    All methods may be called from any thread at once. Any of them may raise StoreClosed; all that take a version raise
    VersionGone when there is none.
    """

    @property
    def log(self) -> UpdateLog:
        """The update log in the same database: `commit` and `put_meta` are in one order with its entries."""
        ...

    @property
    def identity(self) -> str:
        """Which files these are: a copy of them has another one, though all that they say is the same."""
        ...

    def close(self) -> None:
        """Wait for calls in progress, then let go of the files. A second call does nothing."""
        ...

    def versions(self) -> list[int]:
        """The versions there are, ascending, known to a catalogue or not."""
        ...

    def create(self, version: int, row_bytes: int) -> None:
        """Create an empty version, durably. VersionExists."""
        ...

    def drop(self, version: int) -> None:
        """Remove a version and its rows. Reads in progress finish or raise VersionGone."""
        ...

    def read(self, version: int, row_bytes: int, ids: U64Array) -> tuple[U8Array, U8Array]:
        """Read the rows of ids u64[n]: (rows u8[n, row_bytes], state u8[n] of ABSENT, FOUND or DAMAGED).

        Rows whose state is not FOUND are zeros. Ids come in any order; a repeated one is read twice.
        """
        ...

    def bulk(self, version: int, row_bytes: int) -> BulkLoad:
        """Begin to fill a version that does not exist yet; its `commit` creates it. VersionExists."""
        ...

    def commit(self, changes: Sequence[Change], meta: Mapping[str, bytes | None] | None = None) -> None:
        """Make changes, in order, and keep meta values beside them: all or none, also after kill -9 and power loss.

        A meta value of None is forgotten. What is committed survives kill -9; power loss it survives once a sync of the
        log of the same database, a `put_meta` or a `flush` has returned after it.
        """
        ...

    def flush(self) -> None:
        """Move meta values and the update log into files: a start after a crash has them not to replay.

        All that was committed before survives power loss once this returns.
        """
        ...

    def flush_all(self) -> None:
        """As `flush`, and rows too: who copies the files has nothing to replay, but for what is written meanwhile."""
        ...

    def scan(self, version: int, row_bytes: int, start: int, limit: int) -> tuple[U64Array, U8Array]:
        """The first `limit` rows from id `start` on: (ids u64[m] ascending, rows u8[m, row_bytes]).

        m < limit means that the version ends there. StoreCorrupt names the damaged ids, or says from which id on
        nothing can be read.
        """
        ...

    def count(self, version: int) -> int:
        """How many rows there are: exact after a bulk load, an estimate once `commit` has touched the version.

        The estimate counts a row that was written again as another one, until the files are merged.
        """
        ...

    def is_counted(self, version: int) -> bool:
        """Whether `count` is exact, and no estimate."""
        ...

    def disk_bytes(self, version: int) -> int:
        """Bytes of the version's files."""
        ...

    def get_meta(self, key: str) -> bytes | None:
        """The value last put under `key`, or None. Versions and meta values do not share a name space."""
        ...

    def metas(self, prefix: str) -> dict[str, bytes]:
        """All meta values whose key begins with `prefix`."""
        ...

    def put_meta(self, key: str, value: bytes) -> None:
        """Keep a value under `key`; it survives power loss once this returns."""
        ...

    def memory(self) -> dict[str, int]:
        """Bytes of host memory by use, for metrics."""
        ...
