"""Row dtypes: codes, names, sizes, and their conversion from and to float32 in NumPy.

    code  name  an element on the wire        an encoded row of dim d (at rest, in memory)
    0     f32   little-endian float32         4d bytes, the values
    1     f16   little-endian float16         2d bytes, the values
    2     bf16  upper half of a float32, u16  2d bytes, the values
    3     q8    u8 code                       8 + d bytes: float32 scale, float32 bias, d codes

Narrowing rounds to the nearest, ties to even, and finite values that are too large become the largest finite one.
q8: bias = min, scale = (max - min) / 255, code = rint((value - bias) / scale) within 0..255, and 0 where scale is 0;
value = code * scale + bias; every step rounds to float32.
Imports NumPy alone; the service shares this file with the client.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

F32: Final = 0
F16: Final = 1
BF16: Final = 2
Q8: Final = 3

NAMES: Final = ("f32", "f16", "bf16", "q8")
CODES: Final = {name: code for code, name in enumerate(NAMES)}
ELEMENTS: Final = tuple(np.dtype(name) for name in ("<f4", "<f2", "<u2", "u1"))  # of an element on the wire, by code

MAX_DIM: Final = 65536

_MAX_F16: Final = np.float16(65504)
_MAX_BF16: Final = np.uint16(0x7F7F)
_HALF_MAX_F32: Final = np.finfo(np.float32).max / np.float32(2)  # q8 spans at most the largest float32

# The largest value, by code, that narrowing leaves near what it was, whatever else is in its row.
LARGEST: Final = (
    np.finfo(np.float32).max,
    np.float32(_MAX_F16),
    np.uint32(int(_MAX_BF16) << 16).view(np.float32),
    _HALF_MAX_F32,
)


class WireRows(NamedTuple):
    """Rows of a dtype as they travel: `values` [n, dim] of ELEMENTS[code]; `scale` and `bias` float32 [n], q8 only."""

    values: NDArray[np.generic]
    scale: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None


def code_of(name: str) -> int:
    """The code of a dtype's name; ValueError for any other."""
    try:
        return CODES[name]
    except (KeyError, TypeError):
        raise ValueError(f"dtype {name!r} is none of {', '.join(NAMES)}") from None


def row_bytes(code: int, dim: int) -> int:
    """Bytes of one encoded row."""
    return 8 + dim if code == Q8 else int(ELEMENTS[code].itemsize) * dim


def encode(rows: NDArray[np.float32], code: int) -> WireRows:
    """float32 [n, dim] -> the rows in the dtype of `code`, as they travel; f32 is not copied.

    Raises ValueError for q8 of rows that are not finite.
    """
    if code == F32:
        return WireRows(np.ascontiguousarray(rows, "<f4"))
    if code == F16:
        return WireRows(to_f16(rows))
    if code == BF16:
        return WireRows(to_bf16(rows))
    return to_q8(rows)


def decode(
    values: NDArray[np.generic],
    code: int,
    scale: NDArray[np.float32] | None = None,
    bias: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Rows as they travel, [n, dim] -> float32 [n, dim]; f32 is not copied."""
    if code == BF16:
        return from_bf16(values.view("<u2"))
    if code == Q8:
        if scale is None or bias is None:
            raise ValueError("q8 rows need scale and bias")
        return from_q8(values.view(np.uint8), scale, bias)
    return values.astype(np.float32, copy=False)


def to_f16(rows: NDArray[np.float32]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        narrow = rows.astype("<f2")
    too_large = np.isinf(narrow) & np.isfinite(rows)
    if too_large.any():
        narrow[too_large] = np.copysign(_MAX_F16, narrow[too_large])
    return narrow


def to_bf16(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(rows, "<f4").view("<u4")
    exponent_full = (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)  # infinity or NaN
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    narrow = (rounded >> np.uint32(16)).astype("<u2")
    too_large = ((narrow & np.uint16(0x7FFF)) == np.uint16(0x7F80)) & ~exponent_full
    narrow[too_large] = (narrow[too_large] & np.uint16(0x8000)) | _MAX_BF16
    if exponent_full.any():
        upper = (bits[exponent_full] >> np.uint32(16)).astype("<u2")
        is_nan = (bits[exponent_full] & np.uint32(0x007FFFFF)) != 0
        narrow[exponent_full] = upper | np.where(is_nan, np.uint16(0x0040), np.uint16(0))
    return narrow


def from_bf16(values: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (values.astype("<u4") << np.uint32(16)).view("<f4")


def to_q8(rows: NDArray[np.float32]) -> WireRows:
    rows = np.ascontiguousarray(rows, np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(f"row {int(np.argmin(np.isfinite(rows).all(axis=1)))} holds NaN or infinity; q8 has neither")
    with np.errstate(over="ignore"):
        span = rows.max(axis=1) - rows.min(axis=1)
    wide = ~np.isfinite(span)
    if wide.any():
        limit = np.where(wide, _HALF_MAX_F32, np.finfo(np.float32).max)[:, None]
        rows = rows.clip(-limit, limit)
        span = rows.max(axis=1) - rows.min(axis=1)
    bias = rows.min(axis=1).astype("<f4")
    scale = (span / np.float32(255)).astype("<f4")
    divisor = np.where(scale == 0, np.float32(np.inf), scale)[:, None]
    codes = np.rint((rows - bias[:, None]) / divisor).clip(0, 255).astype(np.uint8)
    return WireRows(codes, scale, bias)


def from_q8(codes: NDArray[np.uint8], scale: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.float32]:
    """codes [n, dim], scale and bias [n] or [n, 1] -> float32 [n, dim]."""
    rows = codes.astype(np.float32)
    rows *= scale.reshape(-1, 1)
    rows += bias.reshape(-1, 1)
    return rows
