"""RocksStore: the RowStore in RocksDB, through rocksdict in raw mode. The only reader and writer of its folder.

    column family "v7"        version 7: key = feature ID as 8 bytes big-endian, value = cell (cells.py)
    column family "log"       updates, in the order in which they were accepted (rocks_log.py)
    column family "default"   "m:" + key: meta values; "n:" + version: rows after a bulk load, as decimal digits
    folder staging/           table files of bulk loads in progress; what a crash left there is removed at open

rocksdict holds the GIL while it writes, ingests and drops; it releases it in list gets and flushes.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from rocksdict import IngestExternalFileOptions, WriteBatch, WriteOptions

from embcache_storage.cells import encode_cells
from embcache_storage.gate import Gate
from embcache_storage.rocks_audit import Damage, Look, audit_rows
from embcache_storage.rocks_bulk import RocksBulkLoad
from embcache_storage.rocks_check import seal
from embcache_storage.rocks_errors import engine_errors
from embcache_storage.rocks_families import Families, family_name
from embcache_storage.rocks_log import FAMILY as LOG_FAMILY
from embcache_storage.rocks_log import RocksLog
from embcache_storage.rocks_open import open_database
from embcache_storage.rocks_options import RocksOptions
from embcache_storage.rocks_read import Reader, keys_of, scan
from embcache_storage.store import Change, StoreClosed, U8Array, U64Array, VersionGone

log = logging.getLogger(__name__)

__all__ = ["RocksOptions", "RocksStore"]


class RocksStore:
    """A RowStore in a folder of its own, which is made where there is none."""

    def __init__(self, path: str | Path, options: RocksOptions | None = None) -> None:
        """Open or create. StoreLocked, StoreTimeout, StoreCorrupt; OSError where the folder cannot be made."""
        self.path = Path(path).absolute()
        self._options = options or RocksOptions()
        self.path.mkdir(parents=True, exist_ok=True)
        self._database, names, self._engine = open_database(self.path, self._options)
        self._staging = self.path / "staging"
        shutil.rmtree(self._staging, ignore_errors=True)
        self._gate = Gate(lambda: StoreClosed(f"the store in {self.path} was closed"))
        self.log = self._open_log(names)
        seal(self.path)
        versions = [name for name in names if name != LOG_FAMILY]
        self._families = Families(self._database, versions, self._engine, lambda: seal(self.path))
        self._reader = Reader(self._options.read_threads)
        self._counts = self._load_counts()

    @property
    def identity(self) -> str:
        written_once = (self.path / "IDENTITY").stat()  # numbers of deleted files are given again, times are not
        return f"{written_once.st_ino}-{written_once.st_ctime_ns}"

    def close(self) -> None:
        if self._gate.shut():
            self._reader.close()
            self._families.close()
            self.log.close()
            self._settle()
            seal(self.path)  # nothing changes any more, and nobody else can have it open yet
            try:
                self._database.close()
            except Exception as error:
                log.warning("closed with an error, what was committed is in the write-ahead log: %s", error)

    def versions(self) -> list[int]:
        with self._gate:
            return self._families.versions()

    def create(self, version: int, row_bytes: int) -> None:
        self._fill(version, [], 0)

    def drop(self, version: int) -> None:
        with self._gate:
            self._families.drop(version)
            if self._counts.pop(version, None) is not None:
                with engine_errors(f"cannot forget the rows of version {version}"):
                    self._database.delete(_count_key(version))
                self._settle()

    def read(self, version: int, row_bytes: int, ids: U64Array) -> tuple[U8Array, U8Array]:
        with self._gate, self._families.use(version) as handle:
            return self._reader.read(handle, row_bytes, np.require(ids, np.uint64, ["C", "A"]))

    def bulk(self, version: int, row_bytes: int) -> RocksBulkLoad:
        with self._gate:
            self._families.check_new(version)
            folder = self._staging / f"{version}-{secrets.token_hex(4)}"
            return RocksBulkLoad(
                folder,
                row_bytes,
                self._options.sst_bytes,
                self._engine.family,
                lambda files, rows: self._fill(version, files, rows),
            )

    def commit(self, changes: Sequence[Change], meta: Mapping[str, bytes | None] | None = None) -> None:
        versions = {change.version for change in changes}
        with self._gate, ExitStack() as used:
            for version in versions:
                used.enter_context(self._families.use(version))
            batch = WriteBatch(raw_mode=True)
            for key, value in (meta or {}).items():
                if value is None:
                    batch.delete(b"m:" + key.encode())
                else:
                    batch.put(b"m:" + key.encode(), value)
            for version in versions & self._counts.keys():
                batch.delete(_count_key(version))  # no longer exact
            for change in changes:
                batch.set_default_column_family(self._database.get_column_family_handle(family_name(change.version)))
                _add(batch, change)
            with engine_errors(f"cannot write {sum(len(change.ids) for change in changes)} rows"):
                self._database.write(batch)
            for version in versions:
                self._counts.pop(version, None)

    def flush(self) -> None:
        with self._gate, engine_errors("cannot move meta values and the update log into files"):
            self._database.flush_wal(True)
            self._database.flush()
            self.log.flush()

    def flush_all(self) -> None:
        with self._gate, engine_errors("cannot move rows into files"):
            for version in self._families.versions():
                with suppress(VersionGone), self._families.use(version) as handle:
                    handle.flush()
        self.flush()

    def scan(self, version: int, row_bytes: int, start: int, limit: int) -> tuple[U64Array, U8Array]:
        with self._gate, self._families.use(version) as handle:
            return scan(handle, row_bytes, start, limit)

    def audit(self, version: int, row_bytes: int, look: Look) -> Iterator[tuple[int, list[Damage]]]:
        """Read all rows of a version, see rocks_audit.py."""
        with self._gate, self._families.use(version) as handle:
            yield from audit_rows(handle, row_bytes, look)

    def count(self, version: int) -> int:
        with self._gate, self._families.use(version) as handle:
            exact = self._counts.get(version)
            return _property(handle, "rocksdb.estimate-num-keys") if exact is None else exact

    def is_counted(self, version: int) -> bool:
        return version in self._counts

    def disk_bytes(self, version: int) -> int:
        with self._gate, self._families.use(version) as handle:
            return _property(handle, "rocksdb.total-sst-files-size")

    def get_meta(self, key: str) -> bytes | None:
        with self._gate, engine_errors(f"cannot read the meta value {key!r}"):
            value: bytes | None = self._database.get(b"m:" + key.encode())
            return value

    def metas(self, prefix: str) -> dict[str, bytes]:
        begin = b"m:" + prefix.encode()
        with self._gate, engine_errors(f"cannot read the meta values {prefix!r}"):
            items = itertools.takewhile(lambda item: item[0].startswith(begin), self._database.items(from_key=begin))
            return {key[2:].decode(): value for key, value in items}

    def put_meta(self, key: str, value: bytes) -> None:
        with self._gate, engine_errors(f"cannot keep the meta value {key!r}"):
            self._database.put(b"m:" + key.encode(), value, _synced())
            self._settle()

    def memory(self) -> dict[str, int]:
        with self._gate:
            return {
                "block_cache": self._engine.cache.get_usage() if self._engine.cache is not None else 0,
                "write_buffers": self._engine.buffers.get_usage(),
                "index_and_filters": self._families.total("rocksdb.estimate-table-readers-mem"),
            }

    def _open_log(self, names: list[str]) -> RocksLog:
        with engine_errors(f"cannot open the update log in {self.path}"):
            if LOG_FAMILY in names:
                family = self._database.get_column_family(LOG_FAMILY)
            else:
                family = self._database.create_column_family(LOG_FAMILY, self._engine.family)
        return RocksLog(self._database, family, self._gate)

    def _fill(self, version: int, files: list[str], rows: int) -> None:
        """Create a version of table files, which hold that many rows."""
        with self._gate:
            ingest = IngestExternalFileOptions()
            ingest.set_move_files(True)
            self._families.create(version, files, ingest)
            try:
                with engine_errors(f"cannot note the rows of version {version}"):
                    self._database.put(_count_key(version), b"%d" % rows, _synced())
            except BaseException:
                self._families.drop(version)
                raise
            self._counts[version] = rows
            self._settle()

    def _settle(self) -> None:
        """Move what the log holds of meta values into a file. A store whose rows only come in bulk then has nothing to
        replay after a crash: it opens faster, and in spite of damaged table files."""
        try:
            self._database.flush()
        except Exception as error:
            log.warning("meta values stay in the write-ahead log: %s", error)

    def _load_counts(self) -> dict[int, int]:
        """Exact row counts by version; those of versions that a crash took away are forgotten."""
        counts = {}
        with engine_errors(f"cannot read the row counts in {self.path}"):
            for key, value in list(self._database.items(from_key=b"n:")):
                if key.startswith(b"n:"):
                    counts[int(key[2:])] = int(value)
            for version in counts.keys() - set(self._families.versions()):
                self._database.delete(_count_key(version))
                del counts[version]
        return counts


def _add(batch: Any, change: Change) -> None:
    """Put a change into a batch whose column family is the change's."""
    ids = np.require(change.ids, np.uint64, ["C", "A"])
    if change.rows is None:
        deque(map(batch.delete, keys_of(ids)), maxlen=0)
        return
    cells = encode_cells(ids, np.require(change.rows, np.uint8, ["C", "A"]))
    deque(map(batch.put, keys_of(ids), cells.view(f"V{cells.shape[1]}").ravel().tolist()), maxlen=0)


def _count_key(version: int) -> bytes:
    return b"n:%d" % version


def _synced() -> Any:
    options = WriteOptions()
    options.sync = True
    return options


def _property(handle: Any, name: str) -> int:
    value: int | None = handle.property_int_value(name)
    return value or 0
