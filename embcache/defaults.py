"""Default rows: what an id without a row of its own is answered with, and what `add` adds to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embcache.host.convert import encode_rows
from embcache.host.memory import address_of
from embcache.host.rows import F32, fill_uniform
from embcache.spec import Constant, TableSpec, Uniform


def default_row_of(spec: TableSpec) -> NDArray[np.uint8]:
    """The encoded default row of a table, u8 [row_bytes], for ever; zeros where each id has a row of its own."""
    row = np.zeros((1, spec.dim), np.float32)
    if isinstance(spec.default, Constant):
        row[0] = spec.default.constant
    encoded, _ = encode_rows(row, spec.dtype_code)
    row_of_all = np.zeros(spec.row_bytes, np.uint8)
    row_of_all[: encoded.shape[1]] = encoded[0]
    return row_of_all


def default_values(spec: TableSpec, ids: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The default rows of ids u64 [n], f32 [n, dim], before they are rounded to the table's dtype."""
    rows = np.zeros((ids.size, spec.dim), np.float32)
    if isinstance(spec.default, Constant):
        rows[:] = spec.default.constant
    elif isinstance(spec.default, Uniform):
        places, bound = np.arange(ids.size), np.float32(spec.default.uniform)
        fill_uniform(ids, places, bound, F32, spec.dim, address_of(rows))
    return rows
