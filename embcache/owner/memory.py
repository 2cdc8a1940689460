"""The arena's regions: one for each version, made, resized and removed as tables come and go. Runs on the loop.

A region is resized in the background, a slice of its sets in each step of the loop. Meanwhile readers use the old
region and nothing new is put into either, so `region` says that there is none: rows read then are answered, not
promoted. Updates replace rows in both.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from embcache.errors import TooLarge
from embcache.host.arena import Arena
from embcache.host.curve import Curve
from embcache.host.reports import by_entry
from embcache.host.table import HostTable, TableStats
from embcache.host.tables import HostTables, NoRoomError
from embcache.owner.gains import WORTH_MOVING, settled
from embcache.owner.shares import FILLED, WORTH_GROWING, Want, moves
from embcache.owner.threads import log

SLICE_BYTES = 2 << 20
FULL = 0.9  # of the places of a region: what is asked for next finds others in its way
breathe = partial(asyncio.sleep, 0)  # between two slices the loop does what else there is


class Memory:
    """What of the arena each version has."""

    def __init__(self, arena: Arena, *, huge_pages: bool = True) -> None:
        """`arena` is writable, and nobody else writes it."""
        self.capacity = arena.capacity
        self.tables = HostTables(arena, huge_pages=huge_pages)
        self.curves: dict[int, Curve] = {}
        self.fixed: Callable[[int], int | None] = lambda version: None  # bytes that are a version's by the settings
        self._wants: dict[int, Want] = {}
        self._rows: dict[int, int] = {}
        self._goals: dict[int, int] = {}  # bytes by what misses they save (gains.py)
        self._at_entry: dict[int, int] = {}
        self._moving: int | None = None
        self._moving_to: HostTable | None = None
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()  # nothing has changed since the regions were divided
        self._settled.set()

    def fill(self, versions: dict[int, tuple[int, int]]) -> None:
        """Make the regions of all versions at the start: {version: (row_bytes, rows)}."""
        self._rows = {version: rows for version, (_, rows) in versions.items()}
        self._wants = {version: self._want_of(version, *shape) for version, shape in versions.items()}
        self._check_room(self._wants)
        given = self._shares(self._wants)
        for version, (row_bytes, _) in versions.items():
            self._make(version, row_bytes, given[version])

    def add(self, version: int, row_bytes: int, rows: int, replaced: int | None = None) -> None:
        """Make the region of a new version that will hold `rows` rows, in place of `replaced`, soon to be removed.

        TooLarge when the arena has no place for another version, not even for a few rows. What others must give up
        for it they do in the background: until then the region is larger than what it may use, but none of it is in
        use yet.
        """
        wants = {other: want for other, want in self._wants.items() if other != replaced}
        wants[version] = self._want_of(version, row_bytes, rows)
        self._check_room(wants)
        self._goes_on(version, replaced)
        try:
            self._make(version, row_bytes, self._shares(wants)[version])
        except TooLarge:
            self._goals.pop(version, None)
            self.curves.pop(version, None)
            raise
        self._wants[version], self._rows[version] = wants[version], rows
        if replaced is None:  # else when that one goes: until then there is one region too many
            self._divide_anew()

    def expect(self, version: int, rows: int) -> None:
        """A version has about `rows` rows now. Where its region is full of fewer it is to grow, up to twofold at once.

        So one that updates fill grows with what is asked of it, and an estimate that is too high costs little. One that
        has more than it wants, since nobody needs it, does not want it for that.
        """
        held = self.tables.get(version)
        if held is None or version not in self._wants:
            return
        self._rows[version] = rows
        self._fix(version, held.table.row_bytes)
        want = self._wants[version]
        if want.is_fixed or not FULL * held.table.region.slots <= len(held.table) < rows:
            return
        if held.table.region.size > want.most:
            return
        grown = Want.of(held.table.region.row_bytes, min(rows, 2 * len(held.table)))
        if grown.most > want.most:
            self._wants[version] = grown
            self._divide_anew()

    def want(self, version: int, rows: int, before: int | None = None) -> None:
        """A version is to have room for `rows` rows, as far as its share goes; 0 for one that is hardly looked up.

        It gets more as it needs it (`expect`), and keeps what nobody else needs. before: the version of its table that
        is asked for until now, whose share it gets; a fixed one both have until the switch, if there is room for it.
        """
        held = self.tables.get(version)
        if held is None or version not in self._wants:
            return
        self._goes_on(version, before)
        self._rows[version] = rows
        if not rows:  # nobody asks for it: what was known of it is another one's now
            self._goals.pop(version, None)
            self.curves.pop(version, None)
            held.table.curve = None
        want = self._want_of(version if before is None else before, held.table.row_bytes, rows)
        if before is not None and want.is_fixed and not self._fits(version, want):
            want = Want.of(held.table.row_bytes, rows)
        if want != self._wants[version]:
            self._wants[version] = want
            self._divide_anew()

    async def settled(self) -> None:
        """Until all regions have the shares that they are to have."""
        await self._settled.wait()

    def remove(self, version: int) -> None:
        """Remove a version's region; nothing happens where it has none."""
        if self._wants.pop(version, None) is not None:
            for known in (self._rows, self._goals, self.curves):
                known.pop(version, None)
            self._divide_anew()
            if version != self._moving:  # whoever moves it sees that it is not wanted any more
                self._unmake(version)

    def entry(self, version: int) -> int:
        """The directory entry by which readers find the version."""
        held = self.tables.get(version)
        assert held is not None, f"version {version} has no region"
        return held.entry

    def region(self, version: int) -> HostTable | None:
        """Where rows of the version may be put now; None while it is moved, or once it is removed."""
        held = self.tables.get(version)
        return None if held is None or version == self._moving else held.table

    def replace(self, version: int, ids: NDArray[np.uint64], rows: NDArray[np.uint8] | None) -> None:
        """Bring the rows that a version has in the arena up to date: rows u8 [n, row_bytes], None for removed ones.

        While a region is moved its rows stand in the old one, which is read, and the moved ones in the new one too.
        """
        held = self.tables.get(version)
        if held is None:
            return
        for table in (held.table, self._moving_to if version == self._moving else None):
            if table is not None and rows is None:
                table.delete(ids)
            elif table is not None and rows is not None:
                table.replace(ids, rows)

    def read(self, version: int, ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
        """Rows u8 [n, row_bytes] of ids that a version has in the arena, and which those are; None without a region.

        While a region is moved, the old one still has them all, up to date.
        """
        held = self.tables.get(version)
        return None if held is None else held.table.read(ids)

    def count_use(self, words: NDArray[np.uint64]) -> None:
        """Note what readers hit, words u64 [n] (reports.py); trust none of them."""
        for entry, of_entry in by_entry(words):
            version = self._at_entry.get(entry)
            region = None if version is None else self.region(version)
            if region is not None:
                region.count_use(of_entry)

    def stats(self, version: int) -> dict[str, int]:
        """Counts of a version's region; zeros where it has none."""
        held = self.tables.get(version)
        return dataclasses.asdict(TableStats() if held is None else held.table.stats())

    def totals(self) -> dict[str, int]:
        """Bytes of the whole arena; `huge` are those in huge pages."""
        return {"capacity": self.capacity, "used": self.tables.used, "huge": self.tables.huge.bytes}

    def check(self) -> None:
        """Audits all regions; AssertionError says what is wrong in which."""
        for held in self.tables:
            held.table.check()

    async def watch(self) -> None:
        """Resizes regions after versions came or went, for as long as it runs."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.rebalance()
            except Exception:  # such as a full memory: the regions stay as they are
                log.exception("the arena could not be divided anew")
            if not self._changed.is_set():
                self._settled.set()

    async def rebalance(self) -> None:
        """Give each version its share, moving as few rows as that takes."""
        sizes = {held.version: held.table.region.size for held in self.tables}
        targets = self._shares(self._wants)
        worth = WORTH_MOVING if self._goals else WORTH_GROWING
        for version, size in moves(sizes, targets, self.capacity, worth, self._fixed()).items():
            if version in self._wants:
                await self._resize(version, size)

    # --- where memory pays (payoffs.py) --------------------------------------------------------------------------

    @property
    def wants(self) -> Mapping[int, Want]:
        """What each version would have."""
        return self._wants

    @property
    def is_short(self) -> bool:
        """Whether there is less than all versions want."""
        return sum(want.most for want in self._wants.values()) > self.capacity * FILLED

    @property
    def is_settled(self) -> bool:
        """Whether all regions have the shares that they are to have."""
        return self._settled.is_set()

    def follow(self) -> None:
        """Count from now on by what memory the accesses to each version that is looked up would be hits."""
        for version, rows in self._rows.items():
            curve = self.curves.get(version)
            if rows and (curve is None or curve.overfull):
                self._count(version, Curve(rows if curve is None else max(rows, 2 * curve.rows)))

    def follow_none(self) -> None:
        """All have what they want: nothing is counted, and nobody has a goal."""
        self.curves.clear()
        self._goals.clear()
        for held in self.tables:
            held.table.curve = None

    def aim(self, goals: Mapping[int, int]) -> None:
        """Divide the arena by these bytes of each version, as far as the wants of all allow it."""
        self._goals = {version: goal for version, goal in goals.items() if version in self.curves}
        self._divide_anew()

    def _shares(self, wants: Mapping[int, Want]) -> dict[int, int]:
        return settled(wants, self._goals, self.capacity)

    def _fixed(self) -> set[int]:
        return {version for version, want in self._wants.items() if want.is_fixed}

    def _want_of(self, version: int, row_bytes: int, rows: int) -> Want:
        nbytes = self.fixed(version)
        return Want.of(row_bytes, rows) if nbytes is None else Want.fixed(row_bytes, nbytes)

    def _fix(self, version: int, row_bytes: int) -> None:
        """Give a version the share that is its own by the settings, where there was no room for it before."""
        nbytes = self.fixed(version)
        if nbytes is None or self._wants[version].is_fixed:
            return
        want = Want.fixed(row_bytes, nbytes)
        if self._fits(version, want):
            self._wants[version] = want
            self._divide_anew()

    def _fits(self, version: int, want: Want) -> bool:
        return sum(each.least for each in (self._wants | {version: want}).values()) <= self.capacity

    def _goes_on(self, version: int, before: int | None) -> None:
        """A version takes another one's place: it is asked for the same ids, and gets as much memory."""
        if before is not None and before in self._goals:
            self._goals[version] = self._goals[before]
        if before is not None and before in self.curves and version not in self.curves:
            self._count(version, self.curves[before])

    def _count(self, version: int, curve: Curve) -> None:
        self.curves[version] = curve
        held = self.tables.get(version)
        if held is not None:
            held.table.curve = curve

    async def _resize(self, version: int, size: int) -> None:
        self._moving = version
        try:
            with self.tables.resizing(version, size) as (old, new):
                self._moving_to = new
                sets = max(1, old.region.sets * SLICE_BYTES // old.region.size)
                for first in range(0, old.region.sets, sets):
                    new.take_over(old, first, sets)
                    await breathe()
                    if version not in self._wants:
                        raise _Removed
            new.curve = self.curves.get(version)
        except _Removed:
            self._unmake(version)
        finally:
            self._moving = self._moving_to = None

    def _divide_anew(self) -> None:
        self._changed.set()
        self._settled.clear()

    def _check_room(self, wants: dict[int, Want]) -> None:
        least = sum(want.least for want in wants.values())
        if least > self.capacity:
            fixed = sum(want.least for want in wants.values() if want.is_fixed)
            shares = f", {fixed} of them as warm.fixed has it" if fixed else ""
            raise TooLarge(
                f"the warm tier needs {least} bytes for a few rows of each of {len(wants)} table versions{shares}, and "
                f"has {self.capacity}: raise warm.capacity",
                {"least": least, "capacity": self.capacity},
            )

    def _make(self, version: int, row_bytes: int, size: int) -> None:
        try:
            held = self.tables.add(version, row_bytes, size)
        except NoRoomError as error:
            raise TooLarge(str(error)) from error
        self._at_entry[held.entry] = version
        held.table.curve = self.curves.get(version)

    def _unmake(self, version: int) -> None:
        self._at_entry.pop(self.entry(version))
        self.tables.remove(version)


class _Removed(Exception):
    """The version was removed while its rows were moved."""
