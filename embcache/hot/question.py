"""A question to the hot tier: a lookup's ids as tiles, and what came back as segments that the warm tier goes on with.

What the device reads and writes beside the results lies in one piece of pinned memory, lent by the tier:

    ids u64, weights f32, lengths u32 (copies of the lookup's own); misses i32; and for bags `done` u8 and encoded rows

A question about whole queries has their rows written to where the lookup wants them, in the wire's form. One about the
ids that the warm tier lacks has rows written beside it, as they are stored, to be settled like those of the owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache.gpu import tiles
from embcache.gpu.launcher import MAX_BAG_IDS, Ticket
from embcache.gpu.layout import BAGS, BYTES, COPY_LIMIT, MEAN, SUM, TILE, form_of
from embcache.gpu.tiles import (
    COLUMNS,
    NOT_ASKED,
    bags_a_tile,
    bytes_beside,
    cut,
    kind_of,
    lay_out,
    rows_a_tile,
    settle,
)
from embcache.host import probe
from embcache.host.memory import address_of
from embcache.host.rows import F32, Q8
from embcache.host.segment import HOT, LEFT

if TYPE_CHECKING:
    from embcache.gpu.pools import Pool
    from embcache.views import TableView

Array = NDArray[Any]
_LINE = 64


class Wish(NamedTuple):
    """What is asked of one table: ids u64 [n], in bags or not, and the addresses that rows and statuses go to.

    The device must reach the addresses. scale and bias matter where `wire` is q8 alone.
    """

    view: TableView
    ids: NDArray[np.uint64]
    wire: int
    out: int
    scale: int
    bias: int
    status: int
    lengths: NDArray[np.uint32] | None = None
    pooling: str | None = None
    weights: NDArray[np.float32] | None = None


class Room:
    """A piece of memory from which arrays are cut, each at a cache line."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self.memory = memory
        self._at = 0

    def take(self, count: int, dtype: Any) -> Array:
        nbytes = count * np.dtype(dtype).itemsize
        array: Array = self.memory[self._at : self._at + nbytes].view(dtype)
        self._at += -(-nbytes // _LINE) * _LINE
        return array

    def put(self, array: Array) -> Array:
        """A copy of an array."""
        copy = self.take(array.size, array.dtype)
        copy[:] = array
        return copy


def room_for(wishes: Sequence[Wish]) -> int:
    """Bytes of pinned memory that a question about these takes besides its results."""
    return sum(
        bytes_beside(wish.ids.size, wish.view.spec.row_bytes, None if wish.lengths is None else wish.lengths.size)
        for wish in wishes
    )


def out_bytes_of(dim: int, wire: int) -> int:
    """Bytes of an output row, without its scale and bias."""
    return dim if wire == Q8 else dim * (4 if wire == F32 else 2)


def _columns(wish: Wish, pool: Pool | None) -> tuple[int, ...]:
    """A question's columns, as `lay_out` takes them."""
    spec, lengths, weights = wish.view.spec, 0, 0
    dtype, row_bytes = spec.dtype_code, spec.row_bytes
    if wish.lengths is None:
        form = form_of(dtype, wish.wire, kind_of(dtype, wish.wire, row_bytes, wish.out, COPY_LIMIT))
    else:
        form = form_of(dtype, wish.wire, BAGS, MEAN if wish.pooling == "mean" else SUM)
        lengths, weights = address_of(wish.lengths), 0 if wish.weights is None else address_of(wish.weights)
    return (
        *(address_of(wish.ids), wish.out, wish.status, 0, wish.scale, wish.bias, lengths, weights, 0, 0),
        *(wish.ids.size, wish.view.number, NOT_ASKED if pool is None else pool.index, spec.dim, row_bytes, form),
        *(0 if wish.lengths is None else wish.lengths.size, out_bytes_of(spec.dim, wish.wire)),
    )


class Question:
    """One lookup's question. `ticket` is to be submitted and waited for; then it is `answered`."""

    def __init__(self, wishes: Sequence[Wish], pools: Sequence[Pool | None], memory: Array, keep: object) -> None:
        """pools: of each wish, None where the tier has none for it. memory: pinned, u8 [room_for(wishes)].

        keep: what holds the memory of the results.
        """
        self._memory = memory
        self._columns = np.array([_columns(*each) for each in zip(wishes, pools, strict=True)], np.int64)
        bag_ids = bag_count = row_ids = 0
        for place, wish in enumerate(wishes):
            if pools[place] is None:
                continue
            if wish.lengths is None:
                row_ids += wish.ids.size
            elif bag_ids + wish.ids.size > MAX_BAG_IDS:
                self._columns[place, tiles.POOL] = NOT_ASKED
            else:
                bag_ids, bag_count = bag_ids + wish.ids.size, bag_count + wish.lengths.size
        self._row_step, self._bag_step = rows_a_tile(row_ids), bags_a_tile(bag_ids, bag_count)
        lay_out(self._columns, address_of(memory))
        cut_to = np.empty(row_ids // self._row_step + bag_count // self._bag_step + len(wishes), TILE)
        self._tiles_at = address_of(cut_to)
        made = int(cut(self._columns, self._row_step, self._bag_step, self._tiles_at))
        stored = bool((self._columns[:, tiles.FORM] >> 16 & 255 <= BYTES).all())
        self.ticket = Ticket(cut_to[:made], bag_ids, (memory, keep), stored=stored)

    def answered(self, segments: NDArray[np.int64]) -> int:
        """The ticket is done: list in each segment's MISSES and LEFT what was not found; -> how many ids that is.

        Bags that lack rows have OUT where those that they have are.
        """
        missed = self.ticket.missed
        return int(settle(self._columns, self._row_step, self._bag_step, self._tiles_at, missed, segments))

    @property
    def misses(self) -> list[NDArray[np.int32]]:
        """Of each wish i32 [n], of which the segments say how many count."""
        counts = self._columns[:, tiles.COUNT].tolist()
        return [self._array(place, tiles.MISSES, 4 * count).view(np.int32) for place, count in enumerate(counts)]

    def done_at(self, place: int) -> int:
        """The address of u8 [b]: which bags of a wish were pooled."""
        return int(self._columns[place, tiles.DONE])

    def bags_left(self, place: int) -> NDArray[np.int32]:
        """Which bags of a wish were not pooled: places i32."""
        done = self._array(place, tiles.DONE, int(self._columns[place, tiles.BAG_COUNT]))
        return np.flatnonzero(done == 0).astype(np.int32)

    def _array(self, place: int, column: int, nbytes: int) -> Array:
        """What `lay_out` set aside for a wish."""
        begin = int(self._columns[place, column]) - address_of(self._memory)
        return self._memory[begin : begin + nbytes]


class LeftQuestion:
    """A question about the ids that segments have left: rows come back as they are stored, and are settled."""

    def __init__(
        self, left: Sequence[tuple[int, TableView, NDArray[np.uint64]]], pools: Sequence[Pool], room: Room
    ) -> None:
        """left: (index of the segment, its table, ids u64 [LEFT] in the order of MISSES); pools: of each."""
        self.room = room
        self._left = left
        self._rows: list[Array] = []
        self._status: list[Array] = []
        columns = np.zeros((len(left), COLUMNS), np.int64)
        for place, ((_, view, ids), pool) in enumerate(zip(left, pools, strict=True)):
            spec = view.spec
            rows, status = room.take(ids.size * spec.row_bytes, np.uint8), room.take(ids.size, np.uint8)
            status[:] = 0
            self._rows.append(rows)
            self._status.append(status)
            asked, misses = room.put(ids), room.take(ids.size, np.int32)
            columns[place, : tiles.SCALE] = [address_of(array) for array in (asked, rows, status, misses)]
            columns[place, tiles.COUNT :] = (
                *(ids.size, view.number, pool.index, spec.dim, spec.row_bytes),
                *(form_of(spec.dtype_code, spec.dtype_code, BYTES), 0, spec.row_bytes),
            )
        count = int(columns[:, tiles.COUNT].sum())
        step = rows_a_tile(count)
        cut_to = np.empty(count // step + len(left), TILE)
        made = int(cut(columns, step, 1, address_of(cut_to)))
        self.ticket = Ticket(cut_to[:made], 0, room.memory, stored=True)

    @staticmethod
    def room_for(left: Sequence[tuple[int, TableView, NDArray[np.uint64]]]) -> int:
        """Bytes of pinned memory that it takes."""
        sizes = [(ids.size, 8 * ids.size, 4 * ids.size, ids.size * view.spec.row_bytes) for _, view, ids in left]
        return sum(-(-nbytes // _LINE) * _LINE for arrays in sizes for nbytes in arrays)

    def answered(self, segments: NDArray[np.int64]) -> int:
        """The ticket is done: settle what was found; -> how many ids are left of all segments."""
        for (index, _, _), rows, status in zip(self._left, self._rows, self._status, strict=True):
            probe.settle_found(segments[index], address_of(rows), status, HOT)
        return int(segments[:, LEFT].sum())
