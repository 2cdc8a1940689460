"""GpuTable: rows of all table versions in device memory, as the one thread sees them that writes it.

The order of a change, by which no lookup ever sees a row half-written, another id's, or one that is older than what was
said to be invalidated (kernels/table.cu says what the device does in it):
    1. the rows' digests become IN_FLUX; this thread waits until that is complete;
    2. `invalidated()` is called: a lookup that starts from now on finds none of the old rows;
    3. the stream waits for every lookup that was launched until now, since one launched before the end of 1 may still
       read the old rows;
    4. the new rows are written, and published.
New rows that nobody holds yet go the same way: 1 takes a way for each, of which another row is pushed out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.device import NO_MEMORY, Device, DeviceError, Memory, Stream
from embcache.gpu.layout import (
    ESTABLISHED,
    KEEP,
    PINNED,
    POOL,
    PUSHED_OUT,
    REFUSED,
    REPLACED,
    SET_BYTES,
    SLOT_BYTES,
    WAYS,
    stride_of,
)
from embcache.gpu.pools import MAX_POOLS, Pool, as_array, divide
from embcache.host.memory import address_of

Ids = NDArray[np.uint64]
Rows = NDArray[np.uint8]

STAGE_IDS = 1 << 16  # of the changes that are on their way at once
STAGE_BYTES = 16 << 20  # of their rows, as they are staged: `stride` bytes apart
LIMIT_S = 5.0  # a step that takes longer never ends
_THREADS = 128
_COUNTS = 8  # words that `audit` writes
_CENSUS = 1024  # table versions that are counted at once
_PROBLEMS = {
    1: "digests that are not their id's",
    2: "ids in a set that is not theirs",
    3: "ids that stand twice in a set",
    4: "ways left in flux",
    6: "rows of more use than is counted",
    7: "sets whose clock or next ghost is none",
}


class Change(NamedTuple):
    """What becomes of distinct ids u64 [n] of a table version: encoded rows u8 [n, row_bytes], None to take them out.

    insert: whether rows come in that are not here; else only those that are here are written anew. keep: whether those
    that are here stay as they are, and no lookup misses them meanwhile; unless others of the change push them out, and
    they come in again. pinned: whether no other row may push them out. use: of rows that are known to be in use, and so
    begin in the main queue (kernels/queues.cu), how many hits they begin with, up to MOST_USE; None of others.
    """

    version: int
    row_bytes: int
    ids: Ids
    rows: Rows | None
    insert: bool = False
    keep: bool = False
    pinned: bool = False
    use: int | None = None


class Evicted(NamedTuple):
    """Ids u64 [n] that are not in any more, and the table versions u32 [n] that they belong to."""

    ids: Ids
    versions: NDArray[np.uint32]


@dataclass(slots=True)
class Counts:
    """Rows since the table was made. refused: for which no way was free, so that they did not come in."""

    inserted: int = 0
    replaced: int = 0
    evicted: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class _Staged:
    """A change on its way: its pool, and where its ids, what `claim` says of them and its rows stand in the stage."""

    change: Change
    pool: Pool
    first: int
    encoded: int

    @property
    def count(self) -> int:
        return self.change.ids.size


class GpuTable:
    """Rows by (table version, feature ID), in pools by stride. For one thread; lookups find them by `pools_address`."""

    def __init__(self, device: Device, capacity: int, wait_for_readers: Callable[[Stream], None]) -> None:
        """Takes `capacity` bytes of device memory; DeviceError where they cannot be had.

        `wait_for_readers(stream)` has the stream's further work run after all lookups that were launched until now.
        """
        self._device = device
        self._wait_for_readers = wait_for_readers
        self._capacity = capacity
        self._memory: Memory = device.allocate(capacity)
        self._described: Memory = device.allocate(POOL.itemsize * MAX_POOLS)
        self._row_numbers: Memory = device.allocate(4 * STAGE_IDS)
        self._census: Memory = device.allocate(2 * 4 * _CENSUS)
        self._stream = device.stream()
        self._event = device.event()
        stage = device.pinned(STAGE_IDS * (8 + SLOT_BYTES) + STAGE_BYTES)
        self._ids = stage[: 8 * STAGE_IDS].view(np.uint64)
        self._said = stage[8 * STAGE_IDS : (8 + SLOT_BYTES) * STAGE_IDS].view(np.uint32).reshape(STAGE_IDS, 4)
        self._encoded = stage[(8 + SLOT_BYTES) * STAGE_IDS :]
        self._pools: dict[int, Pool] = {}
        self.counts = Counts()

    @property
    def pools_address(self) -> int:
        """Where kernels find the pools."""
        return self._described.address

    @property
    def pools(self) -> Mapping[int, Pool]:
        """The pools by stride."""
        return self._pools

    @property
    def capacity(self) -> int:
        """Bytes of device memory, taken at the start."""
        return self._capacity

    def pool_of(self, row_bytes: int) -> Pool | None:
        """The pool of rows of so many bytes; None where there is none."""
        return self._pools.get(stride_of(row_bytes))

    def divide(self, rows: Mapping[int, int]) -> None:
        """Divide the memory anew, for {row_bytes: rows that tables have}. All rows are gone; no lookup may run."""
        pools = divide(self._memory.address, self.capacity, rows)
        described = as_array(pools).view(np.uint8)
        self._encoded[: described.size] = described
        self._device.copy(self.pools_address, address_of(self._encoded), described.size, self._stream)
        self._pools = pools
        self.clear()

    def clear(self) -> None:
        """Take everything out. No lookup may run."""
        for pool in self._pools.values():
            self._device.clear(pool.sets, pool.set_count * SET_BYTES, self._stream)
        self._finish()

    def release(self) -> None:
        """Give the device's memory back: nothing may be asked of the table any more. No lookup may run."""
        self._pools = {}
        self._memory = self._described = self._row_numbers = self._census = NO_MEMORY

    def insert(
        self, version: int, ids: Ids, rows: Rows, *, keep: bool = False, pinned: bool = False, use: int | None = None
    ) -> Evicted:
        """Put encoded rows u8 [n, row_bytes] of distinct ids in, over their older selves unless these are to `keep`.

        pinned, use: see Change.
        -> the ids that are not in any more for it: pushed out, or new ones for which no way was free.
        """
        return self.apply([Change(version, rows.shape[1], ids, rows, insert=True, keep=keep, pinned=pinned, use=use)])

    def update(self, version: int, ids: Ids, rows: Rows) -> None:
        """Write encoded rows u8 [n, row_bytes] of distinct ids over those that are here."""
        self.apply([Change(version, rows.shape[1], ids, rows)])

    def delete(self, version: int, row_bytes: int, ids: Ids) -> None:
        """Take the rows of distinct ids out."""
        self.apply([Change(version, row_bytes, ids, None)])

    def apply(self, changes: Sequence[Change], invalidated: Callable[[], None] = lambda: None) -> Evicted:
        """Make changes in the order that this module begins with; -> the ids that are not in any more for it.

        Those of tables without a pool are passed over. What is too much for the stage goes in parts, one by one.
        """
        *before, last = self._parts(changes)
        gone = Evicted(np.empty(0, np.uint64), np.empty(0, np.uint32))
        for part in before:
            gone = self._run(part, gone, lambda: None)
        return self._run(last, gone, invalidated)

    def check(self) -> int:
        """Audit every invariant; AssertionError says which is broken and how often. -> rows held."""
        held, problems = 0, []
        for pool in self._pools.values():
            counts = self.audit(pool)
            held += int(counts[0])
            problems += [f"{counts[place]} {what}" for place, what in _PROBLEMS.items() if counts[place]]
        if problems:
            raise AssertionError("; ".join(problems))
        return held

    def audit(self, pool: Pool, listed: Memory | None = None) -> NDArray[np.uint32]:
        """The counts of kernels/audit.cu, of one pool; the slots held go to `listed` as far as it has room."""
        counts = self._device.allocate(4 * _COUNTS)
        where, room = (0, 0) if listed is None else (listed.address, listed.nbytes // SLOT_BYTES)
        arguments = (self.pools_address, pool.index, counts.address, where, room)
        self._device.launch("audit", self._stream, -(-pool.ways // _THREADS), _THREADS, arguments)
        self._device.copy(address_of(self._encoded), counts.address, counts.nbytes, self._stream)
        self._finish()
        return self._encoded[: counts.nbytes].view(np.uint32).copy()

    def census(self, versions: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """How many rows are in of each of distinct table versions u32 [n], ascending."""
        counts = np.empty(versions.size, np.uint32)
        for begin in range(0, versions.size, _CENSUS):
            here = versions[begin : begin + _CENSUS]
            asked, told = self._census.address, self._census.address + here.nbytes
            self._encoded[: here.nbytes] = here.view(np.uint8)
            self._device.copy(asked, address_of(self._encoded), here.nbytes, self._stream)
            self._device.clear(told, here.nbytes, self._stream)
            for pool in self._pools.values():
                arguments = (self.pools_address, pool.index, asked, here.size, told)
                self._device.launch("census", self._stream, -(-pool.ways // _THREADS), _THREADS, arguments)
            self._device.copy(address_of(self._encoded), told, here.nbytes, self._stream)
            self._finish()
            counts[begin : begin + here.size] = self._encoded[: here.nbytes].view(np.uint32)
        return counts

    # --- the steps of a change -----------------------------------------------------------------------------------

    def _parts(self, changes: Sequence[Change]) -> list[list[tuple[Change, Pool]]]:
        """Changes in groups that fit the stage, in order; large ones in pieces.

        No version stands twice in a group: what is in flux for one change would not be found by the next.
        """
        parts: list[list[tuple[Change, Pool]]] = [[]]
        ids_left, bytes_left = STAGE_IDS, STAGE_BYTES
        for change in changes:
            pool = self.pool_of(change.row_bytes)
            begin = 0
            while pool is not None and begin < change.ids.size:
                stride = pool.stride if change.rows is not None else 1
                count = min(change.ids.size - begin, ids_left, bytes_left // stride)
                if count == 0 or any(change.version == other.version for other, _ in parts[-1]):
                    parts.append([])
                    ids_left, bytes_left = STAGE_IDS, STAGE_BYTES
                    continue
                here = slice(begin, begin + count)
                rows = None if change.rows is None else change.rows[here]
                parts[-1].append((change._replace(ids=change.ids[here], rows=rows), pool))
                begin, ids_left, bytes_left = begin + count, ids_left - count, bytes_left - count * stride
        return parts

    def _run(self, part: Sequence[tuple[Change, Pool]], gone: Evicted, invalidated: Callable[[], None]) -> Evicted:
        """Make the changes of a part; -> what is not in any more after it, `gone` being what was not before."""
        staged = self._staged(part)
        for each in staged:
            self._take(each)
        self._finish()
        invalidated()
        self._wait_for_readers(self._stream)
        for each in staged:
            if each.change.rows is not None:
                self._give(each)
        self._finish()
        return self._evicted(staged, gone)

    def _staged(self, part: Sequence[tuple[Change, Pool]]) -> list[_Staged]:
        staged, first, at = [], 0, 0
        for change, pool in part:
            count = change.ids.size
            self._ids[first : first + count] = change.ids
            staged.append(_Staged(change, pool, first, at))
            if change.rows is not None:
                room = self._encoded[at : at + count * pool.stride].reshape(count, pool.stride)
                room[:, : change.row_bytes] = change.rows
                at += room.size
            first += count
        return staged

    def _take(self, staged: _Staged) -> None:
        """Step 1 of a change: no reader finds the rows after it."""
        if staged.change.insert:
            said = address_of(self._said) + SLOT_BYTES * staged.first
            how = (KEEP if staged.change.keep else 0) | (0 if staged.change.use is None else ESTABLISHED)
            self._launch("claim", staged, WAYS, said, how)
        else:
            self._launch("remove_rows" if staged.change.rows is None else "invalidate", staged, 1)

    def _give(self, staged: _Staged) -> None:
        """Step 4."""
        change = staged.change
        encoded = address_of(self._encoded) + staged.encoded
        flags = PINNED if change.pinned else 0
        self._launch("write_rows", staged, WAYS, encoded, staged.pool.stride, change.row_bytes, flags)
        self._launch("publish", staged, 1, 1 + (change.use or 0) if change.insert else 0)

    def _launch(self, kernel: str, staged: _Staged, lanes: int, *more: int) -> None:
        """Launch a step's kernel, with so many threads for an id; all begin with the same arguments."""
        ids, rows = address_of(self._ids) + 8 * staged.first, self._row_numbers.address + 4 * staged.first
        arguments = (self.pools_address, staged.pool.index, ids, staged.change.version, staged.count, rows, *more)
        self._device.launch(kernel, self._stream, -(-staged.count * lanes // _THREADS), _THREADS, arguments)

    def _evicted(self, staged: Sequence[_Staged], before: Evicted) -> Evicted:
        said = [self._said[each.first : each.first + each.count] for each in staged if each.change.insert]
        told = np.concatenate([np.empty((0, 4), np.uint32), *said])
        new, pushed_out, refused, replaced = np.bincount(told[:, 3], minlength=REPLACED + 1).tolist()
        self.counts.inserted += new + pushed_out
        self.counts.evicted += pushed_out
        self.counts.refused += refused
        self.counts.replaced += replaced
        gone = told[(told[:, 3] == PUSHED_OUT) | (told[:, 3] == REFUSED)]
        ids = np.concatenate([before.ids, np.ascontiguousarray(gone[:, :2]).view(np.uint64).ravel()])
        versions = np.concatenate([before.versions, gone[:, 2]])
        out = np.ones(ids.size, np.bool_)
        for each, here in zip((each for each in staged if each.change.insert), said, strict=True):
            # One that was pushed out, by another of its own launch or earlier, is in again if it took a way here: and
            # so it stays, since a way in flux is nobody else's.
            stays = (here[:, 3] == REFUSED) | ((here[:, 3] == REPLACED) & each.change.keep)  # and takes no way
            back = each.change.ids[~stays]
            out &= ~((versions == each.change.version) & np.isin(ids, back))
        return Evicted(ids[out], versions[out])

    def _finish(self) -> None:
        """Wait for all that the stream was given."""
        self._device.record(self._event, self._stream)
        if not self._device.wait(self._event, LIMIT_S):
            raise DeviceError(f"{self._device.name}: a change of rows did not end within {LIMIT_S:g} s")
