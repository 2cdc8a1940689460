"""Pooling: the rows of a bag summed or averaged in f32, in the order of its ids."""

from __future__ import annotations

import numpy as np

from embcache.host.jit import kernel
from embcache.host.machine import bits_float, load_u8, load_u32
from embcache.host.rows import F32, Q8, decode_row, encode_values, quantise
from embcache.host.segment import COLD, HOT, NEAR, WARM

SUM, MEAN = 0, 1


@kernel
def pool_bags(stored, dim, rows, status, lengths, weights, pooling, wire, out, scale, bias, done):
    """Write one row for each bag. Ids without a row add nothing; a bag in which none has one gives zeros.

    rows: encoded rows [n] of dtype `stored`, status u8 [n], weights f32 [n] (or 0 for none), all by address;
    lengths u32 [b], an array, summing to n; out, scale, bias: where the b rows go, in dtype `wire`.
    done: the address of u8 [b], not 0 where a bag's row is there already and is left alone; or 0 for none such.
    """
    row_bytes = 8 + dim if stored == Q8 else 4 * dim if stored == F32 else 2 * dim
    out_bytes = dim if wire == Q8 else 4 * dim if wire == F32 else 2 * dim
    row = np.empty(dim, np.float32)
    total = np.empty(dim, np.float32)
    i = np.int64(0)
    for bag in range(lengths.shape[0]):
        count = np.int64(lengths[bag])
        if done != 0 and load_u8(done + bag) != 0:
            i += count
            continue
        total[:] = np.float32(0.0)
        found = np.float32(0.0)
        for _ in range(count):
            code = np.int64(load_u8(status + i))
            if code in (WARM, COLD, HOT, NEAR):
                found = np.float32(found + np.float32(1.0))
                decode_row(stored, rows + i * row_bytes, dim, row)
                if weights != 0:
                    weight = bits_float(load_u32(weights + 4 * i))
                    for j in range(dim):
                        total[j] = np.float32(total[j] + np.float32(row[j] * weight))
                else:
                    for j in range(dim):
                        total[j] = np.float32(total[j] + row[j])
            i += 1
        if pooling == MEAN and found > 0:
            for j in range(dim):
                total[j] = np.float32(total[j] / found)
        if wire == Q8:
            quantise(total, dim, out + bag * out_bytes, scale + 4 * bag, bias + 4 * bag)
        else:
            encode_values(wire, total, dim, out + bag * out_bytes)
