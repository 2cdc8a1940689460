"""Taking word2vec binary blocks apart, where each word's end says where the next begins. Compiled by Numba."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

_NEWLINE: Final = 10
_SPACE: Final = 32


@njit(cache=True, nogil=True)
def take_apart(
    data: npt.NDArray[np.uint8],
    row_bytes: int,
    most: int,
    longest: int,
    rows: npt.NDArray[np.uint8],
    words: npt.NDArray[np.uint8],
) -> tuple[int, int, int, bool]:
    """(words that are whole with their vectors, bytes used of `data`, bytes of `words` filled, whether one is no word).

    rows [most, row_bytes] takes the vectors, `words` each word and a newline. A word is 1 to `longest` bytes without a
    control character, up to a space; newlines before it belong to the vector before.
    """
    n = at = filled = 0
    while n < most:
        start = at
        while start < data.size and data[start] == _NEWLINE:
            start += 1
        end = start
        while end < data.size and data[end] > _SPACE and end - start <= longest:
            end += 1
        if end == data.size:
            break
        if data[end] != _SPACE or end == start:
            return n, at, filled, True
        if end + 1 + row_bytes > data.size:
            break
        for i in range(start, end):
            words[filled] = data[i]
            filled += 1
        words[filled] = _NEWLINE
        filled += 1
        for i in range(row_bytes):
            rows[n, i] = data[end + 1 + i]
        n += 1
        at = end + 1 + row_bytes
    return n, at, filled, False
