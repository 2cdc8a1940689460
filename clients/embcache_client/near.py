"""NearCache: rows that a client keeps for a while, so that ids asked for again and again need no call. Does no I/O.

Rows are kept as they came, for each table and dtype, in sets of WAYS places: an id's hash picks its set, and the oldest
row of a full one goes. All ids of a lookup are looked for side by side; nothing is done for each of them in Python.

What it promises. A row is answered from here only until `max_staleness_s` after the lookup that brought it was begun;
an update in between is not seen. So only lookups that ask for nothing more come here: no `strict`, no `min_position`,
`history` or `version`, no bags and no raw values. Only rows that are there are kept, never a default row. The rows of
one result are of one version and history; where what is kept is of another, it is forgotten, and all ids are asked for.
The position told is the smallest of those at which the rows were read.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embcache_client.buffers import BufferPool
from embcache_client.call import Steps
from embcache_client.results import NEAR, LookupResult, TableRows
from embcache_client.wire import Query

WAYS: Final = 8
MAX_TABLES: Final = 256  # tables and dtypes of which rows are kept; the one that came first goes
_HASH: Final = np.uint64(0x9E3779B97F4A7C15)
_HALF: Final = np.uint64(32)
_NEVER: Final = -np.inf
_LAST: Final = 2**64 - 1

Ask = Callable[[list[Query]], Steps[LookupResult]]
U64s = NDArray[np.uint64]


@dataclass(slots=True)
class _Found:
    """What is kept of a query's ids: places of those that are not, and rows [n, dim] in which theirs mean nothing."""

    left: NDArray[np.intp]
    rows: TableRows | None = None  # None: nothing is known of the table
    history: str = ""
    position: int = _LAST


