"""The store of the owner's tests: RocksDB, counted, held back and made to fail when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from embcache_storage.log import UpdateLog
from embcache_storage.rocks import RocksOptions, RocksStore
from embcache_storage.store import BulkLoad, Change, U8Array, U64Array


class WatchedStore:
    """A RowStore in `folder`, opened at its first use, and opened anew when it is used after a `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before: Callable[[str], None] = lambda call: None
        self._opened: RocksStore | None = None
        self.asked: list[list[int]] = []
        self.read_errors: list[Exception] = []
        self.commit_errors: list[Exception] = []
        self.bulk_errors: list[Exception] = []
        self.reading = threading.Semaphore(0)
        self._held_version: int | None = None
        self._held_after = False
        self._gate = threading.Event()
        self._gate.set()

    @property
    def _store(self) -> RocksStore:
        if self._opened is None:
            self._opened = RocksStore(self.folder, RocksOptions(threads=2))
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    @contextmanager
    def held_back(self, version: int | None = None, *, after: bool = False) -> Iterator[None]:
        """Reads that begin inside the block, all or those of a version, end after it; `reading` is released for each.

        after: they are held back when they have their rows already.
        """
        self._held_version, self._held_after = version, after
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def damage(self, version: int, feature_id: int) -> None:
        """Flips a bit of a stored row."""
        key = feature_id.to_bytes(8, "big")
        with self._store._families.use(version) as family:
            cell = bytearray(family[key])
            cell[-1] ^= 1
            family[key] = bytes(cell)

    def read(self, version: int, row_bytes: int, ids: U64Array) -> tuple[U8Array, U8Array]:
        self.asked.append(ids.tolist())
        error = self.read_errors.pop() if self.read_errors else None
        held = self._held_version in (None, version)
        found = self._store.read(version, row_bytes, ids) if held and self._held_after else None
        self.reading.release()
        assert not held or self._gate.wait(20)
        if error is not None:
            raise error
        return found or self._store.read(version, row_bytes, ids)

    def put_meta(self, key: str, value: bytes) -> None:
        self.before("put_meta")
        self._store.put_meta(key, value)

    def versions(self) -> list[int]:
        return self._store.versions()

    def create(self, version: int, row_bytes: int) -> None:
        self.before("create")
        self._store.create(version, row_bytes)

    def drop(self, version: int) -> None:
        self.before("drop")
        self._store.drop(version)

    def bulk(self, version: int, row_bytes: int) -> BulkLoad:
        self.before("bulk")
        return _WatchedLoad(self._store.bulk(version, row_bytes), self)

    def flush(self) -> None:
        self.before("flush")
        self._store.flush()

    def flush_all(self) -> None:
        self.before("flush_all")
        self._store.flush_all()

    def commit(self, changes: Sequence[Change], meta: Mapping[str, bytes | None] | None = None) -> None:
        self.before("commit")
        if self.commit_errors:
            raise self.commit_errors.pop()
        self._store.commit(changes, meta)

    def scan(self, version: int, row_bytes: int, start: int, limit: int) -> tuple[U64Array, U8Array]:
        return self._store.scan(version, row_bytes, start, limit)

    def count(self, version: int) -> int:
        return self._store.count(version)

    def is_counted(self, version: int) -> bool:
        return self._store.is_counted(version)

    def disk_bytes(self, version: int) -> int:
        return self._store.disk_bytes(version)

    def get_meta(self, key: str) -> bytes | None:
        return self._store.get_meta(key)

    @property
    def identity(self) -> str:
        return self._store.identity

    @property
    def log(self) -> UpdateLog:
        return self._store.log

    def metas(self, prefix: str) -> dict[str, bytes]:
        return self._store.metas(prefix)

    def memory(self) -> dict[str, int]:
        return self._store.memory()


class _WatchedLoad:
    """A load of a WatchedStore, watched as well."""

    def __init__(self, load: BulkLoad, store: WatchedStore) -> None:
        self._load = load
        self._store = store

    @property
    def rows(self) -> int:
        return self._load.rows

    def add(self, ids: U64Array, rows: U8Array) -> None:
        self._store.before("add")
        if self._store.bulk_errors:
            raise self._store.bulk_errors.pop()
        self._load.add(ids, rows)

    def commit(self) -> int:
        self._store.before("commit")
        return self._load.commit()

    def abort(self) -> None:
        self._load.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
