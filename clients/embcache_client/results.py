"""What a lookup returns, from the client and from an EmbeddingCache in the caller's own process alike.

Arrays are views: of the receive buffer in the client, which is not used again while any of them lives. Knows rowtypes
and nothing of the wire.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache_client import rowtypes

MISSING: Final = 0  # no such row: the table's default row stands in its place
HOT: Final = 1
WARM: Final = 2
COLD: Final = 3
LATE: Final = 4  # the deadline passed before the row was found: default row
FAILED: Final = 5  # the row is damaged: default row
NEAR: Final = 6  # the client's own near-cache

STATUS_NAMES: Final = ("missing", "hot", "warm", "cold", "late", "failed", "near")


class Rows:
    """Rows of a table.

    table, version: which table, and which version of it.
    dtype: "f32", "f16", "bf16" or "q8", as the rows came.
    raw: [n, dim] of that dtype: float32, float16, uint16 (bf16's bits) or uint8 (q8's codes).
    scale, bias: float32 [n] for q8, else None.
    """

    __slots__ = ("_rows", "bias", "dtype", "raw", "scale", "table", "version")

    def __init__(
        self,
        table: str,
        version: str,
        dtype: str,
        raw: NDArray[np.generic],
        *,
        scale: NDArray[np.float32] | None = None,
        bias: NDArray[np.float32] | None = None,
    ) -> None:
        self.table = table
        self.version = version
        self.dtype = dtype
        self.raw = raw
        self.scale = scale
        self.bias = bias
        self._rows: NDArray[np.float32] | None = None

    @property
    def rows(self) -> NDArray[np.float32]:
        """float32 [n, dim]: `raw` itself for f32, otherwise converted at the first use."""
        if self._rows is None:
            self._rows = rowtypes.decode(self.raw, rowtypes.code_of(self.dtype), self.scale, self.bias)
        return self._rows

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.table!r}, version {self.version!r}, {self.dtype}, {self.raw.shape})"


class TableRows(Rows):
    """The rows of one query: one for each id, or for each bag.

    status: uint8 [n], a status for each id (not for each bag); see STATUS_NAMES.
    """

    __slots__ = ("status",)

    def __init__(
        self,
        table: str,
        version: str,
        dtype: str,
        raw: NDArray[np.generic],
        status: NDArray[np.uint8],
        *,
        scale: NDArray[np.float32] | None = None,
        bias: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(table, version, dtype, raw, scale=scale, bias=bias)
        self.status = status

    @property
    def found(self) -> NDArray[np.bool_]:
        """bool [n]: True where the id has a row and it is this one, False where a default row stands in."""
        found: NDArray[np.bool_] = (self.status != MISSING) & (self.status != LATE) & (self.status != FAILED)
        return found


class RowPage(Rows):
    """Some rows of a table in the order of their ids, as a reader of the whole table gets them.

    ids: uint64 [n], ascending. next_id: where the next page starts, None after the last.
    """

    __slots__ = ("ids", "next_id")

    def __init__(
        self,
        table: str,
        version: str,
        dtype: str,
        raw: NDArray[np.generic],
        ids: NDArray[np.uint64],
        *,
        next_id: int | None,
        scale: NDArray[np.float32] | None = None,
        bias: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(table, version, dtype, raw, scale=scale, bias=bias)
        self.ids = ids
        self.next_id = next_id


class ChangedIds(NamedTuple):
    """IDs of a table whose rows changed since a position, as far as one answer tells: uint64 [n], ascending.

    All up to `position` are told then, `applied` is up to where there are any, positions of `history`. version: the
    live one, which has been that all the while.
    """

    table: str
    version: str
    history: str
    position: int
    applied: int
    ids: NDArray[np.uint64]


class LookupResult(Mapping[str, TableRows]):
    """The answer to a lookup: a mapping from table name to its rows.

    results: the answers in the order of the queries. Where a table was asked for several times, only this list has all
        of them; the mapping has the first.
    position, history: the place in the service's stream of updates, read before the rows: they may be newer, never
        older. Positions compare only within one history.
    """

    __slots__ = ("_by_table", "history", "position", "results")

    def __init__(self, results: list[TableRows], position: int, history: str) -> None:
        self.results = results
        self.position = position
        self.history = history
        self._by_table: dict[str, TableRows] = {}
        for rows in results:
            self._by_table.setdefault(rows.table, rows)

    def __getitem__(self, table: str) -> TableRows:
        return self._by_table[table]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_table)

    def __len__(self) -> int:
        return len(self._by_table)

    def __repr__(self) -> str:
        return f"LookupResult({self.results!r}, position {self.position}, history {self.history!r})"


class Prefetched(NamedTuple):
    """Of `ids` ids, so many are `queued`: their rows were not in memory and will be, unless there are none."""

    ids: int
    queued: int
