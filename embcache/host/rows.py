"""Rows and their dtypes, compiled: encoded rows to f32 and back, to the wire's form, and default rows.

An encoded row (at rest, in the arena, between processes) is
    f32, f16, bf16    dim little-endian values
    q8                f32 scale, f32 bias, dim u8 codes; value = code * scale + bias, two roundings in f32
On the wire q8 is three arrays: codes, scale, bias. f32 rounds to f16 and bf16 to nearest even, and a finite
value beyond their range becomes the largest finite one; a NaN becomes a quiet one of its sign. Numba knows no float16,
so bits are converted, by vectors (lanes.py).

Rows and values are named by address (int64).
"""

from __future__ import annotations

import numpy as np

from embcache.host.jit import inlined, kernel, part
from embcache.host.lanes import bounds_of, narrow_bf16, narrow_codes, narrow_f16, widen_bf16, widen_codes, widen_f16
from embcache.host.machine import (
    bits_float,
    copy_bytes,
    copy_line,
    float_bits,
    load_u8,
    load_u32,
    store_u8,
    store_u32,
)

F32, F16, BF16, Q8 = 0, 1, 2, 3
PIECE = 512  # values that are converted in two steps at a time

_LARGEST = np.float32(3.4028234663852886e38)
_HALF_OF_LARGEST = np.float32(1.7014117331926443e38)


@inlined
def values_bytes_of(dtype, dim):
    """Bytes of a row's values in a dtype, which for q8 are its codes."""
    return dim if dtype == Q8 else 4 * dim if dtype == F32 else 2 * dim


@inlined
def row_bytes_of(dtype, dim):
    """Bytes of an encoded row."""
    return 8 + dim if dtype == Q8 else values_bytes_of(dtype, dim)


@inlined
def copy_lines(target, source, count):
    """`copy_bytes` for a row on the hot path: whole cache lines without a call, then what is left."""
    whole = count & -64
    for at in range(0, whole, 64):
        copy_line(target + at, source + at)
    if whole < count:
        copy_bytes(target + whole, source + whole, count - whole)


@part
def decode_row(dtype, row, dim, values):
    """Write the f32 values of the encoded row at address `row`."""
    if dtype == F16:
        widen_f16(values, row, dim)
    elif dtype == BF16:
        widen_bf16(values, row, dim)
    elif dtype == Q8:
        widen_codes(values, row + 8, dim, bits_float(load_u32(row)), bits_float(load_u32(row + 4)))
    else:
        copy_bytes(values, row, 4 * dim)


@part
def encode_values(dtype, values, dim, out):
    """Write f32 values as f32, f16 or bf16 at address `out`."""
    if dtype == F16:
        narrow_f16(out, values, dim)
    elif dtype == BF16:
        narrow_bf16(out, values, dim)
    else:
        copy_bytes(out, values, 4 * dim)


@inlined
def _bounds(values, dim):
    """(least, greatest) value of a row; of a zero and a negative one, whichever comes first."""
    low, high = bounds_of(values, dim)
    if low == 0 or high == 0:
        first = values
        while bits_float(load_u32(first)) != 0:
            first += 4
        zero = bits_float(load_u32(first))
        low, high = zero if low == 0 else low, zero if high == 0 else high
    return low, high


@part
def quantise(values, dim, codes, scale_at, bias_at):
    """Write a row's q8 form: u8 codes, f32 scale and bias, each at its address."""
    low, high = _bounds(values, dim)
    limit = _LARGEST
    if np.float32(high - low) > _LARGEST:  # wider than f32's range
        limit = _HALF_OF_LARGEST
        low, high = max(low, -limit), min(high, limit)
    scale = np.float32(np.float32(high - low) / np.float32(255.0))
    store_u32(scale_at, float_bits(scale))
    store_u32(bias_at, float_bits(low))
    if scale > 0:
        narrow_codes(codes, values, dim, low, scale, limit)
    else:
        for j in range(dim):
            store_u8(codes + j, np.uint8(0))


@part
def encode_row(dtype, values, dim, row):
    """Write the encoded row of f32 values at address `row`."""
    if dtype == Q8:
        quantise(values, dim, row + 8, row, row + 4)
    else:
        encode_values(dtype, values, dim, row)


