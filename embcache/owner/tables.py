"""The tables: opened from the store, changed one at a time, shown to readers. Runs on the loop.

Order of every change, so that a crash or an error at any step leaves the old tables or the new:
1. the new version's rows are in the store, under a number that no catalogue names;
2. its region is in the arena;
3. the catalogue is written: from here on the change has happened;
4. the arena's generation is published: lookups that start now ask for the new catalogue;
5. what nobody names any more goes: regions, then versions in the store (a crash in between: dropped at the next start).
An answer to whoever asked for the change comes after 4.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from embcache.errors import ConfigError, Conflict, Internal, StorageCorrupt, UnknownTable
from embcache.owner.catalogue import KEY, LAST_NUMBER, Catalogue, Table, Version
from embcache.owner.memory import Memory
from embcache.owner.threads import StoreThreads, log
from embcache.spec import TableSpec
from embcache_storage.store import RowStore

_NUMBERS_AT_ONCE = 64  # taken by one catalogue write, so that not every import begins with one


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version that an import fills. `born` is that of its table; None where the table was not there."""

    spec: TableSpec
    version: Version
    born: int | None


class Tables:
    """All tables of an owner."""

    def __init__(
        self,
        store: RowStore,
        threads: StoreThreads,
        memory: Memory,
        publish: Callable[[int], None],
        quiet: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """Empty until `open`. `publish` tells readers the generation; no update is under way within `quiet()`."""
        self._store = store
        self._threads = threads
        self._memory = memory
        self._tell = publish
        self._catalogue = Catalogue.new()
        self._generation = 0
        self._last_number = 0
        self._labels: dict[str, int] = {}
        self._rows: dict[int, int] = {}
        self._known: dict[int, Table] = {}
        self._uncertain = False
        self._quiet = quiet
        self._change = asyncio.Lock()

    # --- what there is -------------------------------------------------------------------------------------------

    @property
    def history(self) -> str:
        """The data folder's history id."""
        return self._catalogue.history

    @property
    def generation(self) -> int:
        """Counts changes of the tables since the owner started."""
        return self._generation

    def find(self, number: int) -> Table | None:
        """The table of a version that the catalogue names."""
        return self._known.get(number)

    def named(self, name: str) -> Table:
        """A table by its name. UnknownTable when there is none."""
        table = self._catalogue.tables.get(name)
        if table is None:
            raise _unknown(name)
        return table

    def versions(self) -> list[tuple[Table, Version]]:
        """Every version with its table."""
        return list(self._catalogue.versions())

    def rows(self, number: int) -> int:
        """How many rows a version had when it was imported or opened."""
        return self._rows.get(number, 0)

    def message(self) -> dict[str, Any]:
        """The catalogue as readers get it."""
        tables = [
            {"spec": table.spec.to_json(), "versions": [self._version_message(version)]}
            for table, version in self._catalogue.versions()
        ]
        return {"generation": self._generation, "history": self.history, "tables": tables}

    def _version_message(self, version: Version) -> dict[str, Any]:
        return {
            "label": version.label,
            "number": version.number,
            "entry": self._memory.entry(version.number),
            "live": True,
            "rows": self.rows(version.number),
        }

    # --- start ---------------------------------------------------------------------------------------------------

    async def open(self, declared: Iterable[TableSpec]) -> None:
        """Takes up what the data folder holds and creates the declared tables that it lacks.

        StorageCorrupt when catalogue and store disagree; ConfigError when a declared table has another spec.
        """
        held = set(await self._threads.change(self._store.versions))
        self._catalogue = await self._load(held)
        self._last_number = self._catalogue.numbers
        named = {version.number for _, version in self._catalogue.versions()}
        if lost := named - held:
            names = sorted(table.spec.name for table, version in self._catalogue.versions() if version.number in lost)
            raise StorageCorrupt(f"the data folder lacks the rows of {', '.join(names)}: restore it from a copy")
        for number in held - named:
            await self._drop_rows(number)
        await self._declare(declared)
        for _, version in self._catalogue.versions():
            self._rows[version.number] = await self._threads.change(self._store.count, version.number)
        self._memory.fill({v.number: (t.row_bytes, self._rows[v.number]) for t, v in self._catalogue.versions()})
        self._publish()

    async def _load(self, held: set[int]) -> Catalogue:
        data = await self._threads.change(self._store.get_meta, KEY)
        if data is not None:
            return Catalogue.parse(data)
        if held:
            raise StorageCorrupt(
                f"the data folder holds {len(held)} versions of tables but no catalogue that names them"
            )
        new = Catalogue.new()
        await self._write(new)
        return new

    async def _declare(self, declared: Iterable[TableSpec]) -> None:
        catalogue = self._catalogue
        for spec in declared:
            table = catalogue.tables.get(spec.name)
            if table is None:
                number = await self._new_number()
                await self._threads.change(self._store.create, number, spec.row_bytes)
                catalogue = catalogue.with_numbers(self._catalogue.numbers)
                catalogue = catalogue.with_table(Table(spec, number, Version(number, self._new_label(spec.name))))
            elif table.spec != spec:
                raise ConfigError(f"[[table]] {_difference(spec, table.spec)}: declare it as it is, or drop it first")
        if catalogue is not self._catalogue:
            await self._write(catalogue)
            self._catalogue = catalogue

    # --- changes -------------------------------------------------------------------------------------------------

    async def create(self, spec: TableSpec) -> bool:
        """Create an empty table -> whether it is new; the same spec again does nothing, another is a Conflict."""
        async with self._change, self._quiet():
            table = self._catalogue.tables.get(spec.name)
            if table is not None:
                _same_spec(spec, table)
                return False
            number = await self._new_number()
            await self._threads.change(self._store.create, number, spec.row_bytes)
            await self._install(Table(spec, number, Version(number, self._new_label(spec.name))), rows=0)
            return True

    async def drop(self, name: str) -> None:
        """Remove a table and its rows. UnknownTable when there is none."""
        async with self._change, self._quiet():
            table = self._catalogue.tables.get(name)
            if table is None:
                raise _unknown(name)
            await self._replace(self._catalogue.without_table(name))
            await self._discard(table.version.number)

    async def plan_version(self, name: str, spec: TableSpec | None) -> NewVersion:
        """A number and a label for the rows of an import into the table `name`, see `Imports.begin`."""
        async with self._change:
            table = self._catalogue.tables.get(name)
            if table is None and spec is None:
                raise _unknown(name)
            if table is not None and spec is not None:
                _same_spec(spec, table)
            new_spec = table.spec if table is not None else spec
            assert new_spec is not None
            number = await self._new_number()
            born = None if table is None else table.born
            return NewVersion(new_spec, Version(number, self._new_label(name)), born)

    async def take_over(self, new: NewVersion, rows: int) -> None:
        """Make a version that lies whole in the store its table's rows; the rows before it are dropped.

        UnknownTable or Conflict when the table it was meant for is not there any more; the version is dropped then.
        """
        async with self._change, self._quiet():
            name, number = new.spec.name, new.version.number
            before = self._catalogue.tables.get(name)
            try:
                _still_the_same(new, before)
            except (UnknownTable, Conflict):
                await self._drop_rows(number)
                raise
            table = Table(new.spec, before.born if before else number, new.version)
            await self._install(table, rows, None if before is None else before.version.number)
            if before is not None:
                await self._discard(before.version.number)

    async def _install(self, table: Table, rows: int, replaced: int | None = None) -> None:
        """Steps 2 to 4 for a table whose version lies in the store; on an error the version goes again."""
        number = table.version.number
        self._rows[number] = rows
        try:
            self._memory.add(number, table.row_bytes, rows, replaced)
            await self._replace(self._catalogue.with_table(table))
        except Exception:
            await self._discard(number)
            raise

    async def _replace(self, catalogue: Catalogue) -> None:
        """Steps 3 and 4."""
        await self._write(catalogue)
        self._catalogue = catalogue
        self._publish()

    async def _write(self, catalogue: Catalogue) -> None:
        # Until a write succeeds nobody knows which catalogue is on disk, and so no version may go: either may name it.
        self._uncertain = True
        try:
            await self._threads.change(self._store.put_meta, KEY, catalogue.to_bytes())
        except Exception:
            with contextlib.suppress(Exception):
                await self._threads.change(self._store.put_meta, KEY, self._catalogue.to_bytes())
                self._uncertain = False
            raise
        self._uncertain = False

    def _publish(self) -> None:
        self._known = {version.number: table for table, version in self._catalogue.versions()}
        self._generation += 1
        self._tell(self._generation)

    async def _discard(self, number: int) -> None:
        """Step 5 for one version."""
        self._rows.pop(number, None)
        self._memory.remove(number)
        await self._drop_rows(number)

    async def _drop_rows(self, number: int) -> None:
        """Drops a version that no catalogue names; the next start does it where that cannot be now."""
        try:
            if self._uncertain:
                raise RuntimeError("the catalogue on disk may still name it")
            await self._threads.change(self._store.drop, number)
        except Exception:
            log.exception("version %d could not be dropped; the next start will", number)

    async def _new_number(self) -> int:
        """A version number that was never used and is never used again, whatever becomes of it."""
        if self._last_number >= self._catalogue.numbers:
            if self._last_number + _NUMBERS_AT_ONCE > LAST_NUMBER:
                raise Internal("all version numbers of this data folder are used up: export it into a new one")
            taken = self._catalogue.with_numbers(self._last_number + _NUMBERS_AT_ONCE)
            await self._write(taken)
            self._catalogue = taken
        self._last_number += 1
        return self._last_number

    def _new_label(self, name: str) -> str:
        """1, 2, ... for the versions of a table; one that no import or version of the name has."""
        table = self._catalogue.tables.get(name)
        self._labels[name] = 1 + max(self._labels.get(name, 0), int(table.version.label) if table else 0)
        return str(self._labels[name])


def _unknown(name: str) -> UnknownTable:
    return UnknownTable(f"no table is named {name!r}", {"table": name})


def _difference(spec: TableSpec, there: TableSpec) -> str:
    keys = [key for key in TableSpec.model_fields if getattr(spec, key) != getattr(there, key)]
    told = ", ".join(f"{key} {_short(getattr(there, key))}, not {_short(getattr(spec, key))}" for key in keys)
    return f"{spec.name!r} is there with {told}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _same_spec(spec: TableSpec, table: Table) -> None:
    if spec != table.spec:
        raise Conflict(f"table {_difference(spec, table.spec)}", {"table": spec.name})


def _still_the_same(new: NewVersion, table: Table | None) -> None:
    name = new.spec.name
    if new.born is None:  # the import creates the table, or fills what another one created meanwhile
        if table is not None:
            _same_spec(new.spec, table)
    elif table is None:
        raise UnknownTable(f"table {name!r} was dropped while rows were imported into it", {"table": name})
    elif table.born != new.born:
        raise Conflict(f"table {name!r} was dropped and made anew while rows were imported into it", {"table": name})
