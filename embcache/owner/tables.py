"""The tables: opened from the store, changed one at a time, shown to readers. Runs on the loop.

A change is an entry of the update log, in one order with all updates. No batch is accepted meanwhile (intake.py), and a
crash or an error at any step leaves the old tables or the new:
1. the new version's rows are in the store, under a number that no catalogue names;
2. its region is in the arena;
3. the change is in the log, durably: from here on it will happen;
4. the applier comes to it: catalogue and cursor are written, in one commit (`apply`);
5. the arena's generation is published, then the position: lookups that start now ask for the new catalogue;
6. what nobody names any more goes: regions, and versions in the store once 4 is durable.
An answer to whoever asked for the change comes after 6. An error before 3 takes 1 and 2 back. A crash between 3 and 4
is made good when the log is taken up; a change whose new version is not in the store then had been taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from embcache.errors import ConfigError, Conflict, Internal, StorageCorrupt, UnknownTable
from embcache.owner import lineage
from embcache.owner.catalogue import KEY, LAST_NUMBER, Catalogue, Table, TableChange, Version
from embcache.owner.lineage import Lineage
from embcache.owner.memory import Memory
from embcache.owner.producers import FLOOR
from embcache.owner.threads import StoreThreads, log
from embcache.spec import TableSpec
from embcache.validation import no_table
from embcache_storage.store import RowStore, VersionGone

_COUNT_EVERY_S = 1.0
_EPOCHS_BEYOND = 1 << 40  # the last floor: more than any history gives, so that a copy of a copy is above both
_NUMBERS_AT_ONCE = 64  # taken by one catalogue write, so that not every import begins with one


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version that an import fills. `born` is that of its table; None where the table was not there."""

    spec: TableSpec
    version: Version
    born: int | None


class Orders(Protocol):
    """What gives changes their place among the updates, see Intake."""

    def closed(self) -> AbstractAsyncContextManager[None]: ...

    async def order(self, change: TableChange) -> int: ...


