"""A lookup from resolved queries to rows in a buffer: the hot tier and the arena, the owner for the rest, bags pooled.

Knows the arena's kernels, the hot tier and the link; nothing of HTTP, msgpack or RocksDB. The caller owns the buffer
and says where in it each result goes. The position is read before anything is looked up, and before it is asked whether
the hot tier may answer: rows may be newer than it, never older.

Large lookups and bags ask the hot tier first, which writes its rows to their places in the wire's form, and then the
arena for what is left. Small ones ask the arena first, and the hot tier for what it lacks. Where results are to lie in
device memory, the hot tier writes its rows there and the rest comes into the buffer, from where it has yet to go there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embcache.errors import DeadlineExceeded, HistoryChanged, MissingRows, StorageCorrupt
from embcache.host import expiry, express, probe
from embcache.host.expiring import take_current
from embcache.host.memory import address_of
from embcache.host.pool import MEAN, SUM, pool_bags
from embcache.host.rows import Q8, convert_rows, fill_uniform
from embcache.host.segment import (
    COLD,
    COUNT,
    FAILED,
    FORM,
    FORM_COLUMNS,
    HOT,
    KEPT,
    LATE,
    LEFT,
    MISSING,
    NEAR,
    OUT,
    SEGMENT_COLUMNS,
    TILE,
    WARM,
)
from embcache.hot.question import LeftQuestion, Question, Wish
from embcache.local.frames import padded
from embcache.local.link import Reply
from embcache.places import Part, Place, Target
from embcache.spec import DTYPES, row_bytes
from embcache.views import TableView
from embcache_client.buffers import SMALLEST, BufferPool

if TYPE_CHECKING:
    from embcache.attachment import Attachment
    from embcache.hot.tier import HotTier

# The owner's words for an id: without a row, with one, of a version that was dropped; and ours for one that came late.
_ABSENT, _FOUND, _GONE, _LATE = 0, 1, 3, 4
# What a lookup needs until it has its rows: memory that earlier ones used.
_SCRATCH = BufferPool(largest=32 << 20, idle_bytes=32 << 20)
_NAMED_IDS = 10  # how many ids an error names
_HAS_ROW = np.isin(np.arange(256), [HOT, WARM, COLD, NEAR])  # by status
_FROM_BELOW = np.isin(np.arange(256), [WARM, COLD])


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


def _scratch(nbytes: int) -> NDArray[np.uint8]:
    """u8 [nbytes], with whatever it held before."""
    return np.empty(nbytes, np.uint8) if nbytes <= SMALLEST else _SCRATCH.take(nbytes)


def _part(query: Query, view: TableView, dtype: str) -> Part:
    count = query.ids.size if query.lengths is None else query.lengths.size
    dim = view.spec.dim
    if dtype == "q8":
        return Part(view.spec.name, view.label, (count, dim), count * dim, 4 * count, query.ids.size)
    width = row_bytes(dim, dtype)  # type: ignore[arg-type]
    return Part(view.spec.name, view.label, (count, dim), count * width, 0, query.ids.size)


class Lookup:
    """One lookup under way. Go through `steps` once, then `finish` if that left ids: the buffer holds all there is."""

    def __init__(
        self,
        attachment: Attachment,
        queries: Sequence[Query],
        views: Sequence[TableView],
        dtype: str,
        *,
        use_hot: bool = True,
    ) -> None:
        self.position = attachment.arena.position
        hot = attachment.hot if use_hot else None
        self.hot: HotTier | None = hot if hot is not None and hot.serves(attachment) else None
        self.history = attachment.views.history
        self.left = 0  # ids for the owner
        self.parts = [_part(query, view, dtype) for query, view in zip(queries, views, strict=True)]
        self._attachment = attachment
        self._queries = queries
        self._views = views
        self._wire = DTYPES.index(dtype)
        self._segments = np.zeros((len(queries), SEGMENT_COLUMNS), np.int64)
        self._forms = np.empty((len(queries), FORM_COLUMNS), np.int64)
        # Of queries whose rows change their form on the way: room for rows, u8, and which results are done, u8.
        self._formed: list[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]] = []
        self._tile: NDArray[np.uint8] | None = None  # what they work in, one after the other
        # Of queries to tables whose rows may expire: room for rows and expiries, u8.
        self._expiring: list[tuple[int, NDArray[np.uint8]]] = []
        self._statuses: list[NDArray[np.uint8]] = []
        self._places: Sequence[Place] = ()
        self._address = 0
        self._misses: list[NDArray[np.int32]] = []
        self._question: Question | None = None  # what the hot tier was asked first
        self._targets: Sequence[Target] = ()
        self._not_hot: list[NDArray[np.int32]] = []  # of each query, places that the hot tier did not find

    def check_history(self, asked: str | None) -> None:
        """HistoryChanged where positions of the caller belong to another history."""
        if asked is not None and asked != self.history:
            raise HistoryChanged(
                f"history: {asked[:64]!r} is not this service's, which is {self.history!r}: its positions mean nothing "
                "here",
                {"history": self.history},
            )

    @property
    def asks_hot_first(self) -> bool:
        """Whether the hot tier should be asked first: it is there, and quicker than the arena."""
        if self.hot is None:
            return False
        ids = sum(query.ids.size for query in self._queries)
        bags = any(query.lengths is not None for query in self._queries)
        return ids >= (self.hot.crossover.bags if bags else self.hot.crossover.rows)

    def steps(
        self,
        buffer: NDArray[np.uint8],
        places: Sequence[Place],
        *,
        hot_first: bool = False,
        targets: Sequence[Target] = (),
        keep: object = None,
    ) -> Iterator[Question | LeftQuestion]:
        """Look all ids up in the tiers in reach, writing rows and statuses into `buffer`; `left` are for the owner.

        Yields what the hot tier is asked: have `hot` wait for it before the next step. A DeviceError of that wait means
        that the lookup has to begin anew, in another buffer; so does giving up to wait.
        hot_first: ask the hot tier first, which writes to `buffer` then: it has to be pinned memory of the tier.
        targets: where in device memory the hot tier writes its rows instead; `keep` holds that memory. All that it did
        not write there is in the buffer in the end, see `rows_in_buffer`.
        """
        self._lay_out(buffer, places)
        self._targets = targets
        question = self._ask_hot((buffer, keep)) if hot_first else None
        if question is not None:
            yield question
            self._take(question)
        else:
            self.left = self._attachment.probe(self._segments)
            left = self._ask_hot_for_left() if self.left and self.hot is not None else None
            if left is not None:
                yield left
                self.left = left.answered(self._segments)
        if not self.left:
            self._express()

    def rows_in_buffer(self) -> list[NDArray[np.int32]]:
        """After everything: of each result, which rows are in the buffer and not where `targets` says; places i32."""
        question = self._question
        if question is None:
            return [np.arange(part.shape[0], dtype=np.int32) for part in self.parts]
        return [
            not_hot if query.lengths is None else question.bags_left(index)
            for index, (query, not_hot) in enumerate(zip(self._queries, self._not_hot, strict=True))
        ]

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

    def _lay_out(self, buffer: NDArray[np.uint8], places: Sequence[Place]) -> None:
        self._places = places
        self._address = address_of(buffer)
        misses = _scratch(4 * sum(query.ids.size for query in self._queries)).view(np.int32)
        begin = 0
        for index, (query, view, place) in enumerate(zip(self._queries, self._views, places, strict=True)):
            here = misses[begin : begin + query.ids.size]
            self._misses.append(here)
            self._segments[index, :COUNT] = view.columns
            self._segments[index, COUNT:LEFT] = self._columns(index, query, view, place, address_of(here))
            self._statuses.append(buffer[place.status : place.status + query.ids.size])
            begin += query.ids.size
        if self._formed:
            self._tile = _scratch(
                max(express.tile_room(self._views[index].spec.row_bytes) for index, *_ in self._formed)
            )
            self._forms[:, TILE] = address_of(self._tile)

    def _ask_hot(self, keep: object) -> Question | None:
        wishes = []
        for index, (query, view, place) in enumerate(zip(self._queries, self._views, self._places, strict=True)):
            rows, scale, bias, status = (self._address + offset for offset in place)
            if self._targets:
                rows, scale, bias = self._targets[index]
            pooled = (query.lengths, query.pooling, query.weights)
            wishes.append(Wish(view, query.ids, self._wire, rows, scale, bias, status, *pooled))
        assert self.hot is not None
        self._question = self.hot.ask(wishes, keep)
        return self._question

    def _take(self, question: Question) -> None:
        """The hot tier has answered: look for the rest in the arena."""
        self.left = question.answered(self._segments)
        self._misses = question.misses
        if self._targets:  # the list that the arena is asked for grows shorter
            left = self._segments[:, LEFT].tolist()
            self._not_hot = [misses[:count].copy() for misses, count in zip(self._misses, left, strict=True)]
        if self.left:
            self.left = self._attachment.probe_listed(self._segments)

    def _ask_hot_for_left(self) -> LeftQuestion | None:
        assert self.hot is not None
        return self.hot.ask_left([(index, self._views[index], ids) for index, ids in self._left_ids()])

    def _columns(self, index: int, query: Query, view: TableView, place: Place, misses: int) -> tuple[int, ...]:
        """The columns of a segment that the query gives."""
        rows = self._address + place.rows
        is_formed = query.lengths is not None or self._wire != view.spec.dtype_code or self._wire == Q8
        if is_formed or view.spec.expires:
            encoded = _scratch(query.ids.size * view.spec.row_bytes)
            if is_formed:
                self._set_form(index, query, view, place, encoded)
            if view.spec.expires:  # whether a row counts has to be known before anything is made of it
                self._segments[index, FORM] = 0
                self._expiring.append((index, encoded))
            rows = address_of(encoded)
        return (query.ids.size, address_of(query.ids), rows, self._address + place.status, misses)

    def _set_form(self, index: int, query: Query, view: TableView, place: Place, encoded: NDArray[np.uint8]) -> None:
        units = query.ids.size if query.lengths is None else query.lengths.size
        done = _scratch(units)
        done[:] = 0
        self._formed.append((index, encoded, done))
        lengths, weights = (0 if each is None else address_of(each) for each in (query.lengths, query.weights))
        pooling = MEAN if query.pooling == "mean" else SUM
        places = (self._address + offset for offset in (place.rows, place.scale, place.bias))
        form = self._forms[index]
        form[:] = (
            *(view.spec.dtype_code, self._wire, view.spec.dim, pooling, units, lengths, weights),
            *(*places, address_of(done), units, 0, express.address()),
        )
        self._segments[index, FORM] = address_of(form)

    def _left_ids(self) -> list[tuple[int, NDArray[np.uint64]]]:
        """(index, ids that are left) of every query that has some."""
        left = []
        for index, query in enumerate(self._queries):
            count = int(self._segments[index, LEFT])
            if count:
                left.append((index, query.ids[self._misses[index][:count]]))
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
            again = np.zeros((1, SEGMENT_COLUMNS), np.int64)
            again[0, :COUNT] = view.columns
            again[0, COUNT:LEFT] = (ids.size, *(address_of(array) for array in (ids, rows, status, misses)))
            late = self._attachment.peek(again)  # they were missed, and that is what the owner knows
            states = np.where(status == WARM, _FOUND, _ABSENT).astype(np.uint8)
            states[misses[:late]] = _LATE
            probe.settle_misses(self._segments[index], address_of(rows), states)
        self._express()

    def _express(self) -> None:
        """All rows are there: leave out what has expired, make default rows by id, pool bags, change dtypes."""
        if self._expiring:
            self._take_current()
        for index, view in enumerate(self._views):
            if view.bound is not None:
                self._fill_uniform(index, view, view.bound)
        question = self._question
        for index, _, done in self._formed:
            if not self._forms[index, KEPT]:
                continue
            query, spec, place = self._queries[index], self._views[index].spec, self._places[index]
            out, scale, bias, status = (self._address + offset for offset in place)
            form = (spec.dtype_code, spec.dim, int(self._segments[index, OUT]))
            if query.lengths is None:
                dtype, dim, rows = form
                written = (address_of(done), 1) if question is None else (status, HOT)
                convert_rows(dtype, self._wire, dim, rows, query.ids.size, out, scale, bias, *written)
                continue
            weights = 0 if query.weights is None else address_of(query.weights)
            pooling = MEAN if query.pooling == "mean" else SUM
            done_at = address_of(done) if question is None else question.done_at(index)
            pool_bags(*form, status, query.lengths, weights, pooling, self._wire, out, scale, bias, done_at)
        self._offer()

    def _take_current(self) -> None:
        """Of rows that may expire, leave those that have not, where rows of other tables stand."""
        now = expiry.now_ms()
        formed = {index for index, *_ in self._formed}
        for index, _ in self._expiring:
            query, view, place = self._queries[index], self._views[index], self._places[index]
            rows, status = int(self._segments[index, OUT]), self._address + place.status  # a question may have moved it
            out = rows if index in formed else self._address + place.rows
            default_row = address_of(view.default_row)
            take_current(rows, query.ids.size, view.spec.row_bytes, status, now, default_row, out)
            self._segments[index, OUT] = out

    def _offer(self) -> None:
        """Tell the hot tier what it may want to have."""
        if self.hot is None or not (self._question is not None or self.hot.may_offer()):
            return
        for query, view, status in zip(self._queries, self._views, self._statuses, strict=True):
            below = _FROM_BELOW[status]
            if below.any():
                self.hot.offer(view, query.ids[below], missed=self._question is not None)

    def _fill_uniform(self, index: int, view: TableView, bound: np.float32) -> None:
        instead = np.flatnonzero(~_HAS_ROW[self._statuses[index]])
        if instead.size:
            rows = int(self._segments[index, OUT])
            fill_uniform(self._queries[index].ids, instead, bound, view.spec.dtype_code, view.spec.dim, rows)
