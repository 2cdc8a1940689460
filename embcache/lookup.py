"""A lookup from resolved queries to rows in a buffer: probe the arena, ask the owner for the rest, pool bags.

Knows the arena's kernels and the link; nothing of HTTP, msgpack or RocksDB. The caller owns the buffer and says where
in it each result goes. The position is read before the first probe: rows may be newer than it, never older.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache.errors import DeadlineExceeded, HistoryChanged, MissingRows, StorageCorrupt
from embcache.host import probe
from embcache.host.memory import address_of
from embcache.host.pool import MEAN, SUM, pool_bags
from embcache.host.rows import Q8, convert_rows, fill_uniform
from embcache.host.segment import COLD, COUNT, FAILED, HOT, LATE, LEFT, MISSING, NEAR, OUT, SEGMENT_COLUMNS, WARM
from embcache.local.frames import padded
from embcache.local.link import Reply
from embcache.spec import DTYPES, row_bytes
from embcache.views import TableView

if TYPE_CHECKING:
    from embcache.attachment import Attachment

# The owner's words for an id: without a row, with one, of a version that was dropped; and ours for one that came late.
_ABSENT, _FOUND, _GONE, _LATE = 0, 1, 3, 4
_NAMED_IDS = 10  # how many ids an error names
_HAS_ROW = np.isin(np.arange(256), [HOT, WARM, COLD, NEAR])  # by status


class VersionGoneError(Exception):
    """A version was dropped while the lookup was under way: prepare it anew, by the catalogue as it is now."""


@dataclass(slots=True)
class Query:
    """What to fetch from one table. ids u64 [n], C-contiguous; lengths u32 [b] summing to n, weights f32 [n]."""

    table: str
    ids: NDArray[np.uint64]
    version: str | None = None
    lengths: NDArray[np.uint32] | None = None
    pooling: str | None = None
    weights: NDArray[np.float32] | None = None


class Part(NamedTuple):
    """One result of a lookup before its rows: which version answers, and how many bytes its arrays take."""

    table: str
    version: str
    shape: tuple[int, int]
    rows_bytes: int
    scale_bytes: int
    status_bytes: int


class Place(NamedTuple):
    """Where a result's arrays go: byte offsets in the buffer. scale and bias matter for q8 alone."""

    rows: int
    scale: int
    bias: int
    status: int


def _part(query: Query, view: TableView, dtype: str) -> Part:
    count = query.ids.size if query.lengths is None else query.lengths.size
    dim = view.spec.dim
    if dtype == "q8":
        return Part(view.spec.name, view.label, (count, dim), count * dim, 4 * count, query.ids.size)
    width = row_bytes(dim, dtype)  # type: ignore[arg-type]
    return Part(view.spec.name, view.label, (count, dim), count * width, 0, query.ids.size)


