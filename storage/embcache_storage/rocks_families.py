"""The versions of a database: a column family for each, which stays while calls use it. Knows no rows.

A WriteBatch that names a dropped column family breaks a database until it is opened again: half of the batch shows, and
every later write fails. So whoever uses a family is inside its gate, and a drop shuts the gate before it drops.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from embcache_storage.gate import Gate
from embcache_storage.rocks_errors import engine_errors
from embcache_storage.rocks_options import Engine
from embcache_storage.store import VersionExists, VersionGone

log = logging.getLogger(__name__)

_NAME = re.compile(r"v(0|[1-9][0-9]*)")


def family_name(version: int) -> str:
    """The name of a version's column family."""
    return f"v{version}"


class _Family:
    def __init__(self, version: int, handle: Any) -> None:
        self.handle = handle
        self.gate = Gate(lambda: VersionGone(version))


class Families:
    """All versions of a database. Creating and dropping take turns; use goes on beside them."""

    def __init__(self, database: Any, names: list[str], engine: Engine, changed: Callable[[], None]) -> None:
        """`names` are the column families that the database was opened with, versions and others.

        `changed` is called after a version came or went, by one thread at a time.
        """
        self._database = database
        self._engine = engine
        self._changed = changed
        self._turn = threading.Lock()
        self._families: dict[int, _Family] = {}
        self._others: list[Any] = []
        for name in names:
            handle = database.get_column_family(name)
            if _NAME.fullmatch(name):
                self._families[int(name[1:])] = _Family(int(name[1:]), handle)
            else:
                self._others.append(handle)

    def versions(self) -> list[int]:
        """The versions there are, ascending."""
        return sorted(self._families)

    @contextmanager
    def use(self, version: int) -> Iterator[Any]:
        """rocksdict's handle of a version, which is not dropped within the block. VersionGone."""
        family = self._families.get(version)
        if family is None:
            raise VersionGone(version)
        with family.gate:
            yield family.handle

    def total(self, name: str) -> int:
        """The sum of an integer property over all versions."""
        total = 0
        for version in self.versions():
            with contextlib.suppress(VersionGone), self.use(version) as handle:
                total += handle.property_int_value(name) or 0
        return total

    def check_new(self, version: int) -> None:
        """VersionExists unless the version can still be created."""
        if version in self._families:
            raise VersionExists(version)

    def create(self, version: int, files: list[str], ingest: Any) -> None:
        """Create a version with the rows of sorted table files, all at once and durably. VersionExists.

        A crash in between, or a disk that is full, may leave an empty version that no catalogue knows, and that shows
        when the database is opened again.
        """
        with self._turn:
            self.check_new(version)
            with engine_errors(f"cannot create version {version}"):
                handle = self._database.create_column_family(family_name(version), self._engine.family)
            try:
                if files:
                    with engine_errors(f"cannot take in the rows of version {version}"):
                        handle.ingest_external_file(files, ingest)
            except BaseException:
                self._remove(version, handle)
                raise
            self._families[version] = _Family(version, handle)
            self._changed()

    def drop(self, version: int) -> None:
        """Remove a version once those who use it have left; whoever comes now gets VersionGone at once."""
        with self._turn:
            family = self._families.pop(version, None)
            if family is None:
                raise VersionGone(version)
            family.gate.shut()
            self._remove(version, family.handle)
            self._changed()

    def close(self) -> None:
        """Flush and let go of all. Nobody may be inside."""
        with self._turn:
            handles = [family.handle for family in self._families.values()] + self._others
            self._families, self._others = {}, []
            for handle in handles:
                try:
                    handle.close()
                except Exception as error:
                    log.warning("rows stay in the write-ahead log, since they cannot be flushed: %s", error)

    def _remove(self, version: int, handle: Any) -> None:
        with engine_errors(f"cannot drop version {version}"):
            self._database.drop_column_family(family_name(version))
        # The files go with the last handle: `close` does that without the GIL, the garbage collector would hold it. It
        # also tries to flush, which a dropped family refuses.
        with contextlib.suppress(Exception):
            handle.close()
