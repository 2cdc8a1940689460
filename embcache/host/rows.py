"""Rows and their dtypes, compiled: encoded rows to f32 and back, to the wire's form, and default rows.

An encoded row (at rest, in the arena, between processes) is
    f32, f16, bf16    dim little-endian values
    q8                f32 scale, f32 bias, dim u8 codes; value = code * scale + bias, two roundings in f32
On the wire q8 is three arrays: codes, scale, bias. f32 rounds to f16 and bf16 to nearest even, and a finite
value beyond their range becomes the largest finite one. Numba knows no float16, so bits are converted; the
ways to do so with one multiplication or one addition are those of F. Giesen ("Float->half variants", 2012).

Rows and values are named by address (int64). Values are converted eight at a time (lanes.py), and what is left over of
a row one by one: to the same bits.
"""

from __future__ import annotations

import numpy as np

from embcache.host.jit import inlined, kernel
from embcache.host.lanes import (
    LANES,
    bounds_of_lanes,
    narrow_bf16,
    narrow_codes,
    narrow_f16,
    widen_bf16,
    widen_codes,
    widen_f16,
)
from embcache.host.machine import (
    bits_float,
    copy_line,
    float_bits,
    load_u8,
    load_u16,
    load_u32,
    load_u64,
    store_u8,
    store_u16,
    store_u32,
    store_u64,
)

F32, F16, BF16, Q8 = 0, 1, 2, 3
PIECE = 512  # values that are converted in two steps at a time

_TWO_112 = np.float32(2.0**112)
_HALF = np.float32(0.5)
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
def copy_bytes(target, source, count):
    """Copy `count` bytes between places that do not overlap: by cache lines, words, then bytes."""
    lines = count >> 6
    for line in range(lines):
        copy_line(target + 64 * line, source + 64 * line)
    done = lines << 6
    while count - done >= 8:
        store_u64(target + done, load_u64(source + done))
        done += 8
    while done < count:
        store_u8(target + done, load_u8(source + done))
        done += 1


@inlined
def f16_to_f32(half):
    """The f32 of an f16's bits; exact, subnormals, infinities and NaN included."""
    bits = np.uint32(half)
    sign = np.uint32((bits & np.uint32(0x8000)) << np.uint32(16))
    magnitude = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))
    if magnitude >= np.uint32(0x0F800000):
        return bits_float(np.uint32(sign | magnitude | np.uint32(0x7F800000)))
    scaled = np.float32(bits_float(magnitude) * _TWO_112)
    return bits_float(np.uint32(sign | float_bits(scaled)))


@inlined
def f32_to_f16(value):
    """The f16 bits nearest to an f32 (ties to even); finite values saturate at 65,504."""
    bits = float_bits(value)
    sign = np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000))
    magnitude = np.uint32(bits & np.uint32(0x7FFFFFFF))
    if magnitude >= np.uint32(0x477FF000):  # from 65,520 on it would round to infinity
        if magnitude > np.uint32(0x7F800000):
            return np.uint16(sign | np.uint32(0x7E00))
        if magnitude == np.uint32(0x7F800000):
            return np.uint16(sign | np.uint32(0x7C00))
        return np.uint16(sign | np.uint32(0x7BFF))
    if magnitude < np.uint32(0x38800000):  # subnormal in f16: adding 0.5 shifts and rounds in one
        shifted = float_bits(np.float32(bits_float(magnitude) + _HALF))
        return np.uint16(sign | np.uint32(shifted - np.uint32(0x3F000000)))
    odd = np.uint32((magnitude >> np.uint32(13)) & np.uint32(1))
    rounded = np.uint32(magnitude - np.uint32(0x38000000) + np.uint32(0xFFF) + odd)
    return np.uint16(sign | np.uint32(rounded >> np.uint32(13)))


