"""When a row expires: behind each row of a table whose rows may, on disk and in memory, stand 8 bytes that say it.

They are milliseconds since 1970, u64 little-endian, or NEVER. From that millisecond on whoever answers with the row
answers `missing` instead, by its own clock, whichever tier the row came from: so no tier has to be told. That the row
and its expiry are of one moment, the tier proves as it does for the row (sweep.py). Rows of other tables are without.
expiring.py has the kernels.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from embcache.host.convert import decode_rows, encode_rows
from embcache.spec import EXPIRY_BYTES, TableSpec

NEVER = 0
UNSAID = (1 << 64) - 1  # of a change to a row: it keeps the expiry that it has

Rows = NDArray[np.uint8]
Times = NDArray[np.uint64]


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def after(at: int, ttl_s: int) -> int:
    """When what is accepted at a time, in ms, for so many seconds, expires; NEVER for 0 seconds."""
    return at + 1000 * ttl_s if ttl_s else NEVER


def expiries_of(rows: Rows) -> Times:
    """u64 [n]: when rows u8 [n, row_bytes] expire that say it."""
    tails = np.ascontiguousarray(rows[:, -EXPIRY_BYTES:])
    times: Times = tails.view(np.uint64)[:, 0]
    return times


def with_expiries(rows: Rows, times: Times) -> Rows:
    """Rows u8 [n, bytes] with their expiries u64 [n] behind them: u8 [n, bytes + 8]."""
    joined = np.empty((len(rows), rows.shape[1] + EXPIRY_BYTES), np.uint8)
    joined[:, :-EXPIRY_BYTES] = rows
    joined[:, -EXPIRY_BYTES:] = np.ascontiguousarray(times, np.uint64).view(np.uint8).reshape(-1, EXPIRY_BYTES)
    return joined


def are_over(times: Times, at: int) -> NDArray[np.bool_]:
    """bool [n]: which of these have expired at a time in ms."""
    over: NDArray[np.bool_] = (times != NEVER) & (times <= np.uint64(at))
    return over


def as_in_memory(cold: Rows, spec: TableSpec) -> tuple[Rows, int]:
    """Encoded rows as on disk, u8 [n, cold_row_bytes], as memory has them; how many values were beyond its dtype."""
    if spec.cold_code == spec.dtype_code:
        return cold, 0
    rows, saturated = encode_rows(decode_rows(cold, spec.cold_code, spec.dim), spec.dtype_code)
    return (with_expiries(rows, expiries_of(cold)) if spec.expires else rows), saturated
