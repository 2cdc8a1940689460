"""Pooling: the rows of a bag summed or averaged in f32, in the order of its ids."""

from __future__ import annotations

import numpy as np

from embcache.host.jit import kernel
from embcache.host.machine import bits_float, load_u8, load_u32
from embcache.host.probe import COLD, HOT, NEAR, WARM
from embcache.host.rows import Q8, encode_values, quantise

SUM, MEAN = 0, 1


@kernel
def pool_bags(rows, status, lengths, weights, pooling, wire, out, out_bytes, scale, bias):
    """Write one row for each bag. Ids without a row add nothing; a bag in which none has one gives zeros.

    rows f32 [n, dim], an array; status the address of u8 [n]; lengths u32 [b], summing to n; weights the address of
    f32 [n], or 0 for none; out, scale, bias: where the b rows go, in dtype `wire`, out_bytes apart.
    """
    dim = rows.shape[1]
    total = np.empty(dim, np.float32)
    i = np.int64(0)
    for bag in range(lengths.shape[0]):
        total[:] = np.float32(0.0)
        found = np.float32(0.0)
        for _ in range(np.int64(lengths[bag])):
            code = np.int64(load_u8(status + i))
            if code in (WARM, COLD, HOT, NEAR):
                found = np.float32(found + np.float32(1.0))
                if weights != 0:
                    weight = bits_float(load_u32(weights + 4 * i))
                    for j in range(dim):
                        total[j] = np.float32(total[j] + np.float32(rows[i, j] * weight))
                else:
                    for j in range(dim):
                        total[j] = np.float32(total[j] + rows[i, j])
            i += 1
        if pooling == MEAN and found > 0:
            for j in range(dim):
                total[j] = np.float32(total[j] / found)
        if wire == Q8:
            quantise(total, dim, out + bag * out_bytes, scale + 4 * bag, bias + 4 * bag)
        else:
            encode_values(wire, total, dim, out + bag * out_bytes)
