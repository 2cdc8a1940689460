"""Cells: rows as they lie in a store, each behind its own checksum. Compiled by Numba, run without the GIL.

    cell = XXH64(row bytes, seed = feature ID) as u64 little-endian, then the row's bytes

The seed ties a row to its id: a cell found under another id fails its check. The hash is XXH64 as specified at
https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, bit for bit that of the xxhash package.

Kernels are compiled when this module is first imported, and cached on disk. They call each other, so they share this
file: Numba's cache does not see edits elsewhere. Indices are unsigned, since the test for a negative index would keep
LLVM from joining eight byte loads into one (0.9 against 5 GB/s).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit, types

from embcache_storage.store import ABSENT, DAMAGED, FOUND, U8Array, U64Array

I64Array = npt.NDArray[np.int64]

CHECKSUM_BYTES: Final = 8

_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME_5 = np.uint64(0x27D4EB2F165667C5)

# Inputs are typed read-only: Numba then takes writable arrays as well, and never compiles again for either kind.
_U64 = types.uint64
_BYTES_IN = types.Array(types.uint8, 1, "C", readonly=True)
_ROWS_IN = types.Array(types.uint8, 2, "C", readonly=True)
_IDS_IN = types.Array(types.uint64, 1, "C", readonly=True)
_LENGTHS_IN = types.Array(types.int64, 1, "C", readonly=True)
_BYTES_OUT = types.Array(types.uint8, 1, "C")
_ROWS_OUT = types.Array(types.uint8, 2, "C")


@njit(cache=True, nogil=True, inline="always")
def _rotate_left(x: np.uint64, bits: np.uint64) -> np.uint64:
    return (x << bits) | (x >> (np.uint64(64) - bits))


@njit(cache=True, nogil=True, inline="always")
def _load(data: U8Array, at: np.uint64, size: np.uint64) -> np.uint64:
    """The little-endian integer of `size` bytes at a byte offset of any alignment."""
    value = np.uint64(0)
    for byte in range(size):
        value |= np.uint64(data[at + byte]) << (np.uint64(8) * byte)
    return value


@njit(cache=True, nogil=True, inline="always")
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _rotate_left(lane + word * _PRIME_2, np.uint64(31)) * _PRIME_1


@njit(cache=True, nogil=True, inline="always")
def _merge(state: np.uint64, lane: np.uint64) -> np.uint64:
    return (state ^ _round(np.uint64(0), lane)) * _PRIME_1 + _PRIME_4


@njit(cache=True, nogil=True, inline="always")
def _stripes(data: U8Array, at: np.uint64, end: np.uint64, seed: np.uint64) -> np.uint64:
    """The state after all whole 32-byte stripes of data[at:end], of which there is at least one."""
    lane_1 = seed + _PRIME_1 + _PRIME_2
    lane_2 = seed + _PRIME_2
    lane_3 = seed
    lane_4 = seed - _PRIME_1
    while at + np.uint64(32) <= end:
        lane_1 = _round(lane_1, _load(data, at, np.uint64(8)))
        lane_2 = _round(lane_2, _load(data, at + np.uint64(8), np.uint64(8)))
        lane_3 = _round(lane_3, _load(data, at + np.uint64(16), np.uint64(8)))
        lane_4 = _round(lane_4, _load(data, at + np.uint64(24), np.uint64(8)))
        at += np.uint64(32)
    state = _rotate_left(lane_1, np.uint64(1)) + _rotate_left(lane_2, np.uint64(7))
    state += _rotate_left(lane_3, np.uint64(12)) + _rotate_left(lane_4, np.uint64(18))
    return _merge(_merge(_merge(_merge(state, lane_1), lane_2), lane_3), lane_4)


@njit(_U64(_BYTES_IN, _U64, _U64, _U64), cache=True, nogil=True)
def xxh64(data: U8Array, start: np.uint64, length: np.uint64, seed: np.uint64) -> np.uint64:
    """XXH64 of data[start : start + length]. The caller keeps the range within the array."""
    at = start
    end = start + length
    state = seed + _PRIME_5
    if length >= np.uint64(32):
        state = _stripes(data, at, end, seed)
        at = end - length % np.uint64(32)
    state += length
    while at + np.uint64(8) <= end:
        word = _round(np.uint64(0), _load(data, at, np.uint64(8)))
        state = _rotate_left(state ^ word, np.uint64(27)) * _PRIME_1 + _PRIME_4
        at += np.uint64(8)
    if at + np.uint64(4) <= end:
        word = _load(data, at, np.uint64(4)) * _PRIME_1
        state = _rotate_left(state ^ word, np.uint64(23)) * _PRIME_2 + _PRIME_3
        at += np.uint64(4)
    while at < end:
        state = _rotate_left(state ^ (np.uint64(data[at]) * _PRIME_5), np.uint64(11)) * _PRIME_1
        at += np.uint64(1)
    state = (state ^ (state >> np.uint64(33))) * _PRIME_2
    state = (state ^ (state >> np.uint64(29))) * _PRIME_3
    return state ^ (state >> np.uint64(32))


@njit(cache=True, nogil=True, inline="always")
def _unpack_one(cells: U8Array, at: np.uint64, id_: np.uint64, row: U8Array) -> bool:
    """Copy the row of the cell at a byte offset, or zeros where its checksum fails; returns whether it holds."""
    width = np.uint64(row.size)
    body = at + np.uint64(CHECKSUM_BYTES)
    if xxh64(cells, body, width, id_) != _load(cells, at, np.uint64(8)):
        row[:] = np.uint8(0)
        return False
    for byte in range(width):
        row[byte] = cells[body + byte]
    return True


@njit(types.void(_IDS_IN, _ROWS_IN, _ROWS_OUT), cache=True, nogil=True)
def _encode(ids: U64Array, rows: U8Array, cells: U8Array) -> None:
    width = np.uint64(rows.shape[1])
    for i in range(ids.size):
        checksum = xxh64(rows[i], np.uint64(0), width, ids[i])
        for byte in range(np.uint64(CHECKSUM_BYTES)):
            cells[i, byte] = np.uint8((checksum >> (np.uint64(8) * byte)) & np.uint64(0xFF))
        for byte in range(width):
            cells[i, byte + np.uint64(CHECKSUM_BYTES)] = rows[i, byte]


@njit(types.int64(_BYTES_IN, _IDS_IN, _ROWS_OUT, _BYTES_OUT), cache=True, nogil=True)
def _unpack_equal(cells: U8Array, ids: U64Array, rows: U8Array, state: U8Array) -> int:
    """Unpack one cell of full length for each id; returns how many hold."""
    stride = np.uint64(rows.shape[1] + CHECKSUM_BYTES)
    sound = 0
    for i in range(ids.size):
        holds = _unpack_one(cells, np.uint64(i) * stride, ids[i], rows[i])
        state[i] = np.uint8(FOUND if holds else DAMAGED)
        sound += holds
    return sound


@njit(types.void(_BYTES_IN, _LENGTHS_IN, _IDS_IN, _ROWS_OUT, _BYTES_OUT), cache=True, nogil=True)
def _unpack_ragged(cells: U8Array, lengths: I64Array, ids: U64Array, rows: U8Array, state: U8Array) -> None:
    """Unpack cells of the given lengths, which sum to the buffer's: 0 is absent, any other than a full cell damaged."""
    full = rows.shape[1] + CHECKSUM_BYTES
    at = np.uint64(0)
    for i in range(ids.size):
        length = lengths[i]
        if length == full:
            state[i] = np.uint8(FOUND if _unpack_one(cells, at, ids[i], rows[i]) else DAMAGED)
        else:
            state[i] = np.uint8(DAMAGED if length else ABSENT)
            rows[i, :] = np.uint8(0)
        at += np.uint64(length)


