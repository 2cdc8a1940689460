"""Who has a data folder: one process, for as long as it lives, through the deaths of its owners.

RocksDB's own lock is an owner's, and free while another owner is being started: a second service that came just then
would take the folder, and neither could go on. So whoever starts owners holds a lock (flock) on a file of the folder
besides. The system lifts it at the end of that process, whatever it dies of, and not before: children are started with
none of its descriptors, and a forked child closes its own first of all.

So whoever has the claim and finds RocksDB's lock taken has met an owner whose parent has just died, which is closing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import weakref
from pathlib import Path
from typing import Final

from embcache.errors import ConfigError

FILE: Final = "embcache.lock"
_claims: weakref.WeakSet[Claim] = weakref.WeakSet()


def _abandon_all() -> None:
    """In a forked child: they are the parent's, and must not live for our sake."""
    for claim in list(_claims):
        claim.abandon()


os.register_at_fork(after_in_child=_abandon_all)


class FolderTaken(ConfigError):
    """Another process has the data folder. `holder`: "process 4711", as far as is known."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(
            f"cold.path {folder}: {holder} has it open; stop that one, attach to it (EmbeddingCache.attach), "
            "or give --url http://... to a command that asks a running service"
        )
        self.holder = holder


class Claim:
    """The claim of this process on a data folder, until `release`."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where there is none, and take it. FolderTaken; ConfigError where it cannot be used."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(fd, "r+b", buffering=0)  # closed with this object, at the latest
            _claims.add(self)
        except OSError as error:
            raise ConfigError(f"cold.path {folder}: cannot be used: {error.strerror or error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.truncate()
            self._file.write(f"{os.getpid()} {socket.gethostname()}\n".encode())
        except BlockingIOError:
            holder = _holder(self._file.read(256))
            self._file.close()
            raise FolderTaken(folder, holder) from None
        except OSError as error:
            self._file.close()
            raise ConfigError(f"cold.path {folder}: cannot be locked: {error.strerror or error}") from error

    def release(self) -> None:
        """Let others have the folder. A second call does nothing."""
        if not self._file.closed:
            with contextlib.suppress(OSError):  # such as a disk that is gone: closing lifts the lock as well
                self._file.truncate(0)
                fcntl.flock(self._file, fcntl.LOCK_UN)  # whatever else has this descriptor open
            self._file.close()

    def abandon(self) -> None:
        """Be without it, and leave it to whoever else has the file open."""
        self._file.close()


def _holder(told: bytes) -> str:
    """What the lock's file tells; nothing in the instant between its being locked and being written."""
    words = told.decode("ascii", "replace").split()
    if len(words) != 2 or not words[0].isdecimal():
        return "another process"
    pid, host = words
    if host != socket.gethostname():
        return f"process {pid} on {host}"
    return "this process" if int(pid) == os.getpid() else f"process {pid}"
