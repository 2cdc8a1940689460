"""Encoded batches on disk, so that a trainer's crash loses none that it was told is kept.

A folder of files NNNNNNNNNNNNNNNNNNNN.spool, named after the seq of their first batch; they are appended to and, once
all of their batches are dropped, removed. A file is MAGIC and then records, each a head and a body:

    u64 seq | u64 bytes of the body | u64 XXH3_64 of the body | u64 XXH3_64 of the 24 bytes before

The head has a checksum of its own: a damaged length would else pass for a torn end and take good batches with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import xxhash

from embcache_client.errors import ClientError

MAGIC: Final = b"embspl1\n"
_FIELDS: Final = struct.Struct("<QQQ")
_HEAD: Final = struct.Struct("<QQQQ")
_SUFFIX: Final = ".spool"
_LOCK: Final = "lock"


class SpoolFull(ClientError):
    """The batch would make the spool larger than it may be, or the disk is full; nothing of it was kept."""


class SpoolDamaged(ClientError):
    """A file of the spool does not hold what was written to it; the message names the file and the place."""


class SpoolLocked(ClientError):
    """Another process, or another Spool of this one, has the folder open."""


class Spool:
    """The batches of one producer, in order of seq without gaps. One process and one thread at a time.

    What append has returned from survives a crash of the process, and with sync one of the machine.
    cut_bytes: what was cut off the last file at opening, an append that a crash interrupted; 0 where there was none.
    """

    def __init__(
        self, folder: str | Path, *, max_bytes: int = 4 << 30, file_bytes: int = 64 << 20, sync: bool = False
    ) -> None:
        """Opens the folder, making it where it is not there.

        max_bytes: of all files; file_bytes: where a file ends and the next begins, at the batch that passes it.
        Raises SpoolLocked, and SpoolDamaged where a file is not what was written, its torn end aside.
        """
        self._folder = Path(folder)
        self._max_bytes, self._file_bytes, self._sync = max_bytes, file_bytes, sync
        self._files: list[_File] = []
        self._dropped = 0  # batches up to this seq are no longer wanted, though their file may stand
        self.cut_bytes = 0
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self._folder)
        try:
            self._recover()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the folder; what it keeps stays."""
        for file in self._files:
            file.close()
        self._files = []
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def byte_count(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self._files)

    @property
    def first_seq(self) -> int | None:
        """The oldest batch that is kept; None when there is none."""
        last = self.last_seq
        return None if last is None else max(self._files[0].first_seq, self._dropped + 1)

    @property
    def last_seq(self) -> int | None:
        """The newest batch that is kept; None when there is none."""
        return self._files[-1].last_seq if self._files else None

    def __len__(self) -> int:
        first, last = self.first_seq, self.last_seq
        return 0 if first is None or last is None else last - first + 1

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(seq, body) from the oldest to the newest, those included that are appended meanwhile."""
        seq = self.first_seq
        while seq is not None and (last := self.last_seq) is not None and seq <= last:
            seq = max(seq, self._dropped + 1, self._files[0].first_seq)
            yield seq, self.read(seq)
            seq += 1

    def read(self, seq: int) -> bytes:
        """The body of a batch that is kept; KeyError for any other, SpoolDamaged where it is not what was written."""
        at = bisect_right(self._files, seq, key=lambda file: file.first_seq) - 1
        if at < 0 or seq <= self._dropped or seq > self._files[at].last_seq:
            raise KeyError(f"batch {seq} is not in the spool {self._folder}")
        return self._files[at].read(seq)

    def append(self, seq: int, body: bytes) -> None:
        """Keeps a batch: any seq >= 1 when the spool is empty, else the one after the last.

        Raises SpoolFull when there is no room, and ValueError for another seq.
        """
        self._check_open()
        last = self.last_seq
        if not 1 <= seq < 1 << 64 or (last is not None and seq != last + 1):
            raise ValueError(f"batch {seq} does not follow batch {last} in the spool {self._folder}")
        begins = not self._files or self._files[-1].size >= self._file_bytes
        needed = _HEAD.size + len(body) + (len(MAGIC) if begins else 0)
        if self.byte_count + needed > self._max_bytes:
            held = f"holds {self.byte_count} of {self._max_bytes} bytes"
            raise SpoolFull(f"the spool {self._folder} {held}: no room for {needed} more")
        try:
            self._append(seq, body, begins)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SpoolFull(f"no room on the disk for {needed} bytes in the spool {self._folder}") from error
            raise

    def drop_through(self, seq: int) -> None:
        """Batches up to seq are no longer wanted; files of them alone are removed.

        A file with others in it stands whole: after a restart its dropped batches are there again.
        """
        self._check_open()
        while self._files and self._files[0].last_seq <= seq:
            self._files[0].remove()
            self._files.pop(0).close()
        # An empty spool starts at any seq; its floor must not hide what comes.
        self._dropped = max(self._dropped, seq) if self._files else 0

    def _append(self, seq: int, body: bytes, begins: bool) -> None:
        if not begins:
            self._files[-1].append(seq, body, self._sync)
            return
        file = _File.create(self._folder / f"{seq:020d}{_SUFFIX}", seq)
        try:
            file.append(seq, body, self._sync)
            if self._sync:
                _sync_folder(self._folder)
        except BaseException:
            file.remove()
            file.close()
            raise
        self._files.append(file)

    def _check_open(self) -> None:
        if self._lock < 0:
            raise ValueError(f"the spool {self._folder} is closed")

    def _recover(self) -> None:
        paths = sorted(self._folder.glob(f"*{_SUFFIX}"))
        for path in paths:
            file = _File.open(path, is_last=path == paths[-1])
            self.cut_bytes += file.cut_bytes
            if not file.places:
                file.remove()
                file.close()
                continue
            before = self._files[-1] if self._files else None
            self._files.append(file)
            if before and file.first_seq != before.last_seq + 1:
                ends = f"{before.path} ends with batch {before.last_seq}"
                raise SpoolDamaged(f"{ends}, and {file.path}, the next, begins with {file.first_seq}")


class _File:
    """One file and where its batches lie."""

    def __init__(self, path: Path, first_seq: int, flags: int) -> None:
        self.first_seq = first_seq
        self.places: list[tuple[int, int]] = []  # offset and size of the bodies, by seq from first_seq
        self.size = 0
        self.cut_bytes = 0
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)

    @classmethod
    def create(cls, path: Path, first_seq: int) -> _File:
        return cls(path, first_seq, os.O_CREAT | os.O_EXCL)

    @classmethod
    def open(cls, path: Path, *, is_last: bool) -> _File:
        if not path.stem.isdecimal():
            raise SpoolDamaged(f"{path} is not named after a batch")
        file = cls(path, int(path.stem), 0)
        try:
            file._scan(is_last)
        except BaseException:
            file.close()
            raise
        return file

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.places) - 1

    def close(self) -> None:
        os.close(self._fd)

    def remove(self) -> None:
        self.path.unlink()

    def append(self, seq: int, body: bytes, sync: bool) -> None:
        """All of the record or nothing: what an error leaves behind is cut off."""
        magic = b"" if self.size else MAGIC
        record = magic + _head(seq, body) + body
        try:
            _write(self._fd, record, self.size)
            if sync:
                os.fdatasync(self._fd)
        except BaseException:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(record)
        self.places.append((self.size - len(body), len(body)))

    def read(self, seq: int) -> bytes:
        offset, size = self.places[seq - self.first_seq]
        start = offset - _HEAD.size
        record = _read(self._fd, _HEAD.size + size, start)
        body = record[_HEAD.size :]
        if record[: _HEAD.size] != _head(seq, body):
            raise self._damaged(start)
        return body

    def _scan(self, is_last: bool) -> None:
        """Finds the batches. A record that is torn, which only the last of the last file can be, is cut off."""
        length = os.fstat(self._fd).st_size
        magic = _read(self._fd, len(MAGIC), 0)
        if magic == MAGIC:
            self.size = len(MAGIC)
            while self.size < length and self._scan_record(length):
                pass
        elif not MAGIC.startswith(magic) and any(magic):
            raise self._damaged(0)
        if self.size == length and self.places:
            return
        if not is_last:
            raise self._damaged(self.size)
        self.cut_bytes = length - self.size
        os.ftruncate(self._fd, self.size)

    def _scan_record(self, length: int) -> bool:
        """Whether there is a whole record at `size`, and then it is counted; False where it is torn."""
        start = self.size
        head = _read(self._fd, _HEAD.size, start)
        if len(head) < _HEAD.size:
            return False
        seq, size, body_sum, head_sum = _HEAD.unpack(head)
        if xxhash.xxh3_64_intdigest(head[: _FIELDS.size]) != head_sum:
            if self._is_zeros(start, length):  # the machine died between the file's growth and its data
                return False
            raise self._damaged(start)
        if seq != self.last_seq + 1:
            raise self._damaged(start)
        end = start + _HEAD.size + size
        if end > length:
            return False
        if xxhash.xxh3_64_intdigest(_read(self._fd, size, start + _HEAD.size)) != body_sum:
            if end == length:
                return False
            raise self._damaged(start)
        self.places.append((start + _HEAD.size, size))
        self.size = end
        return True

    def _is_zeros(self, start: int, length: int) -> bool:
        step = 1 << 20
        return not any(any(_read(self._fd, min(step, length - at), at)) for at in range(start, length, step))

    def _damaged(self, at: int) -> SpoolDamaged:
        return SpoolDamaged(f"{self.path} is damaged at byte {at}: it does not hold what was written there")


def _head(seq: int, body: bytes) -> bytes:
    fields = _FIELDS.pack(seq, len(body), xxhash.xxh3_64_intdigest(body))
    return fields + xxhash.xxh3_64_intdigest(fields).to_bytes(8, "little")


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def _read(fd: int, size: int, at: int) -> bytes:
    """size bytes, or those up to the end of the file."""
    parts: list[bytes] = []
    while size and (part := os.pread(fd, size, at)):
        parts.append(part)
        size, at = size - len(part), at + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _locked(folder: Path) -> int:
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise SpoolLocked(f"the spool {folder} is open elsewhere: each producer needs a folder of its own") from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
