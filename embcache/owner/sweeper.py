"""The sweeper: looks for rows that have expired, and has them removed by entries of the update log. Runs on the loop.

A row that has expired is `missing` for every reader already (host/expiry.py); a sweep gives its room back. What the
sweeper saw may be old when its sweep is applied, so that one judges each row again, by the time it is for: a row that
was written meanwhile has not expired at that time, and stays.

It rests between two pieces nine times as long as a piece took, the rows' removal included, and looks at a version only
when something in it may have expired.
"""

from __future__ import annotations

import asyncio
from typing import Final

import numpy as np

from embcache.errors import EmbcacheError
from embcache.host import expiry
from embcache.owner.catalogue import Version
from embcache.owner.flight import Ids
from embcache.owner.parts import Parts
from embcache.owner.threads import log
from embcache.owner.updates import sweep_of
from embcache_storage.store import RowStore, StoreCorrupt, StoreError, VersionGone

PIECE_ROWS: Final = 1024
_REST: Final = 9.0  # times as long as work
_LAST_ID: Final = (1 << 64) - 1
_NO_TIME: Final = 1 << 64


class Sweeper:
    """Looks at an owner's parts; owns none."""

    def __init__(self, parts: Parts, every_s: float) -> None:
        """It looks for something to do every so many seconds."""
        self._parts = parts
        self._every_s = every_s
        self._first: dict[int, int] = {}  # when the first row expires that the last pass left, by version
        self._told: set[int] = set()  # versions of which the log says that some rows cannot be looked at

    async def watch(self) -> None:
        """Sweeps for as long as it runs."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.sweep()

    async def sweep(self) -> None:
        """Go through every version in which something may have expired, once."""
        versions = [version for version in self._parts.tables.versions() if version.spec.expires]
        self._first = {v.number: self._first.get(v.number, 0) for v in versions}
        for version in versions:
            written = self._parts.intake.applier.first_expiries.pop(version.number, _NO_TIME)
            self._first[version.number] = min(self._first[version.number], written)
            if self._first[version.number] > expiry.now_ms():
                continue
            try:
                self._first[version.number] = await self._pass(version)
            except VersionGone:
                continue
            except (EmbcacheError, StoreError) as error:  # the disk is full, mostly
                log.warning("table %s: what has expired is not swept for now: %s", version.spec.name, error)

    async def _pass(self, version: Version) -> int:
        """-> when the first row expires that is left, in ms since 1970."""
        loop, first, start = asyncio.get_running_loop(), _NO_TIME, 0
        while start <= _LAST_ID:
            began = loop.time()
            ids, times, start = await self._parts.threads.bulk(
                self._piece, self._parts.store, version.number, version.spec.cold_row_bytes, start
            )
            now = expiry.now_ms()
            over = expiry.are_over(times, now)
            left = times[~over & (times != expiry.NEVER)]
            first = min(first, int(left.min())) if left.size else first
            if over.any():
                intake = self._parts.intake
                await intake.applier.wait(await intake.committer.sweep(sweep_of(version.number, ids[over], now)))
            await asyncio.sleep(_REST * (loop.time() - began))
        return first

    def _piece(self, store: RowStore, number: int, row_bytes: int, start: int) -> tuple[Ids, expiry.Times, int]:
        """In a thread: (ids from `start` on, when they expire, where to go on). A damaged piece is passed over."""
        try:
            ids, rows = store.scan(number, row_bytes, start, PIECE_ROWS)
        except StoreCorrupt as error:
            if number not in self._told:
                self._told.add(number)
                log.error("version %d: some rows are not looked at for expiry: %s", number, error)
            none = np.empty(0, np.uint64)
            return none, none, 1 + (max(error.ids) if error.ids else _LAST_ID)
        following = int(ids[-1]) + 1 if len(ids) == PIECE_ROWS else _LAST_ID + 1
        return ids, expiry.expiries_of(rows), following
