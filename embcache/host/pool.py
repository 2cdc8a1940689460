"""Pooling: the rows of a bag summed or averaged in f32, in the order of its ids."""

from __future__ import annotations

import numpy as np

from embcache.host.jit import kernel, part
from embcache.host.lanes import add_weighted, divide_values
from embcache.host.machine import bits_float, load_u8, load_u32, store_u32
from embcache.host.rows import F32, Q8, decode_row, encode_values, quantise, row_bytes_of, values_bytes_of
from embcache.host.segment import COLD, HOT, NEAR, WARM

SUM, MEAN = 0, 1


@part
def pool_bag(stored, dim, rows, status, count, weights, pooling, wire, out, scale, bias, scratch):
    """Write the row of one bag of `count` ids; rows, status, weights, out, scale and bias as of `pool_bags`.

    scratch: the address of f32 [2 * dim].
    """
    row_bytes = row_bytes_of(stored, dim)
    totals, decoded = scratch, scratch + 4 * dim
    for j in range(dim):
        store_u32(totals + 4 * j, np.uint32(0))
    found = np.float32(0.0)
    for i in range(count):
        code = np.int64(load_u8(status + i))
        if code in (WARM, COLD, HOT, NEAR):
            found = np.float32(found + np.float32(1.0))
            values = rows + i * row_bytes
            if stored != F32:
                decode_row(stored, values, dim, decoded)
                values = decoded
            weight = bits_float(load_u32(weights + 4 * i)) if weights != 0 else np.float32(1.0)
            add_weighted(totals, values, dim, weight)
    if pooling == MEAN and found > 0:
        divide_values(totals, totals, dim, found)
    if wire == Q8:
        quantise(totals, dim, out, scale, bias)
    else:
        encode_values(wire, totals, dim, out)


@kernel
def pool_bags(stored, dim, rows, status, lengths, weights, pooling, wire, out, scale, bias, done):
    """Write one row for each bag. Ids without a row add nothing; a bag in which none has one gives zeros.

    rows: encoded rows [n] of dtype `stored`, status u8 [n], weights f32 [n] (or 0 for none), all by address;
    lengths u32 [b], an array, summing to n; out, scale, bias: where the b rows go, in dtype `wire`.
    done: the address of u8 [b], not 0 where a bag's row is there already and is left alone; or 0 for none such.
    """
    row_bytes, out_bytes = row_bytes_of(stored, dim), values_bytes_of(wire, dim)
    held = np.empty(2 * dim, np.float32)
    scratch = np.int64(held.ctypes.data)
    i = np.int64(0)
    for bag in range(lengths.shape[0]):
        count = np.int64(lengths[bag])
        if done == 0 or load_u8(done + bag) == 0:
            weights_here = weights + 4 * i if weights != 0 else 0
            to = (out + bag * out_bytes, scale + 4 * bag, bias + 4 * bag)
            pool_bag(stored, dim, rows + i * row_bytes, status + i, count, weights_here, pooling, wire, *to, scratch)
        i += count
    held[0] = 0  # Numba frees an array after its last use, and an address taken from it is none
