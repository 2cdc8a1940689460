"""machine.py's operations as plain Python, for kernels that run with NUMBA_DISABLE_JIT=1.

One thread at a time only: nothing here orders memory. Scalars come and go as NumPy's, so that arithmetic
wraps as it does in compiled code.
"""

from __future__ import annotations

import ctypes

import numpy as np

from embcache.host.jit import function_at

__all__ = [
    "bits_float",
    "call_at",
    "claim",
    "copy_bytes",
    "copy_line",
    "fence_acquire",
    "fence_release",
    "float_bits",
    "load_acquire",
    "load_acquire_u32",
    "load_i32",
    "load_i64",
    "load_relaxed",
    "load_u8",
    "load_u16",
    "load_u32",
    "load_u64",
    "lowest_bit",
    "match_line",
    "move_bytes",
    "pause",
    "prefetch",
    "store_i32",
    "store_i64",
    "store_relaxed",
    "store_release",
    "store_u8",
    "store_u16",
    "store_u32",
    "store_u64",
]


def load_u8(address: int) -> np.uint8:
    return np.uint8(ctypes.c_uint8.from_address(int(address)).value)


def load_u16(address: int) -> np.uint16:
    return np.uint16(ctypes.c_uint16.from_address(int(address)).value)


def load_u32(address: int) -> np.uint32:
    return np.uint32(ctypes.c_uint32.from_address(int(address)).value)


def load_i32(address: int) -> np.int32:
    return np.int32(ctypes.c_int32.from_address(int(address)).value)


def load_i64(address: int) -> np.int64:
    return np.int64(ctypes.c_int64.from_address(int(address)).value)


def load_u64(address: int) -> np.uint64:
    return np.uint64(ctypes.c_uint64.from_address(int(address)).value)


load_acquire = load_relaxed = load_u64
load_acquire_u32 = load_u32


def store_u8(address: int, value: int) -> None:
    ctypes.c_uint8.from_address(int(address)).value = int(value)


def store_u16(address: int, value: int) -> None:
    ctypes.c_uint16.from_address(int(address)).value = int(value)


def store_u32(address: int, value: int) -> None:
    ctypes.c_uint32.from_address(int(address)).value = int(value)


def store_i32(address: int, value: int) -> None:
    ctypes.c_int32.from_address(int(address)).value = int(value)


def store_i64(address: int, value: int) -> None:
    ctypes.c_int64.from_address(int(address)).value = int(value)


def store_u64(address: int, value: int) -> None:
    ctypes.c_uint64.from_address(int(address)).value = int(value)


store_relaxed = store_release = store_u64


def fence_acquire() -> None:
    pass


def fence_release() -> None:
    pass


def prefetch(address: int) -> None:
    pass


def pause() -> None:
    pass


def float_bits(value: np.float32) -> np.uint32:
    return np.float32(value).view(np.uint32)


def bits_float(bits: np.uint32) -> np.float32:
    return np.uint32(bits).view(np.float32)


def match_line(address: int, key: int) -> np.uint64:
    words = (ctypes.c_uint64 * 8).from_address(int(address))
    return np.uint64(sum(1 << i for i in range(8) if words[i] == int(key)))


def lowest_bit(mask: int) -> np.int64:
    return np.int64((int(mask) & -int(mask)).bit_length() - 1 if mask else 64)


def copy_line(target: int, source: int) -> None:
    ctypes.memmove(int(target), int(source), 64)


def move_bytes(target: int, source: int, count: int) -> None:
    ctypes.memmove(int(target), int(source), int(count))


def call_at(address: int, *arguments: int) -> np.int64:
    return np.int64(function_at(int(address))(*arguments))


copy_bytes = move_bytes


def claim(address: int, count: int) -> np.uint64:
    before = load_u64(address)
    store_u64(address, int(before) + int(count))
    return before
