"""What RocksDB's errors become. rocksdict raises bare `Exception`s that only their text tells apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from embcache_storage.store import StoreCorrupt, StoreError, StoreFull, StoreLocked, StoreStuck


def store_error(message: str, what: str) -> StoreError:
    """The error that RocksDB's `message` stands for; `what` says what was being done, and where."""
    text = f"{what}: {message}"
    if "No space left on device" in message or "Disk quota exceeded" in message:
        return StoreFull(text)
    if "Writer has previous error" in message:
        return StoreStuck(f"{text} (its log broke off when the disk was full: it has to be opened anew)")
    if "lock hold by current process" in message or "While lock file" in message:
        return StoreLocked(f"{text} (another process, or another store in this one, has it open: close that first)")
    if message.startswith("Corruption"):
        return StoreCorrupt(text)
    return StoreError(text)


@contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """Turns what rocksdict raises in the block into a StoreError; StoreErrors and the interpreter's own pass."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception and type(error).__module__ != "rocksdict":
            raise
        raise store_error(str(error), what) from error
