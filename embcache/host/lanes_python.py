"""lanes.py's operations as plain Python, by NumPy, for kernels that run with NUMBA_DISABLE_JIT=1."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "add_lanes",
    "add_weighted_lanes",
    "bounds_of_lanes",
    "narrow_bf16",
    "narrow_codes",
    "narrow_f16",
    "widen_bf16",
    "widen_codes",
    "widen_f16",
]

_LANES = 8


def _at(address: int, dtype: Any) -> NDArray[Any]:
    """The eight values at an address, which changes with them."""
    nbytes = _LANES * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * nbytes).from_address(int(address)), dtype)


def widen_f16(target: int, source: int) -> None:
    halves = _at(source, np.float16)
    bits = halves.view(np.uint16).astype(np.uint32)
    nan = (bits & np.uint32(0x8000)) << np.uint32(16) | (bits & np.uint32(0x7FFF)) << np.uint32(13)
    values = np.where(np.isnan(halves), np.float16(0), halves).astype(np.float32).view(np.uint32)
    _at(target, np.uint32)[:] = np.where(np.isnan(halves), nan | np.uint32(0x7F800000), values)


def widen_bf16(target: int, source: int) -> None:
    _at(target, np.uint32)[:] = _at(source, np.uint16).astype(np.uint32) << np.uint32(16)


def _signs(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.where(np.signbit(values), np.uint16(0x8000), np.uint16(0))


def narrow_f16(target: int, source: int) -> None:
    values = _at(source, np.float32)
    largest = np.float32(65504)
    narrow = np.where(np.isfinite(values), np.clip(values, -largest, largest), values).astype(np.float16)
    nan = _signs(values) | np.uint16(0x7E00)
    _at(target, np.uint16)[:] = np.where(np.isnan(values), nan, narrow.view(np.uint16))


def narrow_bf16(target: int, source: int) -> None:
    values = _at(source, np.float32)
    bits = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    other = np.where(np.isnan(values), np.uint32(0x7FC0), np.uint32(0x7F80))
    narrow = np.where(np.isfinite(values), np.minimum(rounded, np.uint32(0x7F7F)), other).astype(np.uint16)
    _at(target, np.uint16)[:] = _signs(values) | narrow


def widen_codes(target: int, codes: int, scale: np.float32, bias: np.float32) -> None:
    _at(target, np.float32)[:] = _at(codes, np.uint8).astype(np.float32) * scale + bias


def narrow_codes(codes: int, source: int, low: np.float32, scale: np.float32, limit: np.float32) -> None:
    steps = np.rint((np.clip(_at(source, np.float32), -limit, limit) - low) / scale)
    _at(codes, np.uint8)[:] = np.clip(np.nan_to_num(steps), 0, 255).astype(np.uint8)


def bounds_of_lanes(values: int, groups: int) -> tuple[np.float32, np.float32]:
    eights = [_at(values + 4 * _LANES * group, np.float32) for group in range(groups)]
    return np.min(eights), np.max(eights)


def add_lanes(totals: int, values: int) -> None:
    _at(totals, np.float32)[:] += _at(values, np.float32)


def add_weighted_lanes(totals: int, values: int, weight: np.float32) -> None:
    _at(totals, np.float32)[:] += _at(values, np.float32) * weight
