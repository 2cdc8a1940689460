"""Single arrays in files, without reading them whole: an .npy file, or an .npy member of a zip archive.

What lies in the file as it is gets mapped; what is compressed can only be read from its start to its end.
"""

from __future__ import annotations

import errno
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")  # of a zip member: signature, length of the name, of the extra field
_PIECE_BYTES: Final = 8 << 20

# What numpy, zipfile and zlib raise at damaged bytes; RuntimeError is how zipfile asks for a password.
_DAMAGE: Final = (
    ValueError,
    EOFError,
    SyntaxError,
    RuntimeError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class FileError(Exception):
    """A table file that cannot be read or written. The message says which, what is wrong, where, and what would do."""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in a file: what its header says, and where its data lie."""

    path: Path
    name: str
    """How messages call it: the file, or the member and the file."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    column_major: bool
    member: zipfile.ZipInfo | None
    start: int
    """Where the file's or the member's bytes begin, from the start of the file."""
    header_bytes: int
    """Of those, how many come before the array's data."""

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=object))

    @property
    def compressed(self) -> bool:
        return self.member is not None and self.member.compress_type != zipfile.ZIP_STORED

    def mapped(self) -> npt.NDArray[Any]:
        """The whole array, mapped read-only. Not for compressed members."""
        if not self.nbytes:
            return np.empty(self.shape, self.dtype)
        order = "F" if self.column_major else "C"
        offset = self.start + self.header_bytes
        whole = np.memmap(self.path, self.dtype, "r", offset, self.shape, order)  # type: ignore[call-overload]
        return np.asarray(whole)

    def pieces(self, items: int) -> Iterator[npt.NDArray[Any]]:
        """The array of a row-major, perhaps compressed member, `items` of its first axis at a time, checked at its end.

        FileError where it breaks off, or does not match its checksum.
        """
        assert self.member is not None
        with file_errors(self.name), zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            stream.read(self.header_bytes)
            done = 0
            while done < self.shape[0]:
                shape = (min(items, self.shape[0] - done), *self.shape[1:])
                piece = np.empty(shape, self.dtype)
                _fill(stream, piece.reshape(-1).view(np.uint8).data)
                done += shape[0]
                yield piece
            if stream.read(1):
                raise FileError(f"{self.name} is longer than its header says")

    def check(self) -> None:
        """FileError unless the bytes of a member match its checksum, which reading through a map does not look at."""
        if self.member is None:
            return
        with file_errors(self.name), zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            while stream.read(_PIECE_BYTES):
                pass


def npy_file(path: Path) -> StoredArray:
    """The array of an .npy file."""
    with file_errors(str(path)), path.open("rb") as file:
        shape, column_major, dtype = _read_header(file)
        array = StoredArray(path, str(path), shape, dtype, column_major, None, 0, file.tell())
        _check_size(array, os.fstat(file.fileno()).st_size)
    return array


def npz_members(path: Path, wanted: tuple[str, ...]) -> list[StoredArray]:
    """The named arrays of an .npz file."""
    with file_errors(str(path)), zipfile.ZipFile(path) as archive:
        there = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        missing = [name for name in wanted if name not in there]
        if missing:
            names = ", ".join(f"`{name}`" for name in there) or "nothing"
            raise FileError(f"{path} has no `{missing[0]}`: it holds {names}; a table is `ids` [n] and `rows` [n, dim]")
        return [_npz_member(path, archive, name, there[name]) for name in wanted]


def _npz_member(path: Path, archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> StoredArray:
    title = f"`{name}` of {path}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FileError(f"{title} is compressed by method {info.compress_type}; numpy.savez makes what can be read")
    with file_errors(title), archive.open(info) as stream:
        shape, column_major, dtype = _read_header(stream)
        array = StoredArray(path, title, shape, dtype, column_major, info, _member_start(path, info), stream.tell())
    _check_size(array, info.file_size)
    return array


def _member_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: its local header may be longer than the directory at the archive's end says."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile("a member does not lie where the directory says")
    return int(info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(file)
    match version:
        case (1, 0):
            return npy_format.read_array_header_1_0(file)
        case (2, 0):
            return npy_format.read_array_header_2_0(file)
        case _:
            raise ValueError(f"npy format {version[0]}.{version[1]} is not known here; 1.0 and 2.0 are")


def _check_size(array: StoredArray, total: int) -> None:
    """FileError unless `total` bytes, header included, are what the array takes."""
    there = total - array.header_bytes
    if array.dtype.hasobject:
        raise FileError(f"{array.name} holds Python objects, not numbers")
    if array.nbytes != there:
        state = "is truncated" if there < array.nbytes else "is longer than its header says"
        wanted = f"{array.nbytes:,} bytes for {list(array.shape)} of {array.dtype}"
        raise FileError(f"{array.name} {state}: there are {there:,} bytes of data, its header asks for {wanted}")


def _fill(stream: IO[bytes], buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        read = stream.readinto(buffer[done : done + _PIECE_BYTES])  # type: ignore[attr-defined]
        if not read:
            raise EOFError("it ends too early")
        done += read


@contextmanager
def file_errors(name: str) -> Iterator[None]:
    """Turns what damaged bytes raise into a FileError that names the file. OSErrors pass: they name it themselves."""
    try:
        yield
    except _DAMAGE as error:
        raise FileError(f"{name} cannot be read: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # how a seek to where no file reaches ends
            raise
        raise FileError(f"{name} cannot be read: a directory entry points outside of the file") from error
