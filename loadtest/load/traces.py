"""Access traces and lists of ids out of files, into arrays that every generator maps and none holds.

A file is read once and written, as u64, into a folder of the run; memory stays flat whatever its length.
"""

from __future__ import annotations

import hashlib
import itertools
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from loadtest.datasets import DataError
from loadtest.workloads import I64s, U64s

_CHUNK = 1 << 20
_LINES = 65_536


@dataclass(frozen=True, slots=True)
class TraceFiles:
    """A trace as it lies on disk, for others to map.

    ids: a .npy of u64 [n], in order of access. starts: a .npy of i64 [lookups + 1], ascending from 0 to n, where the
    trace says itself what belongs to one lookup; None where it does not.
    sha256: of ids and starts, so of what is asked, whatever kind of file it came in.
    """

    ids: Path
    starts: Path | None
    count: int
    lookups: int | None
    sha256: str

    def mapped(self) -> tuple[U64s, I64s | None]:
        """Both arrays, mapped."""
        return np.load(self.ids, mmap_mode="r"), None if self.starts is None else np.load(self.starts, mmap_mode="r")


def read_trace(path: Path, folder: Path) -> TraceFiles:
    """Read a trace into `folder`. DataError, naming the file, where it is none.

    *.npy             ids, 1-D integers
    *.npz             `ids`, and `lengths` of the lookups where it has them
    anything else     text: ids as decimal digits, apart by blanks or commas; lines beginning with # are passed over.
                      Where any line has more than one id, each line is one lookup
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    readers = {".npy": _read_npy, ".npz": _read_npz}
    ids, starts, count = readers.get(path.suffix, _read_text)(path, folder)
    if not count:
        raise DataError(f"{path}: holds no ids")
    lookups = None if starts is None else len(np.load(starts, mmap_mode="r")) - 1
    return TraceFiles(ids, starts, count, lookups, _sha256(ids, starts))


def _read_npy(path: Path, folder: Path) -> tuple[Path, Path | None, int]:
    try:
        ids = open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: not a NumPy file that can be read: {error}") from error
    return _write_ids(path, ids, folder), None, len(ids)


def _read_npz(path: Path, folder: Path) -> tuple[Path, Path | None, int]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "ids" not in archive:
                raise DataError(f"{path}: has no array `ids`, but {', '.join(archive) or 'nothing'}")
            ids = archive["ids"]
            lengths = archive.get("lengths")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a NumPy file that can be read: {error}") from error
    written = _write_ids(path, ids, folder)
    if lengths is None:
        return written, None, len(ids)
    _check_integers(path, lengths, "lengths")
    lengths = lengths[lengths > 0]
    starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    if starts[-1] != len(ids):
        raise DataError(f"{path}: `lengths` sum to {starts[-1]}, but there are {len(ids)} ids")
    return written, _saved(folder / "starts.npy", starts), len(ids)


def _write_ids(path: Path, ids: NDArray[Any], folder: Path) -> Path:
    """The ids as a .npy of u64, a piece at a time."""
    if ids.ndim != 1 or ids.dtype.kind not in "ui":
        raise DataError(f"{path}: ids should be a 1-D array of integers, not {ids.dtype} {ids.shape}")
    out = folder / "ids.npy"
    with _Growing(out, np.uint64) as growing:
        for start in range(0, len(ids), _CHUNK):
            piece = np.asarray(ids[start : start + _CHUNK])
            _check_integers(path, piece, "ids")
            growing.append(piece.astype(np.uint64))
    return out


def _check_integers(path: Path, array: NDArray[Any], name: str) -> None:
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise DataError(f"{path}: `{name}` should be a 1-D array of integers, not {array.dtype} {array.shape}")
    if array.dtype.kind == "i" and len(array) and array.min() < 0:
        raise DataError(f"{path}: `{name}` has {array.min()}; they are integers from 0 on")


def _read_text(path: Path, folder: Path) -> tuple[Path, Path | None, int]:
    out, starts = folder / "ids.npy", folder / "starts.npy"
    longest = 0
    with _Growing(out, np.uint64) as growing, _Growing(starts, np.int64) as ends:
        ends.append(np.zeros(1, np.int64))
        for lines in _lines(path):
            lengths = np.array([len(line) for line in lines], np.int64)
            longest = max(longest, int(lengths.max(initial=0)))
            growing.append(_numbers(path, lines))
            ends.append(growing.count - lengths.sum() + np.cumsum(lengths))
    return out, (starts if longest > 1 else None), growing.count


def _lines(path: Path) -> Iterator[list[list[str]]]:
    """The words of the lines that have some, many lines at a time."""
    try:
        with path.open(encoding="ascii") as file:
            while some := list(itertools.islice(file, _LINES)):
                words = (line.replace(",", " ").split() for line in some if not line.startswith("#"))
                yield [line for line in words if line]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: neither .npy nor .npz by its name, and no text of ids: {error}") from error


def _numbers(path: Path, lines: list[list[str]]) -> U64s:
    words = list(itertools.chain.from_iterable(lines))
    try:
        return np.array([int(word) for word in words], np.uint64)
    except (ValueError, OverflowError):
        wrong = next(word for word in words if not (word.isdigit() and int(word) < 1 << 64))
        raise DataError(f"{path}: {wrong!r:.40} is no id: ids are integers from 0 to 2^64 - 1") from None


class _Growing:
    """A .npy of one dimension that is written piece by piece; its header is written last, when its length is known."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self._path, self._dtype = path, np.dtype(dtype)
        self._file: IO[bytes] = path.open("wb")
        self.count = 0
        self._write_header()

    def append(self, piece: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(piece, self._dtype).tobytes())
        self.count += len(piece)

    def _write_header(self) -> None:
        # Padded by hand to one length, so that the last one fits where the first one stood.
        text = repr({"descr": self._dtype.str, "fortran_order": False, "shape": (self.count,)})
        self._file.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n")

    def __enter__(self) -> _Growing:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()


def _saved(path: Path, array: NDArray[Any]) -> Path:
    np.save(path, array)
    return path


def _sha256(*paths: Path | None) -> str:
    """Over the arrays' bytes, of files as _Growing and NumPy write them."""
    digest = hashlib.sha256()
    for path in paths:
        if path is not None:
            array = np.load(path, mmap_mode="r")
            for start in range(0, len(array), _CHUNK):
                digest.update(np.ascontiguousarray(array[start : start + _CHUNK]).tobytes())
    return digest.hexdigest()
