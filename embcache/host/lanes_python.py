"""lanes.py's operations as plain Python, by NumPy, for kernels that run with NUMBA_DISABLE_JIT=1."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "add_weighted",
    "bounds_of",
    "divide_values",
    "narrow_bf16",
    "narrow_codes",
    "narrow_f16",
    "widen_bf16",
    "widen_codes",
    "widen_f16",
]


def _at(address: int, count: int, dtype: Any) -> NDArray[Any]:
    """The values at an address, which change with what is assigned to them."""
    nbytes = int(count) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * nbytes).from_address(int(address)), dtype)


def widen_f16(target: int, source: int, count: int) -> None:
    halves = _at(source, count, np.float16)
    bits = halves.view(np.uint16).astype(np.uint32)
    nan = (bits & np.uint32(0x8000)) << np.uint32(16) | (bits & np.uint32(0x7FFF)) << np.uint32(13)
    values = np.where(np.isnan(halves), np.float16(0), halves).astype(np.float32).view(np.uint32)
    _at(target, count, np.uint32)[:] = np.where(np.isnan(halves), nan | np.uint32(0x7F800000), values)


def widen_bf16(target: int, source: int, count: int) -> None:
    _at(target, count, np.uint32)[:] = _at(source, count, np.uint16).astype(np.uint32) << np.uint32(16)


def _signs(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.where(np.signbit(values), np.uint16(0x8000), np.uint16(0))


def narrow_f16(target: int, source: int, count: int) -> None:
    values, largest = _at(source, count, np.float32), np.float32(65504)
    saturated = np.where(np.isfinite(values), np.clip(values, -largest, largest), values)
    nan = _signs(values) | np.uint16(0x7E00)
    with np.errstate(under="ignore"):
        narrow = saturated.astype(np.float16).view(np.uint16)
    _at(target, count, np.uint16)[:] = np.where(np.isnan(values), nan, narrow)


def narrow_bf16(target: int, source: int, count: int) -> None:
    values = _at(source, count, np.float32)
    bits = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    other = np.where(np.isnan(values), np.uint32(0x7FC0), np.uint32(0x7F80))
    narrow = np.where(np.isfinite(values), np.minimum(rounded, np.uint32(0x7F7F)), other).astype(np.uint16)
    _at(target, count, np.uint16)[:] = _signs(values) | narrow


def widen_codes(target: int, codes: int, count: int, scale: np.float32, bias: np.float32) -> None:
    _at(target, count, np.float32)[:] = _at(codes, count, np.uint8).astype(np.float32) * scale + bias


def narrow_codes(codes: int, values: int, count: int, low: np.float32, scale: np.float32, limit: np.float32) -> None:
    steps = np.rint((np.clip(_at(values, count, np.float32), -limit, limit) - low) / scale)
    _at(codes, count, np.uint8)[:] = np.clip(np.nan_to_num(steps), 0, 255).astype(np.uint8)


def bounds_of(values: int, count: int) -> tuple[np.float32, np.float32]:
    held = _at(values, count, np.float32)
    return held.min(), held.max()


def add_weighted(totals: int, values: int, count: int, weight: np.float32) -> None:
    _at(totals, count, np.float32)[:] += _at(values, count, np.float32) * weight


def divide_values(totals: int, values: int, count: int, divisor: np.float32) -> None:
    _at(totals, count, np.float32)[:] = _at(values, count, np.float32) / divisor
