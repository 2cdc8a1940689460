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
from embcache.gpu.tiles import COLUMNS, bags_a_tile, cut, gather_misses, kind_of, rows_a_tile
from embcache.host import probe
from embcache.host.memory import address_of
from embcache.host.rows import F32, Q8
from embcache.host.segment import HOT, LEFT, MISSES, OUT

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
    size = 0
    for wish in wishes:
        arrays = [8 * wish.ids.size, 4 * wish.ids.size]
        if wish.lengths is not None:
            rows = wish.ids.size * wish.view.spec.row_bytes
            arrays += [4 * wish.ids.size, 4 * wish.lengths.size, wish.lengths.size, rows]
        size += sum(-(-nbytes // _LINE) * _LINE for nbytes in arrays)
    return size


def out_bytes_of(dim: int, wire: int) -> int:
    """Bytes of an output row, without its scale and bias."""
    return dim if wire == Q8 else dim * (4 if wire == F32 else 2)


class Question:
    """One lookup's question. `ticket` is to be submitted and waited for; then it is `answered`."""

    def __init__(self, wishes: Sequence[Wish], pools: Sequence[Pool | None], room: Room, keep: object) -> None:
        """pools: of each wish, None where the tier has none for it. keep: what holds the memory of the results."""
        self.room = room
        self._wishes = wishes
        self._columns = np.zeros((len(wishes), COLUMNS), np.int64)
        self._asked = np.zeros(len(wishes), np.bool_)
        self.misses: list[Array] = []  # of each wish i32 [n], of which the segments say how many count
        self._done: list[Array | None] = []  # of a wish for bags: u8 [b], whether the bag was pooled
        self._encoded: list[Array | None] = []  # and its rows u8 [n, row_bytes], where it was not
        bag_ids = bag_count = row_ids = 0
        for place, (wish, pool) in enumerate(zip(wishes, pools, strict=True)):
            self._lay_out(place, wish)
            if pool is None or (wish.lengths is not None and bag_ids + wish.ids.size > MAX_BAG_IDS):
                continue
            self._asked[place] = True
            self._columns[place, tiles.POOL] = pool.index
            if wish.lengths is None:
                row_ids += wish.ids.size
            else:
                bag_ids, bag_count = bag_ids + wish.ids.size, bag_count + wish.lengths.size
        self._row_step, self._bag_step = rows_a_tile(row_ids), bags_a_tile(bag_ids, bag_count)
        asked = self._columns[self._asked]
        most = row_ids // self._row_step + bag_count // self._bag_step + len(asked) if len(asked) else 0
        cut_to = np.empty(most, TILE)
        made = int(cut(asked, self._row_step, self._bag_step, address_of(cut_to)))
        self.ticket = Ticket(cut_to[:made], bag_ids, (room.memory, keep))

    def answered(self, segments: NDArray[np.int64]) -> int:
        """The ticket is done: list in each segment's MISSES and LEFT what was not found; -> how many ids that is.

        Bags that lack rows have OUT where those that they have are.
        """
        left = np.empty(int(self._asked.sum()), np.int64)
        cut_to, missed = self.ticket.tiles, self.ticket.missed
        gather_misses(self._columns[self._asked], self._row_step, self._bag_step, address_of(cut_to), missed, left)
        segments[self._asked, LEFT] = left
        for place in np.flatnonzero(~self._asked).tolist():
            count = self._wishes[place].ids.size
            self.misses[place][:] = np.arange(count)
            segments[place, LEFT] = count
        for place, (misses, encoded, done) in enumerate(zip(self.misses, self._encoded, self._done, strict=True)):
            segments[place, MISSES] = address_of(misses)
            if encoded is not None and done is not None:
                segments[place, OUT] = address_of(encoded)
                if not self._asked[place]:
                    done[:] = 0
        return int(segments[:, LEFT].sum())

    def done_at(self, place: int) -> int:
        """The address of u8 [b]: which bags of a wish were pooled."""
        done = self._done[place]
        assert done is not None
        return address_of(done)

    def bags_left(self, place: int) -> NDArray[np.int32]:
        """Which bags of a wish were not pooled: places i32."""
        done = self._done[place]
        assert done is not None
        return np.flatnonzero(done == 0).astype(np.int32)

    def _lay_out(self, place: int, wish: Wish) -> None:
        """Copy what the device reads, set aside what it writes, and write the wish's columns."""
        spec, room = wish.view.spec, self.room
        ids, misses = room.put(wish.ids), room.take(wish.ids.size, np.int32)
        self.misses.append(misses)
        out_bytes = out_bytes_of(spec.dim, wish.wire)
        kind = kind_of(spec.dtype_code, wish.wire, spec.row_bytes, wish.out, COPY_LIMIT)
        form = form_of(spec.dtype_code, wish.wire, kind)
        lengths = weights = encoded = done = None
        if wish.lengths is not None:
            form = form_of(spec.dtype_code, wish.wire, BAGS, MEAN if wish.pooling == "mean" else SUM)
            lengths, done = room.put(wish.lengths), room.take(wish.lengths.size, np.uint8)
            weights = None if wish.weights is None else room.put(wish.weights)
            encoded = room.take(wish.ids.size * spec.row_bytes, np.uint8)
        self._done.append(done)
        self._encoded.append(encoded)
        addresses = (ids, misses, lengths, weights, encoded, done)
        at, missed_at, *bag_at = (0 if array is None else address_of(array) for array in addresses)
        self._columns[place] = (
            *(at, wish.out, wish.status, missed_at, wish.scale, wish.bias, *bag_at),
            *(wish.ids.size, wish.view.number, 0, spec.dim, spec.row_bytes, form),
            *(0 if lengths is None else lengths.size, out_bytes),
        )


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
        self.ticket = Ticket(cut_to[:made], 0, room.memory)

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