@inlined
def f32_to_bf16(value):
    """The bf16 bits nearest to an f32 (ties to even); finite values saturate at the largest finite bf16."""
    bits = float_bits(value)
    magnitude = np.uint32(bits & np.uint32(0x7FFFFFFF))
    sign = np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000))
    if magnitude >= np.uint32(0x7F800000):
        return np.uint16(sign | np.uint32(0x7F80 if magnitude == np.uint32(0x7F800000) else 0x7FC0))
    odd = np.uint32((magnitude >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32((magnitude + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    return np.uint16(sign | min(rounded, np.uint32(0x7F7F)))


@inlined
def _widen_one(dtype, source, target):
    half = load_u16(source)
    bits = float_bits(f16_to_f32(half)) if dtype == F16 else np.uint32(np.uint32(half) << np.uint32(16))
    store_u32(target, bits)


@inlined
def _narrow_one(dtype, source, target):
    value = bits_float(load_u32(source))
    store_u16(target, f32_to_f16(value) if dtype == F16 else f32_to_bf16(value))


@kernel
def widen_values(dtype, source, count, target):
    """Write the f32 values of `count` f16 or bf16 ones."""
    whole = count & ~(LANES - 1)
    if dtype == F16:
        for j in range(0, whole, LANES):
            widen_f16(target + 4 * j, source + 2 * j)
    else:
        for j in range(0, whole, LANES):
            widen_bf16(target + 4 * j, source + 2 * j)
    for j in range(whole, count):
        _widen_one(dtype, source + 2 * j, target + 4 * j)


@kernel
def narrow_values(dtype, source, count, target):
    """Write `count` f32 values as f16 or bf16."""
    whole = count & ~(LANES - 1)
    if dtype == F16:
        for j in range(0, whole, LANES):
            narrow_f16(target + 2 * j, source + 4 * j)
    else:
        for j in range(0, whole, LANES):
            narrow_bf16(target + 2 * j, source + 4 * j)
    for j in range(whole, count):
        _narrow_one(dtype, source + 4 * j, target + 2 * j)


@kernel
def decode_row(dtype, row, dim, values):
    """Write the f32 values of the encoded row at address `row`."""
    if dtype == F32:
        copy_bytes(values, row, 4 * dim)
    elif dtype == Q8:
        scale, bias = bits_float(load_u32(row)), bits_float(load_u32(row + 4))
        whole = dim & ~(LANES - 1)
        for j in range(0, whole, LANES):
            widen_codes(values + 4 * j, row + 8 + j, scale, bias)
        for j in range(whole, dim):
            scaled = np.float32(np.float32(load_u8(row + 8 + j)) * scale)
            store_u32(values + 4 * j, float_bits(np.float32(scaled + bias)))
    else:
        widen_values(dtype, row, dim, values)


@inlined
def _value(values, j):
    return bits_float(load_u32(values + 4 * j))


@inlined
def _bounds(values, dim):
    """(least, greatest) value of a row; of a zero and a negative one, whichever comes first."""
    low = high = _value(values, 0)
    whole = dim & ~(LANES - 1)
    if whole:
        low, high = bounds_of_lanes(values, whole // LANES)
    for j in range(whole, dim):
        low, high = min(low, _value(values, j)), max(high, _value(values, j))
    if low == 0 or high == 0:
        first = np.int64(0)
        while _value(values, first) != 0:
            first += 1
        zero = _value(values, first)
        low, high = zero if low == 0 else low, zero if high == 0 else high
    return low, high


@kernel
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
    whole = dim & ~(LANES - 1) if scale > 0 else 0
    for j in range(0, whole, LANES):
        narrow_codes(codes + j, values + 4 * j, low, scale, limit)
    for j in range(whole, dim):
        code = np.float32(0.0)
        if scale > 0:
            value = min(max(_value(values, j), -limit), limit)
            code = np.float32(np.rint(np.float32(np.float32(value - low) / scale)))
        store_u8(codes + j, np.uint8(min(max(code, np.float32(0.0)), np.float32(255.0))))


@kernel
def encode_values(dtype, values, dim, out):
    """Write f32 values as f32, f16 or bf16 at address `out`."""
    if dtype == F32:
        copy_bytes(out, values, 4 * dim)
    else:
        narrow_values(dtype, values, dim, out)


@kernel
def encode_row(dtype, values, dim, row):
    """Write the encoded row of f32 values at address `row`."""
    if dtype == Q8:
        quantise(values, dim, row + 8, row, row + 4)
    else:
        encode_values(dtype, values, dim, row)


@kernel
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


@kernel
def add_rows(sums, places, deltas):
    """Add finite deltas f32 [n, dim] to sums f32 [m, dim] at places int64 [n], one after the other, in f32.

    A sum beyond the range of f32 becomes its largest value, at once: so it does not matter which of them are added by
    one call. -> how many did.
    """
    saturated = 0
    for i in range(places.shape[0]):
        row = sums[places[i]]
        for j in range(row.shape[0]):
            total = np.float32(row[j] + deltas[i, j])
            if abs(total) > _LARGEST:
                total = np.float32(np.copysign(_LARGEST, total))
                saturated += 1
            row[j] = total
    return saturated


@inlined
def _convert_values(stored, wire, source, count, target, scratch):
    """Write f32, f16 or bf16 values as one of these dtypes. scratch: the address of PIECE f32."""
    if stored == wire:
        copy_bytes(target, source, values_bytes_of(wire, count))
    elif stored == F32:
        narrow_values(wire, source, count, target)
    elif wire == F32:
        widen_values(stored, source, count, target)
    else:
        for j in range(0, count, PIECE):
            piece = min(count - j, PIECE)
            widen_values(stored, source + 2 * j, piece, scratch)
            narrow_values(wire, scratch, piece, target + 2 * j)


@inlined
def _convert_q8(stored, wire, dim, row, target, scale, bias, scratch):
    """Write one row from q8, or in q8, or both."""
    if stored == wire:
        store_u32(scale, load_u32(row))
        store_u32(bias, load_u32(row + 4))
        copy_bytes(target, row + 8, dim)
        return
    decode_row(stored, row, dim, scratch)
    if wire == Q8:
        quantise(scratch, dim, target, scale, bias)
    else:
        encode_values(wire, scratch, dim, target)


@inlined
def _is_skipped(i, status, skip):
    return status != 0 and load_u8(status + i) == skip


@kernel
def convert_rows(stored, wire, dim, rows, count, out, scale, bias, status, skip):
    """Encoded rows [count] at an address in the wire's form: values at `out`, and for q8 its scales and biases.

    status: the address of u8 [count]: rows whose status is `skip` are at `out` already, and are left alone; or 0.
    """
    row_bytes, out_bytes = row_bytes_of(stored, dim), values_bytes_of(wire, dim)
    held = np.empty(max(dim, PIECE), np.float32)
    scratch = np.int64(held.ctypes.data)
    i = np.int64(0)
    while i < count:
        if _is_skipped(i, status, skip):
            i += 1
        elif Q8 in (stored, wire):
            source, target = rows + i * row_bytes, out + i * out_bytes
            _convert_q8(stored, wire, dim, source, target, scale + 4 * i, bias + 4 * i, scratch)
            i += 1
        else:
            begin = i
            while i < count and not _is_skipped(i, status, skip):
                i += 1
            source, target = rows + begin * row_bytes, out + begin * out_bytes
            _convert_values(stored, wire, source, (i - begin) * dim, target, scratch)
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
