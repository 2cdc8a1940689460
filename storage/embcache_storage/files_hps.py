"""HugeCTR HPS model folders: `key`, int64 [n], and `emb_vector`, float32 [n, dim], both raw and little-endian.

Neither says n or dim: n is what `key` holds, dim what is left for each in `emb_vector`.
(https://nvidia-merlin.github.io/HugeCTR, hierarchical parameter server, "sparse model files".)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from embcache_storage import files_write
from embcache_storage.files_source import MAX_DIM, ArraySource, FileError, Names, RawColumn, U64Array

_KEY: Final = "key"
_ROWS: Final = "emb_vector"


def open_folder(path: Path, names: Names) -> ArraySource:
    """The table of a folder."""
    key, vector = names.ids or _KEY, names.rows or _ROWS
    if names.numbered:
        raise FileError(
            f"{path}: an HPS folder has its ids in `{_KEY}`, by which its dim is known; --ids names another"
        )
    sizes = [_size(path, name) for name in (key, vector)]
    count, rest = divmod(sizes[0], 8)
    if rest:
        raise FileError(f"{path / key} is truncated or no int64: it has {sizes[0]:,} bytes, 8 make a key")
    if not count:
        raise FileError(f"{path / key} is empty: without a key nothing says how long a row is")
    dim, rest = divmod(sizes[1], 4 * count)
    if rest or not 1 <= dim <= MAX_DIM:
        raise FileError(
            f"{path / vector} has {sizes[1]:,} bytes, no rows of 1 to {MAX_DIM} float32 for the {count:,} keys of "
            f"{path / key}: one of them is truncated or not of this model"
        )
    ids = RawColumn(path / key, str(path / key), (count,), np.dtype("<i8"))
    rows = RawColumn(path / vector, str(path / vector), (count, dim), np.dtype("<f4"))
    return ArraySource(path, rows, ids)


def _size(path: Path, name: str) -> int:
    if not (path / name).is_file():
        raise FileError(f"{path} has no file `{name}`: an HPS folder holds `{_KEY}` (int64) and `{_ROWS}` (float32)")
    return (path / name).stat().st_size


class Sink(files_write.Sink):
    """A folder of the two files. Rows of any dtype are float32 there."""

    def __init__(self, target: Path, work: Path, dim: int, dtype: str, names: Names) -> None:
        super().__init__(target, work, dim, dtype, names)
        if names.numbered:
            raise FileError(f"{target}: an HPS folder has its ids in `{_KEY}`; --ids names another, and cannot be -")
        self._folder = work / "whole"
        self._folder.mkdir()
        self._key = files_write.Spool(self._folder / (names.ids or _KEY))
        self._rows = files_write.Spool(self._folder / (names.rows or _ROWS))

    def write(self, ids: U64Array, rows: npt.NDArray[np.floating[Any]]) -> None:
        if int(ids[-1]) >= 2**63:
            raise FileError(f"{self.target}: id {ids[-1]} is more than the int64 of an HPS folder; write an .npz")
        self._key.write(ids.astype("<i8"))
        self._rows.write(np.asarray(rows, "<f4"))

    def finish(self) -> Path:
        self._key.done()
        self._rows.done()
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return self._folder

    def close(self) -> None:
        self._key.close()
        self._rows.close()
