"""Marks: of which rows of a batch that is set aside there is something newer, so that a release leaves them alone.

The update log says it: all batches behind this one that were applied. So the applier does nothing for it. The log is
read every now and then, before any of it is trimmed, and once more before a release, when nothing is accepted; what
was found is kept, and up to where.

An `add` of the batch is overtaken by an `assign` or a `delete` of its row; what else the batch does to a row, by any
change of it, since it would undo that one. What cannot be read is no reason to keep the log for ever: a batch that is
damaged cannot be released, and an entry that is may have changed every row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from embcache.errors import StorageCorrupt
from embcache.owner.entries import from_payload
from embcache.owner.flight import Ids
from embcache.owner.quarantine import SCANNED, Quarantine, Record, marks_key
from embcache.owner.threads import StoreThreads, log
from embcache.owner.updates import Batch, RowsChange
from embcache_client.updates import ADD
from embcache_storage.log import Entry
from embcache_storage.store import StoreCorrupt

_READ_BYTES: Final = 16 << 20  # of the log at once

Bits = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Group:
    """A batch's ids u64 [m] of some versions, ascending, each once.

    replaced [m]: the batch does something else to the row than adding to it. marked [m]: there is something newer.
    """

    versions: tuple[int, ...]
    ids: Ids
    replaced: Bits
    marked: Bits

    def is_marked(self, ids: Ids) -> Bits:
        """Of some of its ids, in any order."""
        return self.marked[np.searchsorted(self.ids, ids)]


def groups_of(batch: Batch, bits: bytes | None) -> dict[tuple[int, ...], Group]:
    """The groups of a batch by their versions, marked as `bits` say, which `bits_of` gave; None: not at all."""
    parts: dict[tuple[int, ...], list[RowsChange]] = {}
    for change in batch.changes:
        parts.setdefault(change.versions, []).append(change)
    groups, at = {}, 0
    known = np.zeros(0, np.uint8) if bits is None else np.unpackbits(np.frombuffer(bits, np.uint8))
    for versions, changes in parts.items():
        ids = np.unique(np.concatenate([change.ids for change in changes]))
        replaced, marked = np.zeros(len(ids), np.bool_), np.zeros(len(ids), np.bool_)
        for change in changes:
            if change.op != ADD:
                replaced[np.searchsorted(ids, change.ids)] = True
        here = known[at : at + len(ids)]
        marked[: len(here)] = here
        groups[versions] = Group(versions, ids, replaced, marked)
        at += len(ids)
    return groups


def bits_of(groups: Iterable[Group]) -> bytes:
    """The marks of a batch's groups."""
    return np.packbits(np.concatenate([np.zeros(0, np.bool_), *(group.marked for group in groups)])).tobytes()


