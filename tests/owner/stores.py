"""Stores for the owner's tests: one in memory, and one around another that counts, waits and fails when told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from embcache_storage.store import BulkLoad, RowStore, U8Array, U64Array, VersionExists, VersionGone


def new_store(folder: Path) -> RowStore:
    """A store for one test."""
    return MemoryStore()


class MemoryStore:
    """A RowStore of dicts."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[int, bytes]] = {}
        self.meta: dict[str, bytes] = {}
        self.damaged: set[int] = set()

    def close(self) -> None: ...

    def versions(self) -> list[int]:
        return sorted(self.rows)

    def create(self, version: int, row_bytes: int) -> None:
        if version in self.rows:
            raise VersionExists(version)
        self.rows[version] = {}

    def drop(self, version: int) -> None:
        self._rows(version)
        del self.rows[version]

    def read(self, version: int, row_bytes: int, ids: U64Array) -> tuple[U8Array, U8Array]:
        held = self._rows(version)
        rows = np.zeros((len(ids), row_bytes), np.uint8)
        state = np.zeros(len(ids), np.uint8)
        for place, feature_id in enumerate(ids.tolist()):
            if feature_id in self.damaged:
                state[place] = 2
            elif feature_id in held:
                state[place] = 1
                rows[place] = np.frombuffer(held[feature_id], np.uint8)
        return rows, state

    def bulk(self, version: int, row_bytes: int) -> BulkLoad:
        if version in self.rows:
            raise VersionExists(version)
        return _MemoryLoad(self, version)

    def write(self, version: int, ids: U64Array, rows: U8Array) -> None:
        self._rows(version).update(zip(ids.tolist(), (row.tobytes() for row in rows), strict=True))

    def scan(self, version: int, row_bytes: int, start: int, limit: int) -> tuple[U64Array, U8Array]:
        held = self._rows(version)
        ids = np.array(sorted(feature_id for feature_id in held if feature_id >= start)[:limit], np.uint64)
        return ids, self.read(version, row_bytes, ids)[0]

    def count(self, version: int) -> int:
        return len(self._rows(version))

    def disk_bytes(self, version: int) -> int:
        return sum(8 + len(row) for row in self._rows(version).values())

    def get_meta(self, key: str) -> bytes | None:
        return self.meta.get(key)

    def put_meta(self, key: str, value: bytes) -> None:
        self.meta[key] = value

    def memory(self) -> dict[str, int]:
        return {}

    def _rows(self, version: int) -> dict[int, bytes]:
        if version not in self.rows:
            raise VersionGone(version)
        return self.rows[version]


class _MemoryLoad:
    def __init__(self, store: MemoryStore, version: int) -> None:
        self._store = store
        self._version = version
        self._added: dict[int, bytes] = {}

    @property
    def rows(self) -> int:
        return len(self._added)

    def add(self, ids: U64Array, rows: U8Array) -> None:
        self._added.update(zip(ids.tolist(), (row.tobytes() for row in rows), strict=True))

    def commit(self) -> int:
        self._store.rows[self._version] = self._added
        return len(self._added)

    def abort(self) -> None:
        self._added = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class WatchedStore:
    """Another store, whose reads are counted, held back and made to fail; and so is what is told of the catalogue."""

    def __init__(self, store: RowStore) -> None:
        self._store = store
        self.asked: list[list[int]] = []
        self.read_errors: list[Exception] = []
        self.meta_errors: list[Exception] = []
        self.bulk_errors: list[Exception] = []
        self.reading = threading.Semaphore(0)
        self._gate = threading.Event()
        self._gate.set()

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Reads that begin inside the block end after it; `reading` is released once for each."""
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def damage(self, version: int, feature_id: int) -> None:
        """Makes a row unreadable."""
        assert isinstance(self._store, MemoryStore)
        self._store.damaged.add(feature_id)

    def read(self, version: int, row_bytes: int, ids: U64Array) -> tuple[U8Array, U8Array]:
        self.asked.append(ids.tolist())
        error = self.read_errors.pop() if self.read_errors else None
        self.reading.release()
        assert self._gate.wait(20)
        if error is not None:
            raise error
        return self._store.read(version, row_bytes, ids)

    def put_meta(self, key: str, value: bytes) -> None:
        if self.meta_errors:
            raise self.meta_errors.pop()
        self._store.put_meta(key, value)

    def close(self) -> None:
        self._store.close()

    def versions(self) -> list[int]:
        return self._store.versions()

    def create(self, version: int, row_bytes: int) -> None:
        self._store.create(version, row_bytes)

    def drop(self, version: int) -> None:
        self._store.drop(version)

    def bulk(self, version: int, row_bytes: int) -> BulkLoad:
        return _WatchedLoad(self._store.bulk(version, row_bytes), self.bulk_errors)

    def write(self, version: int, ids: U64Array, rows: U8Array) -> None:
        self._store.write(version, ids, rows)

    def scan(self, version: int, row_bytes: int, start: int, limit: int) -> tuple[U64Array, U8Array]:
        return self._store.scan(version, row_bytes, start, limit)

    def count(self, version: int) -> int:
        return self._store.count(version)

    def disk_bytes(self, version: int) -> int:
        return self._store.disk_bytes(version)

    def get_meta(self, key: str) -> bytes | None:
        return self._store.get_meta(key)

    def memory(self) -> dict[str, int]:
        return self._store.memory()


class _WatchedLoad:
    """A load whose `add` fails when told to."""

    def __init__(self, load: BulkLoad, errors: list[Exception]) -> None:
        self._load = load
        self._errors = errors

    @property
    def rows(self) -> int:
        return self._load.rows

    def add(self, ids: U64Array, rows: U8Array) -> None:
        if self._errors:
            raise self._errors.pop()
        self._load.add(ids, rows)

    def commit(self) -> int:
        return self._load.commit()

    def abort(self) -> None:
        self._load.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
