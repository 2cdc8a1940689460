"""Rows on their way into another form: a tile of them is found, and converted or pooled while it is in the cache.

Otherwise all rows of a lookup would go to memory and come back for it, which costs more than to find them. A tile is as
many results as have their rows in TILE_BYTES. A result whose rows are not all known yet is not done: its rows are kept
at OUT, where those that other tiers find join them, and lookup.py expresses it in the end.
"""

from __future__ import annotations

import numpy as np

from embcache.host.jit import compiled_at, inlined, part
from embcache.host.layout import LINE
from embcache.host.machine import copy_bytes, load_i64, load_u8, load_u32, store_i64, store_u8
from embcache.host.pool import pool_bag
from embcache.host.rows import PIECE, convert_within, row_bytes_of, values_bytes_of
from embcache.host.segment import (
    BIAS,
    DIM,
    DONE,
    KEPT,
    LENGTHS,
    NO_STATUS,
    POOLING,
    RESULTS,
    SCALE,
    STORED,
    TILE,
    UNITS,
    WARM,
    WEIGHTS,
    WIRE,
)

TILE_BYTES = 1 << 16


def tile_room(row_bytes: int) -> int:
    """Bytes that a tile of such rows needs: a row at least, a cache line to begin with one, and room to convert in."""
    return max(TILE_BYTES, row_bytes) + LINE + 4 * max(2 * row_bytes, PIECE)  # a row has no more values than bytes


def address() -> int:
    """Where `express` stands, for forms: compiled, or loaded, on the first call."""
    return compiled_at(express, 7)


@inlined
def begin_of(form):
    """Where a form's tile begins: on a cache line."""
    return (load_i64(form + 8 * TILE) + LINE - 1) // LINE * LINE


@inlined
def _scratch_of(form, row_bytes):
    """Behind its rows, where there is room to convert."""
    return begin_of(form) + max(TILE_BYTES, row_bytes)


@inlined
def _length(form, unit):
    """Ids of a result."""
    lengths = load_i64(form + 8 * LENGTHS)
    return np.int64(load_u32(lengths + 4 * unit)) if lengths != 0 else 1


@part
def tile_from(form, first, most):
    """(results, ids) of the tile that begins with a result: of at most so many ids, or one result."""
    units, ids = np.int64(0), np.int64(0)
    while first + units < load_i64(form + 8 * UNITS):
        length = _length(form, first + units)
        if units > 0 and ids + length > most:
            break
        ids += length
        units += 1
    return units, ids


@part
def forget_all(form):
    """No result is done."""
    for unit in range(load_i64(form + 8 * UNITS)):
        store_u8(load_i64(form + 8 * DONE) + unit, np.uint8(0))
    store_i64(form + 8 * KEPT, load_i64(form + 8 * UNITS))


@inlined
def _keep(done, kept, rows, nbytes):
    """A result is not done: its rows go to where they are kept, unless they are there."""
    store_u8(done, np.uint8(0))
    if kept != rows:
        copy_bytes(kept, rows, nbytes)


@inlined
def _places(form, unit):
    """Where a result goes: (values, scale, bias)."""
    values = load_i64(form + 8 * RESULTS) + unit * values_bytes_of(load_i64(form + 8 * WIRE), load_i64(form + 8 * DIM))
    return values, load_i64(form + 8 * SCALE) + 4 * unit, load_i64(form + 8 * BIAS) + 4 * unit


@part
def _express_rows(form, first, units, rows, status, kept):
    """Convert a tile's rows, beginning with the result `first`; -> how many are not done.

    rows, status: of the tile's ids, NO_STATUS where one is left; kept: where the rows of results go that are not done;
    all by address. Rows that are not of the warm tier are kept: what a default row is may depend on its id.
    """
    stored, wire, dim = load_i64(form + 8 * STORED), load_i64(form + 8 * WIRE), load_i64(form + 8 * DIM)
    row_bytes, done, undone = row_bytes_of(stored, dim), load_i64(form + 8 * DONE) + first, np.int64(0)
    for unit in range(units):
        if load_u8(status + unit) == WARM:
            store_u8(done + unit, np.uint8(1))
        else:
            _keep(done + unit, kept + unit * row_bytes, rows + unit * row_bytes, row_bytes)
            undone += 1
    values, scale, bias = _places(form, first)
    scratch = _scratch_of(form, row_bytes)
    convert_within(stored, wire, dim, rows, units, values, scale, bias, done, np.int64(0), scratch)
    return undone


@inlined
def _is_answered(status, ids):
    i = np.int64(0)
    while i < ids and load_u8(status + i) != NO_STATUS:
        i += 1
    return i == ids


@part
def _express_bags(form, first, units, before, rows, status, kept):
    """Pool a tile's bags, in the same words; before: how many ids the bags before `first` have."""
    stored, dim, weights = load_i64(form + 8 * STORED), load_i64(form + 8 * DIM), load_i64(form + 8 * WEIGHTS)
    row_bytes, done, undone = row_bytes_of(stored, dim), load_i64(form + 8 * DONE), np.int64(0)
    scratch = _scratch_of(form, row_bytes)
    i = np.int64(0)
    for unit in range(first, first + units):
        ids, at = _length(form, unit), rows + i * row_bytes
        if _is_answered(status + i, ids):
            weights_here = weights + 4 * (before + i) if weights != 0 else 0
            how = (weights_here, load_i64(form + 8 * POOLING), load_i64(form + 8 * WIRE))
            pool_bag(stored, dim, at, status + i, ids, *how, *_places(form, unit), scratch)
            store_u8(done + unit, np.uint8(1))
        else:
            _keep(done + unit, kept + i * row_bytes, at, ids * row_bytes)
            undone += 1
        i += ids
    return undone


def express(form, first, units, before, rows, status, kept):
    """Make the results of a tile; -> how many are not done. Called by its address, since it needs as much code as all
    that comes before it; `before` counts for bags.
    """
    if load_i64(form + 8 * LENGTHS) == 0:
        return _express_rows(form, first, units, rows, status, kept)
    return _express_bags(form, first, units, before, rows, status, kept)