class Marker:
    """Reads the log for marks. On the loop, but for what it does in threads; within the quarantine's turn."""

    def __init__(self, quarantine: Quarantine, threads: StoreThreads) -> None:
        self._quarantine = quarantine
        self._threads = threads
        self._groups: dict[int, dict[tuple[int, ...], Group]] = {}

    async def groups(self, record: Record) -> dict[tuple[int, ...], Group]:
        """The groups of a record, marked up to where the log was read."""
        if record.position not in self._groups:
            self._groups[record.position] = await self._threads.bulk(self._load, record)
        return self._groups[record.position]

    async def scan(self, upto: int) -> None:
        """Read the log up to a position that is applied, and keep what was found. StoreErrors; then it was not read."""
        quarantine = self._quarantine
        records = quarantine.all()
        self._groups = {record.position: await self._known_groups(record) for record in records}
        if not records:
            return
        at = max(quarantine.scanned, records[0].position)  # what was before the oldest is no news to any
        meta: dict[str, bytes | None] = {}
        if at >= upto:
            return
        try:
            while at < upto:
                at, changed = await self._threads.bulk(self._scan, records, at, upto)
                for record in changed:
                    meta[marks_key(record.position)] = bits_of(self._groups[record.position].values())
            await self._threads.change(quarantine.store.commit, (), {**meta, SCANNED: b"%d" % upto})
        except BaseException:
            self._groups = {}  # what was found is no news to a later scan otherwise, and would not be kept
            raise
        quarantine.scanned = upto

    async def _known_groups(self, record: Record) -> dict[tuple[int, ...], Group]:
        """As `groups`, but none of a record that is damaged."""
        try:
            return await self.groups(record)
        except StorageCorrupt as error:
            log.error("%s: it can only be dropped", error)
            return {}

    def _load(self, record: Record) -> dict[tuple[int, ...], Group]:
        store = self._quarantine.store
        return groups_of(self._quarantine.read(record), store.get_meta(marks_key(record.position)))

    def _scan(self, records: Sequence[Record], after: int, upto: int) -> tuple[int, list[Record]]:
        """In a thread: a piece of the log -> (up to where, the records that were marked)."""
        known = {number for groups in self._groups.values() for versions in groups for number in versions}
        seen: dict[int, _Seen] = {}
        entries = self._read(after, upto)
        if entries is None:
            log.error("the update log's entry at position %d is damaged: what is set aside is not released", after + 1)
            return after + 1, [record for record in records if record.position <= after and self._mark_all(record)]
        for entry in entries:
            after = entry.position
            batch = from_payload(entry.payload)
            if isinstance(batch, Batch) and not self._quarantine.skips(after):
                for change in batch.changes:
                    for number in known.intersection(change.versions):
                        seen.setdefault(number, _Seen([], [])).note(after, change)
        latest = {number: (_latest(each.replaced), _latest(each.changed)) for number, each in seen.items()}
        marked = []
        for record in records:
            found = [
                _mark(group, record.position, *latest[number])
                for group in self._groups[record.position].values()
                for number in group.versions
                if number in latest
            ]
            if any(found):
                marked.append(record)
        return after, marked

    def _read(self, after: int, upto: int) -> Sequence[Entry] | None:
        """Entries behind a position; None where the next one is damaged."""
        update_log = self._quarantine.store.log
        for nbytes in (_READ_BYTES, 1):  # as many as are sound; the next one
            with contextlib.suppress(StoreCorrupt):
                return update_log.read(after, nbytes, upto)
        return None

    def _mark_all(self, record: Record) -> bool:
        """-> whether that is news."""
        groups = self._groups[record.position].values()
        news = not all(group.marked.all() for group in groups)
        for group in groups:
            group.marked[:] = True
        return news


@dataclass(frozen=True, slots=True)
class _Seen:
    """What happened to a version: (position, ids) of its assigns and deletes, and of all of its changes."""

    replaced: list[tuple[int, Ids]]
    changed: list[tuple[int, Ids]]

    def note(self, position: int, change: RowsChange) -> None:
        self.changed.append((position, change.ids))
        if change.op != ADD:
            self.replaced.append((position, change.ids))


def _latest(changes: Sequence[tuple[int, Ids]]) -> tuple[Ids, NDArray[np.int64]]:
    """All ids of changes in the order of their positions, ascending and once, and the last position of each."""
    if not changes:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    ids = np.concatenate([ids for _, ids in changes])[::-1]
    positions = np.repeat([position for position, _ in changes], [len(ids) for _, ids in changes])[::-1]
    own, first = np.unique(ids, return_index=True)
    return own, positions[first]


def _mark(
    group: Group, position: int, replaced: tuple[Ids, NDArray[np.int64]], changed: tuple[Ids, NDArray[np.int64]]
) -> bool:
    """Mark what came behind a position; -> whether that is news."""
    left = np.flatnonzero(~group.marked)
    hit = _is_behind(group.ids[left], position, *replaced)
    hit |= _is_behind(group.ids[left], position, *changed) & group.replaced[left]
    group.marked[left[hit]] = True
    return bool(hit.any())


def _is_behind(ids: Ids, position: int, own: Ids, last: NDArray[np.int64]) -> Bits:
    """Which of some ids were met behind a position."""
    if not len(own):
        return np.zeros(len(ids), np.bool_)
    at = np.minimum(np.searchsorted(own, ids), len(own) - 1)
    behind: Bits = (own[at] == ids) & (last[at] > position)
    return behind