class Tables:
    """All tables of an owner."""

    def __init__(
        self,
        store: RowStore,
        threads: StoreThreads,
        memory: Memory,
        publish: Callable[[int], None],
        orders: Callable[[], Orders],
    ) -> None:
        """Empty until `load`. `publish` tells readers the generation."""
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
        self._unnamed: set[int] = set()  # versions in the store, or what is left of them
        self._has_regions = False
        self._lineage: Lineage | None = None
        self._orders = orders
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
            raise no_table(name, self._catalogue.tables)
        return table

    def versions(self) -> list[tuple[Table, Version]]:
        """Every version with its table."""
        return list(self._catalogue.versions())

    def rows(self, number: int) -> int:
        """How many rows a version has: exactly after an import, about so many once updates came."""
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

    async def load(self, owner: Lineage) -> None:
        """Take up what the data folder holds: before the log is, whose entries change it. StorageCorrupt."""
        held = set(await self._threads.change(self._store.versions))
        self._catalogue = await self._read(held)
        self._last_number = self._catalogue.numbers
        named = {version.number for _, version in self._catalogue.versions()}
        if lost := named - held:
            names = sorted(table.spec.name for table, version in self._catalogue.versions() if version.number in lost)
            raise StorageCorrupt(f"the data folder lacks the rows of {', '.join(names)}: restore it from a copy")
        self._unnamed = held - named
        await self._continue(owner)
        self._publish()

    async def open(self, declared: Iterable[TableSpec]) -> None:
        """Create the declared tables that are not there, once the log is taken up, and give all of them memory.

        ConfigError when a declared table has another spec; TooLarge when there is no memory for so many.
        """
        missing = []
        for spec in declared:
            table = self._catalogue.tables.get(spec.name)
            if table is None:
                missing.append(spec)
            elif table.spec != spec:
                raise ConfigError(f"[[table]] {_difference(spec, table.spec)}: declare it as it is, or drop it first")
        for spec in missing:
            await self.create(spec)
        await self._sweep()
        for _, version in self._catalogue.versions():
            self._rows[version.number] = await self._threads.change(self._store.count, version.number)
        self._memory.fill({v.number: (t.row_bytes, self._rows[v.number]) for t, v in self._catalogue.versions()})
        self._has_regions = True
        self._publish()

    async def watch(self) -> None:
        """Counts rows every now and then, since updates change them, for as long as it runs."""
        while True:
            await asyncio.sleep(_COUNT_EVERY_S)
            counts = await self._threads.bulk(_count, self._store, list(self._rows))
            for number in counts.keys() & self._rows.keys():
                self._rows[number] = counts[number]
                self._memory.expect(number, counts[number])

    async def close(self) -> None:
        """Leave word that all that was answered is durable, which it must be."""
        if self._lineage is not None and self._lineage.at_risk:
            self._lineage = replace(self._lineage, at_risk=False)
            await self._threads.change(self._store.put_meta, lineage.KEY, self._lineage.to_bytes())

    async def _read(self, held: set[int]) -> Catalogue:
        data = await self._threads.change(self._store.get_meta, KEY)
        if data is not None:
            return Catalogue.parse(data)
        if held:
            raise StorageCorrupt(
                f"the data folder holds {len(held)} versions of tables but no catalogue that names them"
            )
        return Catalogue.new()

    async def _continue(self, owner: Lineage) -> None:
        """Begin a new history where that is due, and note whose files these are now."""
        data = await self._threads.change(self._store.get_meta, lineage.KEY)
        before = owner if data is None else Lineage.from_bytes(data)
        meta = {}
        if not before.is_continued_by(owner):
            log.warning("a new history of positions begins: these files are a copy, or power loss took the newest")
            self._catalogue = self._catalogue.with_history(secrets.token_hex(8))
            floor = int(await self._threads.change(self._store.get_meta, FLOOR) or 0)
            meta[FLOOR] = b"%d" % (floor + _EPOCHS_BEYOND + secrets.randbits(47))
        if data != owner.to_bytes():
            meta |= {KEY: self._catalogue.to_bytes(), lineage.KEY: owner.to_bytes()}
            await self._threads.change(self._store.commit, (), meta)
            await self._threads.change(self._store.flush)
        self._lineage = owner

    # --- changes -------------------------------------------------------------------------------------------------

    async def create(self, spec: TableSpec) -> int | None:
        """Create an empty table -> the change's position; None for one that is there so. Conflict with another spec."""
        async with self._changing():
            table = self._catalogue.tables.get(spec.name)
            if table is not None:
                _same_spec(spec, table)
                return None
            number = await self._new_number()
            await self._threads.change(self._store.create, number, spec.cold_row_bytes)
            return await self._install(Table(spec, number, Version(number, self._new_label(spec.name))), rows=0)

    async def drop(self, name: str) -> int:
        """Remove a table and its rows -> the change's position. UnknownTable when there is none."""
        async with self._changing():
            self.named(name)
            return await self._orders().order(TableChange(name, None))

    async def plan_version(self, name: str, spec: TableSpec | None) -> NewVersion:
        """A number and a label for the rows of an import into the table `name`, see `Imports.begin`."""
        async with self._change:
            table = self._catalogue.tables.get(name)
            if table is None and spec is None:
                raise no_table(name, self._catalogue.tables)
            if table is not None and spec is not None:
                _same_spec(spec, table)
            new_spec = table.spec if table is not None else spec
            assert new_spec is not None
            number = await self._new_number()
            born = None if table is None else table.born
            return NewVersion(new_spec, Version(number, self._new_label(name)), born)

    async def take_over(self, new: NewVersion, rows: int) -> int:
        """Make a version that lies whole in the store its table's rows, in place of those before -> the position.

        UnknownTable or Conflict when the table it was meant for is not there any more; the version is dropped then.
        """
        async with self._changing():
            before = self._catalogue.tables.get(new.spec.name)
            try:
                _still_the_same(new, before)
            except (UnknownTable, Conflict):
                self._unnamed.add(new.version.number)
                raise
            table = Table(new.spec, before.born if before else new.version.number, new.version)
            return await self._install(table, rows, None if before is None else before.version.number)

    async def apply(self, change: TableChange, meta: Mapping[str, bytes]) -> None:
        """Steps 4 and 5, for the applier: meta values are kept beside the catalogue."""
        number = None if change.table is None else change.table.version.number
        if number is not None and number not in await self._threads.change(self._store.versions):
            await self._threads.change(self._store.commit, (), meta)
            return
        catalogue = self._catalogue.after(change)
        await self._threads.change(self._store.commit, (), {KEY: catalogue.to_bytes(), **meta})
        replaced = self._catalogue.tables.get(change.name)
        self._catalogue = catalogue
        self._publish()
        if number is not None:
            self._rows[number] = change.rows
            self._unnamed.discard(number)  # it is there while the log is taken up
        if replaced is not None:
            self._forget(replaced.version.number)

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """One change at a time, with no batch accepted meanwhile; then what nobody names any more goes."""
        async with self._change:
            try:
                async with self._orders().closed():
                    yield
            finally:
                await self._sweep()

    async def _install(self, table: Table, rows: int, replaced: int | None = None) -> int:
        """Steps 2 to 5 for a table whose version lies in the store; on an error before 3 the version goes again."""
        number = table.version.number
        try:
            if self._has_regions:
                self._memory.add(number, table.row_bytes, rows, replaced)
            return await self._orders().order(TableChange(table.spec.name, table, rows))
        except Exception:
            self._forget(number)
            raise

    def _publish(self) -> None:
        self._known = {version.number: table for table, version in self._catalogue.versions()}
        self._generation += 1
        self._tell(self._generation)

    def _forget(self, number: int) -> None:
        """Step 6 for a version that no catalogue names, but for the store."""
        self._rows.pop(number, None)
        self._memory.remove(number)
        self._unnamed.add(number)

    async def _sweep(self) -> None:
        """The rest of step 6. What cannot be dropped now goes later, or at the next start."""
        try:
            await self._threads.change(self._store.flush)
            for number in sorted(self._unnamed):
                await self._threads.change(self._store.drop, number)
                self._unnamed.discard(number)
        except Exception:
            log.exception("versions %s could not be dropped; a later change of tables will", sorted(self._unnamed))

    async def _new_number(self) -> int:
        """A version number that was never used and is never used again, whatever becomes of it."""
        if self._last_number >= self._catalogue.numbers:
            if self._last_number + _NUMBERS_AT_ONCE > LAST_NUMBER:
                raise Internal("all version numbers of this data folder are used up: export it into a new one")
            taken = self._catalogue.with_numbers(self._last_number + _NUMBERS_AT_ONCE)
            await self._threads.change(self._store.put_meta, KEY, taken.to_bytes())
            self._catalogue = taken
        self._last_number += 1
        return self._last_number

    def _new_label(self, name: str) -> str:
        """1, 2, ... for the versions of a table; one that no import or version of the name has."""
        table = self._catalogue.tables.get(name)
        self._labels[name] = 1 + max(self._labels.get(name, 0), int(table.version.label) if table else 0)
        return str(self._labels[name])


def _count(store: RowStore, numbers: Iterable[int]) -> dict[int, int]:
    """In a thread: the rows of each version that is there."""
    counts = {}
    for number in numbers:
        with contextlib.suppress(VersionGone):
            counts[number] = store.count(number)
    return counts


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