@part
def uniform_row(identifier, bound, dim, values):
    """The uniform default row of an id: SplitMix64 (Steele et al., 2014) seeded by the id, in (-bound, bound)."""
    state = np.uint64(identifier)
    for j in range(dim):
        state = np.uint64(state + np.uint64(0x9E3779B97F4A7C15))
        z = state
        z = np.uint64((z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
        z = np.uint64((z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
        z = np.uint64(z ^ (z >> np.uint64(31)))
        unit = np.float32(np.float32(z >> np.uint64(40)) * np.float32(2.0**-24))
        signed = np.float32(np.float32(unit * np.float32(2.0)) - np.float32(1.0))
        store_u32(values + 4 * j, float_bits(np.float32(signed * bound)))


@kernel
def encode_all(dtype, rows, out, out_bytes):
    """Encode rows f32 [n, dim] to address `out`, out_bytes apart."""
    values = np.int64(rows.ctypes.data)
    for i in range(rows.shape[0]):
        encode_row(dtype, values + 4 * i * rows.shape[1], rows.shape[1], out + i * out_bytes)


@kernel
def decode_all(dtype, rows, row_bytes, out):
    """Decode the rows at address `rows`, row_bytes apart, into f32 [n, dim]."""
    values = np.int64(out.ctypes.data)
    for i in range(out.shape[0]):
        decode_row(dtype, rows + i * row_bytes, out.shape[1], values + 4 * i * out.shape[1])


@part
def add_row(row, delta):
    """Add a finite delta f32 [dim] to a row f32 [dim]; -> how many sums were beyond f32 and became its largest."""
    saturated = 0
    for j in range(row.shape[0]):
        total = np.float32(row[j] + delta[j])
        if abs(total) > _LARGEST:
            total = np.float32(np.copysign(_LARGEST, total))
            saturated += 1
        row[j] = total
    return saturated


@kernel
def add_rows(sums, places, deltas):
    """Add finite deltas f32 [n, dim] to sums f32 [m, dim] at places int64 [n], one after the other, in f32.

    A sum saturates at once: so it does not matter which of them are added by one call. -> how many did.
    """
    saturated = 0
    for i in range(places.shape[0]):
        saturated += add_row(sums[places[i]], deltas[i])
    return saturated


@inlined
def _is_skipped(i, status, skip):
    return status != 0 and load_u8(status + i) == skip


@part
def convert_within(stored, wire, dim, rows, count, out, scale, bias, status, skip, scratch):
    """`convert_rows` with scratch, the address of f32 [max(dim, PIECE)].

    Without q8, rows that lie one behind the other are converted as one.
    """
    row_bytes, out_bytes, with_q8 = row_bytes_of(stored, dim), values_bytes_of(wire, dim), Q8 in (stored, wire)
    i = np.int64(0)
    while i < count:
        begin = i
        while i < count and not _is_skipped(i, status, skip) and not (with_q8 and i > begin):
            i += 1
        source, target, values = rows + begin * row_bytes, out + begin * out_bytes, (i - begin) * dim
        if i == begin:
            i += 1
        elif stored == wire:
            if wire == Q8:
                store_u32(scale + 4 * begin, load_u32(source))
                store_u32(bias + 4 * begin, load_u32(source + 4))
                source += 8
            copy_bytes(target, source, values_bytes_of(wire, values))
        elif wire == F32:
            decode_row(stored, source, values, target)
        elif stored == F32 and wire != Q8:
            encode_values(wire, source, values, target)
        else:
            piece = dim if with_q8 else PIECE
            for j in range(0, values, piece):
                here = min(values - j, piece)
                decode_row(stored, source + 2 * j, here, scratch)
                if wire == Q8:
                    quantise(scratch, here, target, scale + 4 * begin, bias + 4 * begin)
                else:
                    encode_values(wire, scratch, here, target + 2 * j)


@kernel
def convert_rows(stored, wire, dim, rows, count, out, scale, bias, status, skip):
    """Encoded rows [count] at an address in the wire's form: values at `out`, and for q8 its scales and biases.

    status: the address of u8 [count]: rows whose status is `skip` are at `out` already, and are left alone; or 0.
    """
    held = np.empty(max(dim, PIECE), np.float32)
    scratch = np.int64(held.ctypes.data)
    convert_within(stored, wire, dim, rows, count, out, scale, bias, status, skip, scratch)
    held[0] = 0  # Numba frees an array after its last use, and an address taken from it is none


@kernel
def fill_uniform(ids, instead, bound, dtype, dim, rows):
    """Write the uniform default rows, encoded, of the ids (u64 [n]) whose places are in `instead` (int64 [m])."""
    row_bytes = row_bytes_of(dtype, dim)
    held = np.empty(dim, np.float32)
    scratch = np.int64(held.ctypes.data)
    for i in instead:
        uniform_row(ids[i], bound, dim, scratch)
        encode_row(dtype, scratch, dim, rows + i * row_bytes)
    held[0] = 0