def encode_cells(ids: U64Array, rows: U8Array) -> U8Array:
    """Cells u8[n, 8 + row_bytes] of rows u8[n, row_bytes] for ids u64[n]. ValueError where one is longer."""
    if len(ids) != len(rows):
        raise ValueError(f"there are {len(ids)} ids for {len(rows)} rows")
    cells = np.empty((len(ids), rows.shape[1] + CHECKSUM_BYTES), np.uint8)
    _encode(ids, rows, cells)
    return cells


def unpack_cells(cells: list[bytes], ids: U64Array, rows: U8Array, state: U8Array) -> None:
    """Check one cell for each id, b"" for an absent one, and fill rows u8[n, row_bytes] and state u8[n].

    Rows of ids that are absent or damaged become zeros.
    """
    if not len(cells) == len(ids) == len(rows) == len(state):
        raise ValueError(f"there are {len(cells)} cells, {len(ids)} ids, {len(rows)} rows and {len(state)} states")
    joined = np.frombuffer(b"".join(cells), np.uint8)
    # Measuring the cells one by one costs more than checking them. Where their sum is right they are nearly always all
    # there, and where they are not, some checksum fails and the lengths are asked after all.
    if joined.size == len(ids) * (rows.shape[1] + CHECKSUM_BYTES) and (
        _unpack_equal(joined, ids, rows, state) == len(ids)
    ):
        return
    lengths = np.fromiter(map(len, cells), np.int64, len(cells))
    _unpack_ragged(joined, lengths, ids, rows, state)
