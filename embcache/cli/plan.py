"""What a table would take in each tier. Arithmetic only: nothing is opened, read or reserved."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from embcache.gpu.layout import WAYS, stride_of
from embcache.gpu.pools import set_bytes
from embcache.host.tables import region_bytes
from embcache.spec import Dtype, row_bytes

CELL_BYTES = 24
"""On disk beside a row: its id (8), RocksDB's sequence number (8) and the row's checksum (8)."""
INDEX_BITS = 10
"""On disk for each row: its part of the Bloom filter. Block indexes come on top and are smaller than the rest."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes for `rows` rows of a dtype: of one encoded row, in host memory with all rows held, and on disk."""

    dtype: Dtype
    rows: int
    row: int
    warm: int
    cold: int

    def warm_rows(self, capacity: int) -> int:
        """How many of the rows a warm tier of `capacity` bytes holds, with nothing else in it."""
        return self.rows if self.warm <= capacity else int(self.rows * capacity / self.warm)

    def hot_rows(self, capacity: int) -> int:
        """How many of the rows a hot tier of `capacity` bytes holds, with nothing else in it."""
        return min(self.rows, capacity // set_bytes(stride_of(self.row)) * WAYS)


def need(rows: int, dim: int, dtype: Dtype, *, add: bool = False) -> Need:
    """What `rows` rows of `dim` elements take. The disk's part is an estimate: rows are not compressed.

    add: of a table that takes `add`, and is f32 on disk.
    """
    row, cold_row = row_bytes(dim, dtype), row_bytes(dim, "f32" if add else dtype)
    return Need(dtype, rows, row, region_bytes(row, rows), rows * (cold_row + CELL_BYTES) + rows * INDEX_BITS // 8)


def parse_rows(text: str) -> int:
    """A number of rows: "1000000", "1_000_000", "1e6", "100M", "2.5B". ValueError says what would be right."""
    scale = {"K": 10**3, "M": 10**6, "B": 10**9}.get(text[-1:].upper(), 1)
    try:
        count = Decimal(text[:-1] if scale > 1 else text) * scale
        if 1 <= count < 2**63 and count == int(count):
            return int(count)
    except ArithmeticError:  # no number, or one beyond all bounds
        pass
    raise ValueError(f"{text!r} is no number of rows; such are 1000000, 1_000_000, 1e6 and 100M")
