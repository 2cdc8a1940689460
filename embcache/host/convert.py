"""Whole arrays of rows between f32 and the encoded form, for imports, exports and tests.

Encoding saturates and says how often; it takes finite values only - `first_nonfinite` tells where they are not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embcache.host.memory import address_of
from embcache.host.rows import BF16, F16, Q8, decode_all, encode_all

_LARGEST = (3.4028235e38, 65504.0, 3.3895314e38)


def row_bytes_of(dtype: int, dim: int) -> int:
    """Bytes of an encoded row."""
    return 8 + dim if dtype == Q8 else dim * (2 if dtype in (F16, BF16) else 4)


def dim_of(dtype: int, row_bytes: int) -> int:
    """Elements of an encoded row, as many as it has bytes for."""
    return max(0, row_bytes - 8) if dtype == Q8 else row_bytes // (2 if dtype in (F16, BF16) else 4)


def encode_rows(rows: NDArray[np.float32], dtype: int) -> tuple[NDArray[np.uint8], int]:
    """Rows f32 [n, dim] as encoded rows u8 [n, row_bytes], and how many values were beyond the dtype's range."""
    rows = np.ascontiguousarray(rows, np.float32)
    count, dim = rows.shape
    row_bytes = row_bytes_of(dtype, dim)
    encoded = np.empty((count, row_bytes), np.uint8)
    encode_all(dtype, rows, address_of(encoded), row_bytes)
    saturated = 0
    if dtype in (F16, BF16):
        saturated = int(np.count_nonzero(np.abs(rows) > np.float32(_LARGEST[dtype])))
    return encoded, saturated


def decode_rows(encoded: NDArray[np.uint8], dtype: int, dim: int) -> NDArray[np.float32]:
    """Encoded rows u8 [n, row_bytes] as f32 [n, dim]."""
    encoded = np.ascontiguousarray(encoded)
    out = np.empty((encoded.shape[0], dim), np.float32)
    decode_all(dtype, address_of(encoded), encoded.shape[1], out)
    return out


def first_nonfinite(rows: NDArray[np.float32]) -> int:
    """The index of the first row that holds a NaN or an infinity; -1 if none does."""
    bad = ~np.isfinite(rows).all(axis=1)
    return int(np.argmax(bad)) if bad.any() else -1