class NearCache:
    """For one client. Safe to use from many threads."""

    def __init__(
        self, rows: int, max_staleness_s: float, buffers: BufferPool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """rows: kept of each table and dtype, at most. Raises ValueError."""
        if rows < 1 or not 0 < max_staleness_s < np.inf:
            raise ValueError(
                f"near_cache_rows={rows!r} with max_staleness_s={max_staleness_s!r}: a near-cache needs a number of "
                "rows above 0 and the seconds above 0 for which a row may be used"
            )
        self._capacity = rows
        self._max_staleness_s = max_staleness_s
        self._buffers = buffers
        self._clock = clock
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._tables: dict[tuple[str, str], _KeptRows] = {}

    def lookup(self, queries: Sequence[Query], dtype: str, ask: Ask) -> Steps[LookupResult]:
        """Rows of ids of different tables, those that are not kept asked for by `ask`."""
        began = self._clock()
        if self._process != os.getpid():  # after a fork: another thread of the parent may have held the lock
            self._process, self._lock, self._tables = os.getpid(), threading.Lock(), {}
        with self._lock:
            found = [self._find(query, dtype, began) for query in queries]
        asked = [query for query, kept in zip(queries, found, strict=True) if kept.rows is None or kept.left.size]
        if not asked:
            return _merged(found, None) or (yield from self._ask_all(queries, dtype, ask))
        left = [
            query if kept.rows is None else Query(query.table, query.ids[kept.left])  # type: ignore[index]
            for query, kept in zip(queries, found, strict=True)
            if kept.rows is None or kept.left.size
        ]
        answer = yield from ask(left)
        self._keep(left, answer, dtype, began)
        return _merged(found, answer) or (yield from self._ask_all(queries, dtype, ask))

    def _ask_all(self, queries: Sequence[Query], dtype: str, ask: Ask) -> Steps[LookupResult]:
        began = self._clock()
        answer = yield from ask(list(queries))
        self._keep(queries, answer, dtype, began)
        return answer

    def _find(self, query: Query, dtype: str, now: float) -> _Found:
        assert query.ids is not None
        kept = self._tables.get((query.table, dtype))
        if kept is None or not len(query.ids):
            return _Found(np.arange(len(query.ids)))
        return kept.find(query.ids, now - self._max_staleness_s, self._buffers)

    def _keep(self, queries: Sequence[Query], answer: LookupResult, dtype: str, began: float) -> None:
        with self._lock:
            for query, rows in zip(queries, answer.results, strict=True):
                assert query.ids is not None
                kept = self._tables.get((query.table, dtype))
                if kept is None or not kept.is_of(rows, answer.history):
                    kept = self._tables[query.table, dtype] = _KeptRows(self._capacity, rows, answer.history)
                    if len(self._tables) > MAX_TABLES:
                        del self._tables[next(iter(self._tables))]
                there = np.flatnonzero(rows.found)
                kept.put(query.ids, there, rows, answer.position, began)


class _KeptRows:
    """Rows of one version of a table.

    Invariant: what a place holds is of one id, and no other place of the set is of that id. Places that hold nothing
    yet, whose time is _NEVER and whose id reads 0, come last in their set.
    """

    def __init__(self, capacity: int, rows: TableRows, history: str) -> None:
        """capacity: how many at most. rows: an answer that tells what rows of the table are."""
        self._ways = min(WAYS, capacity)
        self._sets = capacity // self._ways
        places = self._sets * self._ways
        self._history = history
        self._table, self._version, self._dtype = rows.table, rows.version, rows.dtype
        self._ids = np.zeros((self._sets, self._ways), np.uint64)
        self._times = np.full((self._sets, self._ways), _NEVER)  # at which the lookup began that brought a row
        self._positions = np.zeros(places, np.uint64)
        self._raw = np.empty((places, rows.raw.shape[1]), rows.raw.dtype)
        self._columns = None if rows.scale is None else np.empty((places, 2), np.float32)  # scale, bias

    def is_of(self, rows: TableRows, history: str) -> bool:
        """Whether these rows can stand beside those that are kept."""
        mine = (self._version, self._history, self._raw.shape[1])
        return mine == (rows.version, history, rows.raw.shape[1])

    def find(self, ids: U64s, since: float, buffers: BufferPool) -> _Found:
        """The rows of ids u64 [n] that a lookup brought that began at `since` or later, in memory of `buffers`."""
        sets = self._sets_of(ids)
        ways = (self._ids.take(sets, axis=0, mode="clip") == ids[:, None]).argmax(1)
        places = sets * self._ways + ways
        hits = (self._ids.reshape(-1)[places] == ids) & (self._times.reshape(-1)[places] >= since)
        raw = buffers.take(len(ids) * self._raw.shape[1] * self._raw.itemsize).view(self._raw.dtype)
        raw = raw.reshape(len(ids), self._raw.shape[1])
        np.take(self._raw, places, axis=0, out=raw, mode="clip")
        rows = TableRows(self._table, self._version, self._dtype, raw, np.full(len(ids), NEAR, np.uint8))
        if self._columns is not None:
            rows.scale, rows.bias = np.ascontiguousarray(self._columns[places].T)
        oldest = self._positions[places[hits]].min(initial=np.uint64(_LAST))
        return _Found(np.flatnonzero(~hits), rows, self._history, int(oldest))

    def put(self, ids: U64s, there: NDArray[np.intp], rows: TableRows, position: int, began: float) -> None:
        """Keep the rows at the places `there` of an answer to `ids`, read at `position` or later."""
        room = self._raw.shape[0]
        for first in range(0, len(there), room):
            left = there[first : first + room]
            for _ in range(self._ways):  # ids of one set get one place in each round
                left = self._put_one_a_set(ids, left, rows, position, began)
                if not left.size:
                    break

    def _put_one_a_set(
        self, ids: U64s, there: NDArray[np.intp], rows: TableRows, position: int, began: float
    ) -> NDArray[np.intp]:
        """-> those of `there` whose place another one got."""
        wanted = ids[there]
        sets = self._sets_of(wanted)
        same = (self._ids[sets] == wanted[:, None]) & (self._times[sets] > _NEVER)
        places = sets * self._ways + np.where(same.any(1), same.argmax(1), self._times[sets].argmin(1))
        newer = self._times.reshape(-1)[places] <= began  # an older row pushes out none
        places, there, wanted = places[newer], there[newer], wanted[newer]
        once, first = np.unique(places, return_index=True)
        source = there[first]
        self._ids.reshape(-1)[once] = ids[source]
        self._times.reshape(-1)[once] = began
        self._positions[once] = position
        self._raw[once] = rows.raw[source]
        if self._columns is not None and rows.scale is not None and rows.bias is not None:
            self._columns[once, 0], self._columns[once, 1] = rows.scale[source], rows.bias[source]
        lost: NDArray[np.intp] = there[self._ids.reshape(-1)[places] != wanted]
        return lost

    def _sets_of(self, ids: U64s) -> NDArray[np.int64]:
        mixed = (ids ^ (ids >> _HALF)) * _HASH
        return (((mixed >> _HALF) * np.uint64(self._sets)) >> _HALF).astype(np.int64)


def _merged(found: Sequence[_Found], answer: LookupResult | None) -> LookupResult | None:
    """What was found and what was answered for the rest as one result; None where they do not go together."""
    used = [kept for kept in found if kept.rows is not None and kept.left.size < len(kept.rows)]
    histories = {kept.history for kept in used} | (set() if answer is None else {answer.history})
    if len(histories) > 1:
        return None
    answers = iter(() if answer is None else answer.results)
    results = []
    for kept in found:
        if kept.rows is not None and not kept.left.size:
            results.append(kept.rows)
            continue
        rest = next(answers)
        if kept.rows is None or kept.left.size == len(kept.rows):
            results.append(rest)
        elif rest.version != kept.rows.version or rest.raw.shape[1] != kept.rows.raw.shape[1]:
            return None
        else:
            results.append(_filled(kept.rows, kept.left, rest))
    positions = [kept.position for kept in used] + ([] if answer is None else [answer.position])
    return LookupResult(results, min(positions), histories.pop())


def _filled(rows: TableRows, left: NDArray[np.intp], rest: TableRows) -> TableRows:
    rows.raw[left], rows.status[left] = rest.raw, rest.status
    if rows.scale is not None and rows.bias is not None:
        rows.scale[left], rows.bias[left] = rest.scale, rest.bias
    return rows


def is_plain(queries: Sequence[Query], conditions: dict[str, Any]) -> bool:
    """Whether a lookup asks for nothing that rows which are kept cannot promise."""
    if conditions["strict"] or conditions["min_position"] or conditions["history"] is not None:
        return False
    return all(query.ids is not None and query.version is None and query.lengths is None for query in queries)