class Lookup:
    """One lookup under way. `run` once, then `finish` if that left ids; then the buffer holds every row and status."""

    def __init__(
        self, attachment: Attachment, queries: Sequence[Query], views: Sequence[TableView], dtype: str
    ) -> None:
        self.position = attachment.arena.position
        self.history = attachment.views.history
        self.parts = [_part(query, view, dtype) for query, view in zip(queries, views, strict=True)]
        self._attachment = attachment
        self._queries = queries
        self._views = views
        self._wire = DTYPES.index(dtype)
        self._segments = np.empty((len(queries), SEGMENT_COLUMNS), np.int64)
        self._encoded: list[tuple[int, NDArray[np.uint8]]] = []  # rows that change their form on the way
        self._statuses: list[NDArray[np.uint8]] = []
        self._places: Sequence[Place] = ()
        self._address = 0
        self._misses = np.empty(0, np.int32)

    def check_history(self, asked: str | None) -> None:
        """HistoryChanged where positions of the caller belong to another history."""
        if asked is not None and asked != self.history:
            raise HistoryChanged(
                f"history: {asked[:64]!r} is not this service's, which is {self.history!r}: its positions mean nothing "
                "here",
                {"history": self.history},
            )

    def run(self, buffer: NDArray[np.uint8], places: Sequence[Place]) -> int:
        """Probe the arena, writing rows and statuses into `buffer`; -> how many ids are left for the owner."""
        self._places = places
        self._address = address_of(buffer)
        self._misses = np.empty(sum(query.ids.size for query in self._queries), np.int32)
        misses = address_of(self._misses)
        for index, (query, view, place) in enumerate(zip(self._queries, self._views, places, strict=True)):
            self._segments[index, :COUNT] = view.columns
            self._segments[index, COUNT:LEFT] = self._columns(index, query, view, place, misses)
            self._statuses.append(buffer[place.status : place.status + query.ids.size])
            misses += 4 * query.ids.size
        left = self._attachment.probe(self._segments)
        if not left:
            self._express()
        return left

    def finish(self, deadline: float | None) -> None:
        """Ask the owner for what is left and wait, until time.monotonic() is `deadline`; what is late then is so."""
        future = self._ask()
        try:
            reply = future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            future.cancel()
            self._settle_late()
        else:
            self._settle(reply)

    async def finish_async(self, deadline: float | None) -> None:
        """`finish` for an event loop: other tasks run while the owner reads."""
        waiting = asyncio.wrap_future(self._ask())
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                reply = await waiting
        except TimeoutError:
            self._settle_late()
        else:
            self._settle(reply)

    def check_strict(self) -> None:
        """Raise for the first id without its row: StorageCorrupt, DeadlineExceeded or MissingRows, naming ids."""
        for code, error, words in (
            (FAILED, StorageCorrupt, "whose stored row is damaged"),
            (LATE, DeadlineExceeded, "whose row was not found within the deadline"),
            (MISSING, MissingRows, "without a row"),
        ):
            for query, status in zip(self._queries, self._statuses, strict=True):
                ids = query.ids[status == code]
                if ids.size:
                    first = [str(identifier) for identifier in ids[:_NAMED_IDS].tolist()]
                    detail = {"table": query.table, "ids": first, "count": int(ids.size)}
                    raise error(f"table {query.table!r}: {ids.size} ids {words}, the first is {first[0]}", detail)

    def _columns(self, index: int, query: Query, view: TableView, place: Place, misses: int) -> tuple[int, ...]:
        """The columns of a segment that the query gives."""
        rows = self._address + place.rows
        if query.lengths is not None or self._wire != view.spec.dtype_code or self._wire == Q8:
            encoded = np.empty((query.ids.size, view.spec.row_bytes), np.uint8)
            self._encoded.append((index, encoded))
            rows = address_of(encoded)
        return (query.ids.size, address_of(query.ids), rows, self._address + place.status, misses)

    def _left_ids(self) -> list[tuple[int, NDArray[np.uint64]]]:
        """(index, ids that are left) of every query that has some."""
        left, begin = [], 0
        for index, query in enumerate(self._queries):
            count = int(self._segments[index, LEFT])
            if count:
                left.append((index, query.ids[self._misses[begin : begin + count]]))
            begin += query.ids.size
        return left

    def _ask(self) -> Future[Reply]:
        left = self._left_ids()
        parts = [[self._views[index].number, ids.size, self._views[index].spec.row_bytes] for index, ids in left]
        return self._attachment.link.call("read", {"parts": parts}, [ids for _, ids in left])

    def _settle(self, reply: Reply) -> None:
        """Write the rows and statuses of the ids that were left, as the owner answered them."""
        payload = np.frombuffer(reply.payload, np.uint8)
        begin = 0
        for index, view in enumerate(self._views):
            segment = self._segments[index]
            count = int(segment[LEFT])
            if not count:
                continue
            states = payload[begin : begin + count]
            if (states == _GONE).any():
                raise VersionGoneError(view.spec.name)
            rows_at = begin + padded(count)
            begin = rows_at + padded(count * view.spec.row_bytes)
            probe.settle_misses(segment, address_of(payload) + rows_at, states)
        self._express()

    def _settle_late(self) -> None:
        """The deadline has passed: take of the ids that were left what the owner has put into the arena since."""
        for index, ids in self._left_ids():
            view = self._views[index]
            rows = np.empty((ids.size, view.spec.row_bytes), np.uint8)
            status, misses = np.empty(ids.size, np.uint8), np.empty(ids.size, np.int32)
            again = np.empty((1, SEGMENT_COLUMNS), np.int64)
            again[0, :COUNT] = view.columns
            again[0, COUNT:LEFT] = (ids.size, *(address_of(array) for array in (ids, rows, status, misses)))
            late = self._attachment.probe(again)
            states = np.where(status == WARM, _FOUND, _ABSENT).astype(np.uint8)
            states[misses[:late]] = _LATE
            probe.settle_misses(self._segments[index], address_of(rows), states)
        self._express()

    def _express(self) -> None:
        """All rows are there: make the default rows that depend on the id, pool bags, change dtypes."""
        for index, view in enumerate(self._views):
            if view.bound is not None:
                self._fill_uniform(index, view, view.bound)
        for index, encoded in self._encoded:
            query, spec, place = self._queries[index], self._views[index].spec, self._places[index]
            out, scale, bias = (self._address + offset for offset in (place.rows, place.scale, place.bias))
            form = (spec.dtype_code, spec.dim, address_of(encoded))
            if query.lengths is None:
                dtype, dim, rows = form
                convert_rows(dtype, self._wire, dim, rows, query.ids.size, out, scale, bias, 0, 0)
                continue
            weights = 0 if query.weights is None else address_of(query.weights)
            pooling = MEAN if query.pooling == "mean" else SUM
            status = self._address + place.status
            pool_bags(*form, status, query.lengths, weights, pooling, self._wire, out, scale, bias, 0)

    def _fill_uniform(self, index: int, view: TableView, bound: np.float32) -> None:
        instead = np.flatnonzero(~_HAS_ROW[self._statuses[index]])
        if instead.size:
            rows = int(self._segments[index, OUT])
            fill_uniform(self._queries[index].ids, instead, bound, view.spec.dtype_code, view.spec.dim, rows)
