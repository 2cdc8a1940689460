"""A new version of a table that begins with the rows of another one, while updates of these go on. Runs on the loop.

1. The name, the spec and a number are looked at as any stage does; position P is what is applied.
2. The other version is scanned into a bulk load. A row of the scan is as of P or newer. All the while the update log is
   read on from P, so that none of it is trimmed unread: the ids that it changed in the other version are kept.
3. The load is committed: a version that no catalogue names, and that goes at the next start if this does not end.
4. Rows of the ids kept are read anew and written, in rounds, each up to what is applied then, until few are left.
5. The intake is closed, all that was accepted is applied, and what is left is caught up with: now the two are the same.
   Then the version is named, by an entry that follows all these updates and precedes all others.
So the version has its source's rows as of that entry, and with `follow` all updates after it. An error or a crash
before the entry leaves nothing. (Sweeps may come between 5 and the entry: what they remove has expired here, too.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embcache.errors import Conflict
from embcache.host import expiry
from embcache.host.convert import decode_rows, encode_rows
from embcache.owner import versions
from embcache.owner.catalogue import Version
from embcache.owner.changed import read_piece
from embcache.owner.flight import Ids, Rows
from embcache.owner.parts import Parts
from embcache.spec import EXPIRY_BYTES, TableSpec
from embcache_storage.log import Trimmed
from embcache_storage.store import ABSENT, DAMAGED, BulkLoad, Change, RowStore, StoreCorrupt, VersionGone

SCAN_BYTES = 4 << 20  # of rows that are copied at once
WRITE_ROWS = 1024  # a write of so many holds the GIL for some milliseconds
FEW_IDS = 4096  # that are caught up with while nobody can push
_ROUNDS = 20


class Copies:
    """Copies versions with an owner's parts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def stage(
        self, name: str, label: str, spec: Mapping[str, Any], source: str, *, follow: bool
    ) -> tuple[Version, int]:
        """Add a version that has the rows of `source` -> (version, the change's position), see Tables.stage.

        UnknownTable; Conflict, also where the source went or was filled anew meanwhile.
        """
        tables = self._parts.tables
        origin, version = await tables.plan_copy(name, label, spec, source, follow=follow)
        copy = _Copy(self._parts, origin, version)
        try:
            rows = await copy.scan()
            await self._catch_up(copy)
        except VersionGone:
            raise versions.copied_no_more(name, origin) from None
        return version, await tables.stage_copy(name, version, origin, rows, copy.finish)

    async def _catch_up(self, copy: _Copy) -> None:
        """Step 4. After an error nothing of the copy is left."""
        try:
            for _ in range(_ROUNDS):
                if await copy.catch_up() <= FEW_IDS:
                    break
        except BaseException:
            await self._parts.tables.discard(copy.version.number)
            raise


class _Copy:
    """One copy under way: `changed` are ids of the source that may have changed up to `position`."""

    def __init__(self, parts: Parts, origin: Version, version: Version) -> None:
        self.version = version
        self._parts, self._origin = parts, origin
        self._position = parts.intake.applier.applied
        self._changed: list[Ids] = []

    async def scan(self) -> int:
        """Step 2 and 3 -> how many rows."""
        parts, origin, number = self._parts, self._origin, self.version.number
        step = max(1, SCAN_BYTES // origin.spec.cold_row_bytes)
        load = await parts.threads.bulk(parts.store.bulk, number, self.version.spec.cold_row_bytes)
        try:
            start: int | None = 0
            while start is not None:
                start = await parts.threads.bulk(self._copy_piece, parts.store, load, start, step)
                await self._read_log()
            return await parts.threads.bulk(load.commit)
        except BaseException:
            await parts.threads.bulk(load.abort)
            raise

    async def catch_up(self) -> int:
        """Step 4, a round of it -> of how many ids rows were read anew."""
        await self._read_log()
        if not self._changed:
            return 0
        ids, self._changed = np.unique(np.concatenate(self._changed)), []
        for start in range(0, len(ids), WRITE_ROWS):
            await self._parts.threads.bulk(self._rewrite, self._parts.store, ids[start : start + WRITE_ROWS])
        return len(ids)

    async def finish(self) -> None:
        """Step 5: nothing is accepted any more."""
        intake = self._parts.intake
        await intake.committer.drain()
        await intake.applier.wait(intake.committer.logged)
        await self.catch_up()

    async def _read_log(self) -> None:
        """Take note of what was changed up to the position that is applied now. The rows on disk are as of there."""
        parts, applied = self._parts, self._parts.intake.applier.applied
        while self._position < applied:
            try:
                piece = await parts.threads.bulk(
                    read_piece, parts.store.log, self._origin.number, self._position, applied
                )
            except Trimmed:
                raise Conflict(
                    f"the update log was trimmed before version {self._origin.label!r} was copied: raise "
                    "updates.log_bytes, or copy while there are fewer updates",
                    {"table": self._origin.spec.name},
                ) from None
            self._position = piece.position
            self._changed.append(piece.ids)

    def _copy_piece(self, store: RowStore, load: BulkLoad, start: int, step: int) -> int | None:
        """In a thread: rows from an id on -> where to go on."""
        ids, rows = store.scan(self._origin.number, self._origin.spec.cold_row_bytes, start, step)
        following = int(ids[-1]) + 1 if len(ids) == step and int(ids[-1]) < (1 << 64) - 1 else None
        load.add(*converted(ids, rows, self._origin.spec, self.version.spec))
        return following

    def _rewrite(self, store: RowStore, ids: Ids) -> None:
        """In a thread: rows of ids as the source has them now, or none."""
        rows, state = store.read(self._origin.number, self._origin.spec.cold_row_bytes, ids)
        if (state == DAMAGED).any():
            damaged = ids[state == DAMAGED].tolist()
            raise StoreCorrupt(f"the row of id {damaged[0]} is damaged", damaged)
        there = state != ABSENT
        kept, made = converted(ids[there], rows[there], self._origin.spec, self.version.spec)
        gone = ids[~np.isin(ids, kept, assume_unique=True)]
        number = self.version.number
        store.commit([Change(number, gone, None), Change(number, kept, made)])


def converted(ids: Ids, rows: Rows, origin: TableSpec, spec: TableSpec) -> tuple[Ids, Rows]:
    """Rows u8 [n, row_bytes] of ids as one spec has them on disk, as another has them; without what has expired.

    Rows that come to where rows expire, and did not before, do so as if they were assigned now.
    """
    now = expiry.now_ms()
    times = np.full(len(ids), expiry.after(now, spec.ttl_s or 0), np.uint64)
    if origin.expires:
        times = expiry.expiries_of(rows)
        current = ~expiry.are_over(times, now)
        ids, rows, times = ids[current], rows[current], times[current]
    if spec.cold_code != origin.cold_code:
        rows, _ = encode_rows(decode_rows(rows, origin.cold_code, spec.dim), spec.cold_code)
    elif origin.expires:
        rows = rows[:, :-EXPIRY_BYTES]
    return ids, expiry.with_expiries(rows, times) if spec.expires else np.ascontiguousarray(rows)
