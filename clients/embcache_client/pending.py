"""The changes of a trainer that are in no batch yet, coalesced: an id stands once, whatever was done to it."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embcache_client import rowtypes, updates
from embcache_client.lookup import feature_ids
from embcache_client.updates import Change

_Slots = NDArray[np.int64]

# What is pending for an id. _DELETED_ADDED is a delete and then an add, onto the table's default row.
_NOTHING, _ASSIGNED, _ADDED, _DELETED, _DELETED_ADDED = range(5)
_AFTER_ADD: Final = np.array([_ADDED, _ASSIGNED, _ADDED, _DELETED_ADDED, _DELETED_ADDED], np.uint8)

_ID_BYTES: Final = 8
_FIRST_CAPACITY: Final = 1024
_HASH: Final = np.uint64(0x9E3779B97F4A7C15)


class Pending:
    """Changes that wait to be sent: repeated adds of an id are one, an assign takes in the adds that follow it, and
    assign and delete replace what was there.

    Sums are float32. What is passed in is copied. One thread at a time.
    """

    def __init__(self, dtype: str = "f32") -> None:
        """dtype: of the rows on the wire."""
        self._dtype = dtype
        self._code = rowtypes.code_of(dtype)
        self._tables: dict[str, _Table] = {}
        self._sealed: deque[Change] = deque()  # of tables that a take began on; they come before what is in _tables

    @property
    def row_count(self) -> int:
        """Changes of single rows that wait; a delete and then an add of one id are two."""
        return sum(len(change.ids) for change in self._sealed) + sum(t.row_count for t in self._tables.values())

    @property
    def byte_count(self) -> int:
        """Bytes of the waiting ids and rows on the wire."""
        sealed = sum(len(change.ids) * self._unit_bytes(change) for change in self._sealed)
        return sealed + sum(table.byte_count for table in self._tables.values())

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory held, room for growth included."""
        sealed = sum(c.ids.nbytes + (0 if c.rows is None else c.rows.nbytes) for c in self._sealed)
        return sealed + sum(table.memory_bytes for table in self._tables.values())

    def assign(self, table: str, ids: ArrayLike, rows: ArrayLike) -> None:
        """Rows [n, dim] replace those of ids [n]; of a repeated id the last row counts.

        Raises ValueError or TypeError, and changes nothing, for what can never be right; NaN and infinity too.
        """
        given, values = _ids(table, ids), _rows(table, rows)
        _check_lengths(table, given, values)
        updates.check_finite(table, updates.ASSIGN, given, values)
        if len(given):
            self._table(table, values.shape[1]).assign(given, values)

    def add(self, table: str, ids: ArrayLike, deltas: ArrayLike) -> None:
        """Deltas [n, dim] are added to the rows of ids [n]; those of a repeated id add up.

        Raises ValueError or TypeError, and changes nothing, for what can never be right; for sums that overflow too.
        """
        given, values = _ids(table, ids), _rows(table, deltas)
        _check_lengths(table, given, values)
        if len(given):
            self._table(table, values.shape[1]).add(given, values)

    def delete(self, table: str, ids: ArrayLike) -> None:
        """The rows of ids [n] go. Raises ValueError or TypeError for what can never be right."""
        given = _ids(table, ids)
        if len(given):
            self._table(table, None).delete(given)

    def take(self, max_bytes: int, max_rows: int = sys.maxsize) -> list[Change]:
        """The changes of the next batch, oldest table first; they wait no longer. Empty when nothing waits.

        They have max_rows ids, and encode_update makes max_bytes of them, at most; only that one row is taken however
        large it is.
        """
        taken: list[Change] = []
        left = max_bytes - updates.BATCH_BYTES
        while len(taken) < updates.MAX_CHANGES and self._seal():
            change = self._sealed[0]
            left -= updates.change_bytes(change.table)
            fitting = min(left // self._unit_bytes(change), max_rows)
            if fitting < 1 and taken:
                break
            taken.append(self._cut(max(fitting, 1)))
            left -= len(taken[-1].ids) * self._unit_bytes(change)
            max_rows -= len(taken[-1].ids)
        return taken

    def _table(self, name: str, dim: int | None) -> _Table:
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = _Table(name, self._code)
        if dim is not None:
            table.set_dim(dim)
        return table

    def _seal(self) -> bool:
        """Sees to it that a change is sealed; False when nothing waits."""
        while not self._sealed and self._tables:
            name = next(iter(self._tables))
            self._sealed.extend(self._tables.pop(name).changes(self._dtype))
        return bool(self._sealed)

    def _cut(self, count: int) -> Change:
        """The first `count` rows, or all, of the first sealed change."""
        change = self._sealed.popleft()
        if len(change.ids) <= count:
            return change
        head, rest = _part(change, slice(None, count)), _part(change, slice(count, None))
        self._sealed.appendleft(rest)
        return head

    def _unit_bytes(self, change: Change) -> int:
        """Bytes of an id and its row on the wire."""
        return _ID_BYTES + (0 if change.rows is None else rowtypes.row_bytes(self._code, change.rows.shape[1]))


class _Table:
    """What is pending for one table: for each id a slot with its state and its row, zeros where there is none."""

    def __init__(self, name: str, code: int) -> None:
        self.row_count = 0
        self.byte_count = 0
        self._name = name
        self._code = code
        self._index = _Index()
        self._dim: int | None = None  # None before the first rows
        self._states = np.zeros(0, np.uint8)  # [capacity]
        self._last = np.zeros(0, np.int64)  # [capacity], scratch: see _lasts
        self._rows = np.zeros((0, 0), np.float32)  # [capacity, dim], or [0, 0] without dim

    @property
    def memory_bytes(self) -> int:
        return self._index.memory_bytes + self._states.nbytes + self._last.nbytes + self._rows.nbytes

    def set_dim(self, dim: int) -> None:
        """The elements of the rows that come; they may change while there are deletes alone."""
        if dim == self._dim:
            return
        if self.byte_count > _ID_BYTES * self.row_count:
            raise ValueError(f"table {self._name}: rows of {dim} elements; earlier ones have {self._dim}")
        self._dim = dim
        self._rows = np.zeros((len(self._states), dim), np.float32)

    def assign(self, ids: NDArray[np.uint64], rows: NDArray[np.float32]) -> None:
        slots = self._slots(ids)
        lasts = self._lasts(slots)
        if not lasts.all():
            slots, rows = slots[lasts], rows[lasts]
        self._rows[slots] = rows
        self._move(slots, _ASSIGNED)

    def add(self, ids: NDArray[np.uint64], deltas: NDArray[np.float32]) -> None:
        slots = self._slots(ids)
        with np.errstate(over="ignore", invalid="ignore"):  # the sums are checked
            if not self._lasts(slots).all():
                slots, deltas = _summed(slots, deltas)
            sums = self._rows[slots] + deltas
        updates.check_finite(self._name, updates.ADD, self._index.ids[slots], sums)
        self._rows[slots] = sums
        self._move(slots, _AFTER_ADD[self._states[slots]])

    def delete(self, ids: NDArray[np.uint64]) -> None:
        slots = self._slots(ids)
        slots = slots[self._lasts(slots)]
        if self._dim is not None:
            self._rows[slots] = 0
        self._move(slots, _DELETED)

    def changes(self, dtype: str) -> list[Change]:
        """All of it. Deletes come first, as the adds after them need; else an id is in one change alone."""
        states = self._states[: self._index.used]
        assigned, added, deleted = (
            (states == _ASSIGNED),
            (states == _ADDED) | (states == _DELETED_ADDED),
            (states == _DELETED) | (states == _DELETED_ADDED),
        )
        made = [Change(self._name, updates.DELETE, self._ids(deleted))] if deleted.any() else []
        for op, chosen in ((updates.ASSIGN, assigned), (updates.ADD, added)):
            if chosen.any():
                made.append(Change(self._name, op, self._ids(chosen), self._chosen_rows(chosen), dtype))
        return made

    def _ids(self, chosen: NDArray[np.bool_]) -> NDArray[np.uint64]:
        ids = self._index.ids[: len(chosen)]
        return ids if chosen.all() else ids[chosen]

    def _chosen_rows(self, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
        rows = self._rows[: len(chosen)]
        return rows if chosen.all() else rows[chosen]  # a table of adds alone is not copied

    def _slots(self, ids: NDArray[np.uint64]) -> _Slots:
        slots = self._index.slots_of(ids)
        if self._index.used > len(self._states):
            self._grow(max(2 * len(self._states), self._index.used, _FIRST_CAPACITY))
        return slots

    def _grow(self, capacity: int) -> None:
        self._states = _grown(self._states, capacity)
        self._last = np.zeros(capacity, np.int64)
        if self._dim is not None:
            self._rows = _grown(self._rows, capacity)

    def _lasts(self, slots: _Slots) -> NDArray[np.bool_]:
        """bool [n]: whether a slot stands nowhere behind."""
        order = np.arange(len(slots))
        self._last[slots] = order  # of a repeated slot NumPy keeps the last
        lasts: NDArray[np.bool_] = self._last[slots] == order
        return lasts

    def _move(self, slots: _Slots, states: NDArray[np.uint8] | int) -> None:
        """Slots, each once, get new states."""
        row = _ID_BYTES + (0 if self._dim is None else rowtypes.row_bytes(self._code, self._dim))
        rows_of = np.array([0, 1, 1, 1, 2])
        bytes_of = np.array([0, row, row, _ID_BYTES, _ID_BYTES + row])
        old = self._states[slots]
        new = np.broadcast_to(np.asarray(states, np.uint8), old.shape)
        self.row_count += int(rows_of[new].sum() - rows_of[old].sum())
        self.byte_count += int(bytes_of[new].sum() - bytes_of[old].sum())
        self._states[slots] = new


class _Index:
    """id -> slot, slots counting up from 0: open addressing with linear probing, all ids of a call side by side."""

    def __init__(self) -> None:
        self.used = 0
        self.ids = np.zeros(0, np.uint64)  # [capacity], by slot
        self._cells = np.zeros(0, np.int64)  # [a power of two, at least 2 * capacity]: a slot, or negative

    @property
    def memory_bytes(self) -> int:
        return self.ids.nbytes + self._cells.nbytes

    def slots_of(self, ids: NDArray[np.uint64]) -> _Slots:
        """int64 [n]: the slots of ids, new ones for those without."""
        if self.used + len(ids) > len(self.ids):
            self._grow(max(2 * len(self.ids), self.used + len(ids), _FIRST_CAPACITY))
        slots = np.empty(len(ids), np.int64)
        waiting, at = np.arange(len(ids)), self._home(ids)
        while len(waiting):
            self._claim(ids, waiting, at)
            found = self._cells[at]
            hit = self.ids[found] == ids[waiting]
            slots[waiting[hit]] = found[hit]
            waiting, at = waiting[~hit], self._next(at[~hit])
        return slots

    def _claim(self, ids: NDArray[np.uint64], waiting: _Slots, at: _Slots) -> None:
        """Gives each empty one of the cells `at` a new slot, for one of the ids that came to it."""
        empty = self._cells[at] < 0
        if not empty.any():
            return
        cells, claims = at[empty], -1 - waiting[empty]
        self._cells[cells] = claims
        won = self._cells[cells] == claims
        winners = waiting[empty][won]
        slots = np.arange(self.used, self.used + len(winners))
        self.ids[slots] = ids[winners]
        self._cells[cells[won]] = slots
        self.used += len(winners)

    def _grow(self, capacity: int) -> None:
        self.ids = _grown(self.ids, capacity)
        self._cells = np.full(1 << (2 * capacity - 1).bit_length(), -1, np.int64)
        slots = np.arange(self.used)
        at = self._home(self.ids[: self.used])
        while len(slots):
            empty = self._cells[at] < 0
            self._cells[at[empty]] = slots[empty]
            placed = self._cells[at] == slots
            slots, at = slots[~placed], self._next(at[~placed])

    def _home(self, ids: NDArray[np.uint64]) -> _Slots:
        bits = len(self._cells).bit_length() - 1
        return (((ids ^ (ids >> np.uint64(32))) * _HASH) >> np.uint64(64 - bits)).astype(np.int64)

    def _next(self, at: _Slots) -> _Slots:
        return (at + 1) & (len(self._cells) - 1)


def _part(change: Change, part: slice) -> Change:
    rows = None if change.rows is None else change.rows[part]
    return Change(change.table, change.op, change.ids[part], rows, change.dtype)


def _grown(array: NDArray[Any], capacity: int) -> NDArray[Any]:
    grown = np.zeros((capacity, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def _summed(slots: _Slots, deltas: NDArray[np.float32]) -> tuple[_Slots, NDArray[np.float32]]:
    """Each slot once, ascending, with the sum of its deltas."""
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return ordered[starts], np.add.reduceat(deltas[order], starts, axis=0)


def _ids(table: str, ids: ArrayLike) -> NDArray[np.uint64]:
    array = np.asarray(ids)
    if array.dtype.kind in "US":
        raise TypeError(f"table {table}: ids are raw values; hash_values makes feature IDs of them")
    return feature_ids(table, array, ids)


def _rows(table: str, rows: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(rows)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"table {table}: rows are {array.dtype}, not numbers")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinity, which is refused by name
        return array.astype(np.float32, copy=False)


def _check_lengths(table: str, ids: NDArray[np.uint64], rows: NDArray[np.float32]) -> None:
    if rows.ndim != 2 or len(rows) != len(ids) or not 1 <= rows.shape[1] <= rowtypes.MAX_DIM:
        raise ValueError(
            f"table {table}: rows have shape {list(rows.shape)}, not [{len(ids)}, 1 to {rowtypes.MAX_DIM}]"
        )
