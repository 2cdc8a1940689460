"""Rows that prove themselves: every word of a row says whose it is and which writing of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORDS = 32
ROW_BYTES = 8 * WORDS
MODULUS = 128  # rows of f32 that are all the same number tell whose they are by it, and so do their sums
_MIX = np.uint64(0x9E3779B97F4A7C15)


def proving_rows(ids: NDArray[np.uint64], writing: int) -> NDArray[np.uint8]:
    """Rows u8 [n, ROW_BYTES]: the first word is the writing, each of the others tells it and the id."""
    words = np.empty((ids.size, WORDS), np.uint64)
    words[:, 0] = writing
    words[:, 1:] = (ids * _MIX + np.uint64(writing))[:, None] + np.arange(1, WORDS, dtype=np.uint64)
    return words.view(np.uint8)


def broken(ids: NDArray[np.uint64], rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Places of rows that are torn, or another id's."""
    words = rows.view(np.uint64)
    wanted = (ids * _MIX + words[:, 0])[:, None] + np.arange(1, WORDS, dtype=np.uint64)
    return np.flatnonzero((words[:, 1:] != wanted).any(axis=1))
