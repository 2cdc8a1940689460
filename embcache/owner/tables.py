"""The tables: opened from the store, changed one at a time, shown to readers. Runs on the loop.

A change is an entry of the update log, in one order with all updates. No batch is accepted meanwhile (intake.py), and a
crash or an error at any step leaves the old tables or the new:
1. the new version's rows are in the store, under a number that no catalogue names; a switch begins with 3;
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
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from embcache.errors import ConfigError, Conflict, Internal, StorageCorrupt, UnknownTable
from embcache.owner import lineage, versions
from embcache.owner.applier import CURSOR, Cursor
from embcache.owner.catalogue import KEY, LAST_NUMBER, LIVE, STAGED, Catalogue, Table, TableChange, Version
from embcache.owner.lineage import Lineage
from embcache.owner.memory import Memory
from embcache.owner.producers import FLOOR
from embcache.owner.threads import StoreThreads, log
from embcache.owner.versions import NewVersion
from embcache.spec import TableSpec
from embcache.validation import no_table
from embcache_storage.store import RowStore, VersionGone

_COUNT_EVERY_S = 1.0
_EPOCHS_BEYOND = 1 << 40  # the last floor: more than any history gives, so that a copy of a copy is above both
_NUMBERS_AT_ONCE = 64  # taken by one catalogue write, so that not every import begins with one


@dataclass(frozen=True, slots=True)
class Move:
    """What a switch does to a table: the version that is live, and the one that is to be."""

    before: Version
    after: Version


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
        self._known: dict[int, Version] = {}
        self._coming: Version | None = None  # that a change in progress will name
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

    def find(self, number: int) -> Version | None:
        """A version that the catalogue names."""
        return self._known.get(number)

    def live_in(self, number: int) -> str | None:
        """The name of the table whose live version this is, or will be once the change that brings it is done."""
        coming = self._coming
        version = coming if coming is not None and coming.number == number else self.find(number)
        return version.spec.name if version is not None and version.state == LIVE else None

    def named(self, name: str) -> Table:
        """A table by its name. UnknownTable when there is none."""
        table = self._catalogue.tables.get(name)
        if table is None:
            raise no_table(name, self._catalogue.tables)
        return table

    def versions(self) -> list[Version]:
        """Every version of every table."""
        return list(self._catalogue.versions())

    def rows(self, number: int) -> int:
        """How many rows a version has: exactly after an import, about so many once updates came."""
        return self._rows.get(number, 0)

    def message(self) -> dict[str, Any]:
        """The catalogue as readers get it."""
        told = [self._version_message(version) for version in self._catalogue.versions()]
        return {"generation": self._generation, "history": self.history, "versions": told}

    def _version_message(self, version: Version) -> dict[str, Any]:
        return {
            "spec": version.spec.to_json(),
            "label": version.label,
            "number": version.number,
            "entry": self._memory.entry(version.number),
            "state": version.state,
            "rows": self.rows(version.number),
        }

    # --- start ---------------------------------------------------------------------------------------------------

    async def load(self, owner: Lineage) -> None:
        """Take up what the data folder holds: before the log is, whose entries change it. StorageCorrupt."""
        held = set(await self._threads.change(self._store.versions))
        self._catalogue = await self._read(held)
        self._last_number = self._catalogue.numbers
        named = self._catalogue.numbered()
        if lost := named.keys() - held:
            names = sorted({named[number].spec.name for number in lost})
            raise StorageCorrupt(f"the data folder lacks the rows of {', '.join(names)}: restore it from a copy")
        self._unnamed = held - named.keys()
        await self._settle()
        await self._continue(owner)
        self._publish()

    async def open(self, declared: Iterable[TableSpec]) -> None:
        """Create the declared tables that are not there, once the log is taken up, and give all of them memory.

        ConfigError when a declared table has another spec than it was declared with, and than its live version has;
        TooLarge when there is no memory for so many.
        """
        missing = []
        for spec in declared:
            table = self._catalogue.tables.get(spec.name)
            if table is None:
                missing.append(spec)
            elif spec not in (table.spec, table.live.spec):
                told = versions.difference(spec, table.live.spec)
                raise ConfigError(f"[[table]] {told}: declare it as it is, or drop it first")
        for spec in missing:
            await self.create(spec)
        await self._sweep()
        for version in self._catalogue.versions():
            self._rows[version.number] = await self._threads.change(self._store.count, version.number)
        kept = {v.number: (v.row_bytes, self._rows[v.number] if v.state == LIVE else 0) for v in self.versions()}
        self._memory.fill(kept)
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

    async def _settle(self) -> None:
        """Note since when the live versions of a catalogue of an earlier release are that, see `Catalogue.settled`."""
        if any(table.since is None for table in self._catalogue.tables.values()):
            cursor = Cursor.from_bytes(await self._threads.change(self._store.get_meta, CURSOR))
            self._catalogue = self._catalogue.settled(cursor.position)
            await self._threads.change(self._store.put_meta, KEY, self._catalogue.to_bytes())

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
                versions.same_spec(spec, table)
                return None
            version = await self._new_version(spec, self._new_label(spec.name))
            await self._threads.change(self._store.create, version.number, spec.cold_row_bytes)
            return await self._install(Table(spec, version.number, (version,), int(version.label)), version, rows=0)

    async def drop(self, name: str) -> int:
        """Remove a table and its rows -> the change's position. UnknownTable when there is none."""
        async with self._changing():
            self.named(name)
            return await self._orders().order(TableChange({name: None}))

    async def stage(self, name: str, label: str, spec: Mapping[str, Any], *, follow: bool) -> tuple[Version, int]:
        """Add an empty version to a table, which nobody sees -> (version, the change's position).

        spec: the keys in which it differs from the live one. follow: updates go to it, too. UnknownTable; Conflict for
        a name that is taken, or what a version cannot be.
        """
        async with self._changing():
            table = self.named(name)
            version = await self._new_version(versions.own_spec(table, spec), versions.check_label(label))
            version = replace(version, state=STAGED, follow=follow)
            table = versions.staged(table, version)
            await self._threads.change(self._store.create, version.number, version.spec.cold_row_bytes)
            return version, await self._install(table, version, rows=0)

    async def plan_copy(
        self, name: str, label: str, spec: Mapping[str, Any], source: str, *, follow: bool
    ) -> tuple[Version, Version]:
        """(The version of that name, a new one that is to have its rows), see copies.py. UnknownTable, Conflict."""
        async with self._change:
            table = self.named(name)
            origin = versions.found(table, source)
            version = await self._new_version(versions.own_spec(table, spec), versions.check_label(label))
            version = replace(version, state=STAGED, follow=follow)
            versions.staged(table, version)  # rather than after all is copied
            return origin, version

    async def stage_copy(
        self, name: str, version: Version, origin: Version, rows: int, finish: Callable[[], Awaitable[None]]
    ) -> int:
        """Add a version that lies in the store -> the change's position; `finish` makes it what its source is when no
        batch is accepted any more. UnknownTable or Conflict where that went or was filled anew; the version goes then.
        """
        async with self._changing():
            try:
                table = self.named(name)
                there = table.find(origin.label)
                if there is None or there.number != origin.number:
                    raise versions.copied_no_more(name, origin)
                table = versions.staged(table, version)
                await finish()
            except BaseException:
                self._unnamed.add(version.number)
                raise
            return await self._install(table, version, rows)

    async def discard(self, number: int) -> None:
        """Let a version go that lies in the store and that nobody names."""
        self._unnamed.add(number)
        async with self._change:
            await self._sweep()

    async def drop_version(self, name: str, label: str) -> int:
        """Remove a version that is not live, and its rows -> the change's position. UnknownTable, Conflict."""
        async with self._changing():
            table = versions.without(self.named(name), label)
            return await self._orders().order(TableChange({name: table}))

    async def limit(self, name: str, max_norm: object) -> int | None:
        """Give a table's live version another `max_norm`, None for none -> the change's position; None where it has it.

        UnknownTable, MalformedRequest.
        """
        async with self._changing():
            table = self.named(name)
            limited = versions.limited(table, max_norm)
            return None if limited == table else await self._orders().order(TableChange({name: limited}))

    def moves(self, targets: Mapping[str, str]) -> list[Move]:
        """What a switch to {table: label} is about, as things are now. UnknownTable."""
        tables = [(self.named(name), label) for name, label in targets.items()]
        found = [Move(table.live, versions.found(table, label)) for table, label in tables]
        return [move for move in found if move.before != move.after]

    async def switch(self, targets: Mapping[str, str], follow: bool | None = None) -> int | None:
        """Make versions live, {table: label}, all at once -> the change's position; None where they were so before.

        follow: whether those that are retired by it follow from now on; None: as they were staged. UnknownTable,
        Conflict.
        """
        async with self._changing():
            switched = self.check_switch(targets, follow)
            return await self._orders().order(TableChange(switched)) if switched else None

    def check_switch(self, targets: Mapping[str, str], follow: bool | None) -> dict[str, Table]:
        """The tables as a switch would leave them. Its errors, without what is in its way later."""
        names = [move.after.spec.name for move in self.moves(targets)]
        return {name: versions.check_followers(self.named(name).switched(targets[name], follow)) for name in names}

    def make_room(self, moves: Iterable[Move]) -> None:
        """Let versions that are to be live have memory as if they were."""
        for move in moves:
            self._memory.want(move.after.number, self.rows(move.after.number), move.before.number)

    def share_memory(self, names: Iterable[str]) -> None:
        """Let versions have memory by what they are now: those that are not live need not hold all their rows."""
        tables = [table for name in names if (table := self._catalogue.tables.get(name)) is not None]
        for version in (version for table in tables for version in table.versions):
            self._memory.want(version.number, self.rows(version.number) if version.state == LIVE else 0)

    async def plan_version(self, name: str, spec: TableSpec | None, label: str | None = None) -> NewVersion:
        """A number and a label for the rows of an import into the table `name`, see `Imports.begin`."""
        async with self._change:
            table = self._catalogue.tables.get(name)
            if table is None and spec is None:
                raise no_table(name, self._catalogue.tables)
            wanted = None if label is None else versions.check_label(label)
            target = None if table is None or wanted is None else table.find(wanted)
            if target is not None:
                assert table is not None
                versions.check_target(table, target)
            own = _import_spec(table, spec, label, target)
            version = await self._new_version(own, self._new_label(name) if label is None else label)
            return NewVersion(name, version, None if table is None else table.born, label is not None, target)

    async def take_over(self, new: NewVersion, rows: int) -> int:
        """Give a table a version that lies whole in the store, in place of the live one, or as one that nobody sees ->
        the change's position.

        UnknownTable or Conflict when what it was meant for is not there any more; the version is dropped then.
        """
        async with self._changing():
            try:
                table, replaced = versions.filled(new, self._catalogue.tables.get(new.name))
            except (UnknownTable, Conflict):
                self._unnamed.add(new.version.number)
                raise
            [version] = [version for version in table.versions if version.number == new.version.number]
            return await self._install(table, version, rows, None if replaced is None else replaced.number)

    @asynccontextmanager
    async def unchanging(self) -> AsyncIterator[None]:
        """Within the block no table changes, and no batch is accepted."""
        async with self._change, self._orders().closed():
            yield

    async def apply(self, change: TableChange, position: int, meta: Mapping[str, bytes]) -> None:
        """Steps 4 and 5, for the applier, which is at that position: meta values are kept beside the catalogue."""
        if change.new and change.new not in await self._threads.change(self._store.versions):
            await self._threads.change(self._store.commit, (), meta)
            return
        catalogue = self._catalogue.after(change, position)
        await self._threads.change(self._store.commit, (), {KEY: catalogue.to_bytes(), **meta})
        gone = self._catalogue.numbered().keys() - catalogue.numbered().keys()
        self._catalogue = catalogue
        self._publish()
        if change.new:
            self._rows[change.new] = change.rows
            self._unnamed.discard(change.new)  # it is there while the log is taken up
        for number in sorted(gone):
            self._forget(number)

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """One change at a time, with no batch accepted meanwhile; then what nobody names any more goes."""
        async with self._change:
            try:
                async with self._orders().closed():
                    yield
            finally:
                await self._sweep()

    async def _install(self, table: Table, version: Version, rows: int, replaced: int | None = None) -> int:
        """Steps 2 to 5 for a table one of whose versions lies in the store; on an error before 3 that goes again."""
        self._coming = version
        try:
            if self._has_regions:
                wanted = rows if version.state == LIVE else 0
                self._memory.add(version.number, version.row_bytes, wanted, replaced)
            return await self._orders().order(TableChange({table.spec.name: table}, version.number, rows))
        except Exception:
            self._forget(version.number)
            raise
        finally:
            self._coming = None

    def _publish(self) -> None:
        self._known = self._catalogue.numbered()
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

    async def _new_version(self, spec: TableSpec, label: str) -> Version:
        number = await self._new_number()
        return Version(number, label, spec, number)

    def _new_label(self, name: str) -> str:
        """1, 2, ... for the versions of a table; one that no import or version of the name has, or had."""
        table = self._catalogue.tables.get(name)
        last = max(self._labels.get(name, 0), table.labels if table else 0)
        taken = {version.label for version in table.versions} if table else set()
        self._labels[name] = next(label for label in itertools.count(last + 1) if str(label) not in taken)
        return str(self._labels[name])


def _import_spec(table: Table | None, spec: TableSpec | None, label: str | None, target: Version | None) -> TableSpec:
    """The spec of a version that an import fills. Conflict with a table or a version that is there otherwise."""
    if table is None:
        assert spec is not None
        return spec
    if label is None or spec is None:
        if spec is not None:
            versions.same_spec(spec, table)
        return table.live.spec if target is None else target.spec
    versions.check_spec(table, spec)
    if target is not None and spec != target.spec:
        raise Conflict(f"version {label!r} of table {versions.difference(spec, target.spec)}", {"table": spec.name})
    return spec


def _count(store: RowStore, numbers: Iterable[int]) -> dict[int, int]:
    """In a thread: the rows of each version that is there."""
    counts = {}
    for number in numbers:
        with contextlib.suppress(VersionGone):
            counts[number] = store.count(number)
    return counts
