"""NumPy's formats: an .npy file, whose row numbers are the ids, and an .npz archive of `ids` and `rows`.

Arrays are read from their start to their end, never whole, and not mapped: what is read leaves the memory again.
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

from embcache_storage.files_changes import DELETED, MAX_TOLD, MEMBER, Changes
from embcache_storage.files_source import NUMBERED, ArraySource, FileError, Names, chosen

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

    @property
    def bf16(self) -> bool:
        return False  # NumPy has none

    def pieces(self, items: int) -> Iterator[npt.NDArray[Any]]:
        """`items` of the first axis at a time; a member of an archive is checked against its checksum on the way.

        FileError where it breaks off, or does not match.
        """
        if self.column_major and len(self.shape) == 2 and self.nbytes:
            self.check()
            yield from self._column_major(items)
            return
        with file_errors(self.name), self._opened() as stream:
            checksum = zlib.crc32(stream.read(self.header_bytes))
            done = 0
            while done < self.shape[0]:
                shape = (min(items, self.shape[0] - done), *self.shape[1:])
                piece = np.empty(shape, self.dtype)
                flat = piece.reshape(-1).view(np.uint8).data
                _fill(stream, flat)
                checksum = zlib.crc32(flat, checksum) if self._lies_bare else checksum
                done += shape[0]
                if done == self.shape[0]:
                    self._compare(checksum)
                yield piece
            if not self._lies_bare and stream.read(1):
                raise FileError(f"{self.name} is longer than its header says")

    @property
    def _lies_bare(self) -> bool:
        """Whether the bytes of a member lie in the file as they are: then zipfile, which copies them, is not needed."""
        return self.member is not None and not self.compressed and not self.member.flag_bits & 1

    def _compare(self, checksum: int) -> None:
        """zipfile compares what it reads itself."""
        if self.member is not None and self._lies_bare and checksum != self.member.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {self.member.filename!r}")

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if self.member is None or self._lies_bare:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.start)
                yield file
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            yield stream

    def _column_major(self, items: int) -> Iterator[npt.NDArray[Any]]:
        """Rows of an array that lies column by column."""
        rows, columns = self.shape
        first = self.start + self.header_bytes
        with file_errors(self.name), self.path.open("rb") as file:
            for start in range(0, rows, items):
                piece = np.empty((columns, min(items, rows - start)), self.dtype)
                for column in range(columns):
                    file.seek(first + (column * rows + start) * self.dtype.itemsize)
                    _fill(file, piece[column].view(np.uint8).data)
                yield np.ascontiguousarray(piece.T)

    def check(self) -> None:
        """FileError unless the bytes of a member match its checksum, which reading here and there does not look at."""
        if self.member is None:
            return
        with file_errors(self.name), zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            while stream.read(_PIECE_BYTES):
                pass


def open_npy(path: Path, names: Names) -> ArraySource:
    """The table of an .npy file."""
    if names.rows is not None or names.ids not in (None, NUMBERED):
        raise FileError(f"{path}: an .npy holds one array without a name; --ids and --rows are for other formats")
    with file_errors(str(path)), path.open("rb") as file:
        shape, column_major, dtype = _read_header(file)
        array = StoredArray(path, str(path), shape, dtype, column_major, None, 0, file.tell())
        _check_size(array, os.fstat(file.fileno()).st_size)
    return ArraySource(path, array, None)


def open_npz(path: Path, names: Names) -> ArraySource:
    """The table of an .npz archive."""
    with file_errors(str(path)), zipfile.ZipFile(path) as archive:
        there = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

        def array(name: str, option: str) -> StoredArray:
            return _npz_member(path, archive, name, there[chosen(path, there, name, "array", option)])

        ids = None if names.numbered else array(names.ids or "ids", "--ids")
        rows = array(names.rows or "rows", "--rows")
        changes = _changes(path, archive, there)
        deleted = None if changes is None else array(DELETED, "")
    if rows.compressed and rows.column_major and len(rows.shape) == 2:
        raise FileError(f"{rows.name} is compressed and column-major; save it with numpy.savez, or row-major")
    return ArraySource(path, rows, ids, changes, deleted)


def _changes(path: Path, archive: zipfile.ZipFile, there: dict[str, zipfile.ZipInfo]) -> Changes | None:
    """What an archive says of the changes in it, where it is one of those."""
    info = there.get(MEMBER)
    if info is None or DELETED not in there or info.file_size > 8 * MAX_TOLD:
        return None
    with archive.open(info) as stream:
        told = npy_format.read_array(stream, allow_pickle=False)
    return Changes.parse(str(told), path) if told.dtype.kind == "U" and not told.shape else None


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
