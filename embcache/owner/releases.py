"""What becomes of a batch that is set aside: shown, dropped, or released. Runs on the loop, one after the other.

A release is one more entry of the log: what is left of the batch, without the rows of which there is something newer
(marks.py), and exempt from limits. What that is, is known once all that was accepted before it is applied, and while
nothing else is accepted and no table changes; so the entry is appended within such a time, and says it all: whoever
reads the log meets a batch like any other. From when the entry is in the log the release will happen, once: its rows
and the cursor are committed piece by piece, and the record goes with the last of them. A crash before the entry leaves
the batch listed. An entry of which the log cannot say whether it is there (a disk that filled up under it) was not
acknowledged: if its batch was dropped, or released again, before that entry is applied, it is passed over.

Tables are those of now: where the live version is not one that the batch was for (another one was imported or switched
to, or the table is gone), all its rows of that table are left alone. A version gets it that follows now, and did then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from embcache.errors import Conflict
from embcache.owner.catalogue import LIVE, Version
from embcache.owner.intake import Intake
from embcache.owner.marks import Group
from embcache.owner.quarantine import Record
from embcache.owner.tables import Tables
from embcache.owner.threads import StoreThreads
from embcache.owner.updates import Batch, RowsChange

_APPLY_S = 30.0  # for what was accepted before, and for the batch itself
_CLOSED_S = 5.0  # for what was accepted meanwhile, while nothing is

Find = Callable[[int], Version | None]
Groups = Mapping[tuple[int, ...], Group]


@dataclass(frozen=True, slots=True)
class Part:
    """A change of a batch that is set aside: rows, and how many of them a release would leave alone."""

    table: str | None  # None: its versions are gone
    op: str
    rows: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Released:
    """A batch that was released at `position`: changes of rows that it made, and that it left alone."""

    position: int
    rows: int
    skipped: int


class Releases:
    """Shows, drops and releases what is set aside. UnknownTable where nothing is at a position."""

    def __init__(self, threads: StoreThreads, tables: Tables, intake: Intake) -> None:
        self._threads = threads
        self._tables = tables
        self._intake = intake
        self._quarantine = intake.quarantine

    async def show(self, position: int) -> tuple[Record, list[Part]]:
        """A record, and what a release would do now. The log's and the store's errors."""
        async with self._quarantine.turn:
            self._quarantine.find(position)
            await self._intake.marker.scan(self._intake.applier.applied)
            record = self._quarantine.find(position)
            batch, groups = await self._batch(record)
            return record, await self._threads.bulk(_parts, batch, groups, self._tables.find)

    async def drop(self, position: int) -> None:
        """Forget a batch for good, durably. Conflict where it is being released."""
        async with self._quarantine.turn:
            self._idle(position)
            store = self._quarantine.store
            await self._threads.change(store.commit, (), self._quarantine.metas_without(position))
            self._quarantine.remove(position)
            await self._threads.append(store.log.sync)

    async def release(self, position: int) -> Released:
        """Apply what is left of a batch; returns once it is applied.

        The log's and the store's errors, and DeadlineExceeded where updates before it are not applied in time: it is
        listed as before, or, if that is what takes long, it will happen all the same: Conflict until then.
        """
        async with self._quarantine.turn:
            self._idle(position)
            await self._intake.wait_applied(self._intake.committer.logged, _APPLY_S)
            await self._intake.marker.scan(self._intake.applier.applied)  # most of it, while others push on
            record = self._idle(position)
            batch, _ = await self._batch(record)
            async with self._tables.unchanging():
                await self._intake.committer.drain()
                await self._intake.wait_applied(self._intake.committer.logged, _CLOSED_S)
                await self._intake.marker.scan(self._intake.applier.applied)
                groups = await self._intake.marker.groups(self._idle(position))
                left, skipped = await self._threads.bulk(rest_of, batch, groups, self._tables.find)
                left = dataclasses.replace(left, released=position)
                at = self._quarantine.ordered[position] = await self._intake.committer.release(left)
            await self._intake.wait_applied(at, _APPLY_S)
            return Released(at, sum(len(change.ids) for change in left.changes), skipped)

    def _idle(self, position: int) -> Record:
        """A record that nothing is to happen to. UnknownTable, Conflict."""
        record, at = self._quarantine.find(position), self._quarantine.ordered.get(position)
        if at is not None:
            raise Conflict(
                f"the batch of position {position} is being released, at position {at}, which is not applied yet",
                {"position": str(position), "released": str(at)},
            )
        return record

    async def _batch(self, record: Record) -> tuple[Batch, Groups]:
        batch = await self._threads.bulk(self._quarantine.read, record)
        return batch, await self._intake.marker.groups(record)


def rest_of(batch: Batch, groups: Groups, find: Find) -> tuple[Batch, int]:
    """What a release does of a batch, and how many of its changes of rows it leaves alone."""
    changes, skipped = [], 0
    for change in batch.changes:
        left = _left(change, groups[change.versions], find)
        skipped += len(change.ids) - len(left.ids)
        if len(left.ids):
            changes.append(left)
    return dataclasses.replace(batch, changes=tuple(changes)), skipped


def _left(change: RowsChange, group: Group, find: Find) -> RowsChange:
    """A change for the versions of now, without the rows of which there is something newer."""
    there = [version for number in change.versions if (version := find(number)) is not None]
    live = next((version for version in there if version.state == LIVE), None)
    if live is None:
        return dataclasses.replace(change, ids=change.ids[:0], rows=change.rows[:0])
    followers = tuple(version.number for version in there if version.follow and version is not live)
    left = np.flatnonzero(~group.is_marked(change.ids))
    ids, rows = change.ids[left], change.rows[left]
    return dataclasses.replace(change, version=live.number, followers=followers, ids=ids, rows=rows)


def _parts(batch: Batch, groups: Groups, find: Find) -> list[Part]:
    parts = []
    for change in batch.changes:
        left = _left(change, groups[change.versions], find)
        named = (version.spec.name for number in change.versions if (version := find(number)) is not None)
        parts.append(Part(next(named, None), change.op, len(change.ids), len(change.ids) - len(left.ids)))
    return parts
