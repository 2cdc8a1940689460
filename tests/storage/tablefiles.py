"""What the tests of table files share: made-up rows, reading all of a file, and what an error must say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embcache_storage.files import FileError, Names, TableFile, TableWriter, open_table

IDS = np.array([0, 3, 2**40, 2**63, 2**64 - 1], np.uint64)


def make_rows(n: int, dim: int = 4, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    return np.random.default_rng(n).standard_normal((n, dim)).astype(dtype)


def read_all(source: TableFile, step: int = 2, **how: Any) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
    chunks = list(source.sorted_chunks(step, **how))
    assert all(ids.dtype == np.uint64 and rows.dtype == np.float32 and 0 < len(ids) <= step for ids, rows in chunks)
    ids = np.concatenate([ids for ids, _ in chunks] or [np.empty(0, np.uint64)])
    rows = np.concatenate([rows for _, rows in chunks] or [np.empty((0, source.dim), np.float32)])
    return ids, rows


def expect_error(path: Path, *words: str, format: str | None = None, names: Names = Names()) -> None:  # noqa: B008
    """Reading the file fails, and the message has its path and the words."""
    with pytest.raises(FileError) as caught:
        read_all(open_table(path, format, names))
    assert all(word in str(caught.value) for word in (str(path), *words)), str(caught.value)


def write(
    path: Path, ids: npt.NDArray[np.uint64], rows: npt.NDArray[Any], dtype: str = "f32", step: int = 2, **how: Any
) -> None:
    with TableWriter(path, rows.shape[1], dtype, **how) as writer:
        for start in range(0, len(ids), step):
            writer.write(ids[start : start + step], rows[start : start + step])
