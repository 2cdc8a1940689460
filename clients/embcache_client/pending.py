"""The changes of a trainer that are in no batch yet, coalesced: an id stands once, whatever was done to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embcache_client import rowtypes, updates
from embcache_client.change_queue import ChangeQueue, unit_bytes
from embcache_client.id_index import FIRST_CAPACITY, IdIndex, Slots, grown
from embcache_client.lookup import feature_ids
from embcache_client.updates import Change

# What is pending for an id. _DELETED_ADDED is a delete and then an add, onto the table's default row.
_NOTHING, _ASSIGNED, _ADDED, _DELETED, _DELETED_ADDED = range(5)
_UNSAID: Final = -1
_AFTER_ADD: Final = np.array([_ADDED, _ASSIGNED, _ADDED, _DELETED_ADDED, _DELETED_ADDED], np.uint8)


class Pending:
    """Changes that wait to be sent: repeated adds of an id are one, an assign takes in the adds that follow it, and
    assign and delete replace what was there.

    Sums are float32. What is passed in is copied. One thread at a time.
    """

    def __init__(self, dtype: str = "f32") -> None:
        """dtype: of the rows on the wire."""
        rowtypes.code_of(dtype)  # raises for a dtype that there is not
        self._dtype = dtype
        self._tables: dict[str, _Table] = {}
        self._sealed = ChangeQueue()  # of tables that a take began on; they come before what is in _tables

    @property
    def row_count(self) -> int:
        """Changes of single rows that wait; a delete and then an add of one id are two."""
        return self._sealed.row_count + sum(table.row_count for table in self._tables.values())

    @property
    def byte_count(self) -> int:
        """Bytes of the waiting ids and rows on the wire; rows that will go as f32, out of range, count as narrow."""
        return self._sealed.byte_count + sum(table.byte_count for table in self._tables.values())

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory held, room for growth included."""
        return self._sealed.memory_bytes + sum(table.memory_bytes for table in self._tables.values())

    def assign(self, table: str, ids: ArrayLike, rows: ArrayLike, ttl_s: int | None = None) -> None:
        """Rows [n, dim] replace those of ids [n]; of a repeated id the last row counts. ttl_s: see Change.

        Raises ValueError or TypeError, and changes nothing, for what can never be right; NaN and infinity too.
        """
        given, values = _ids(table, ids), _rows(table, rows)
        _check_lengths(table, given, values)
        updates.check_finite(table, updates.ASSIGN, given, values)
        seconds = _ttl(table, ttl_s)
        if len(given):
            self._table(table, values.shape[1]).assign(given, values, seconds)

    def add(self, table: str, ids: ArrayLike, deltas: ArrayLike, ttl_s: int | None = None) -> None:
        """Deltas [n, dim] are added to the rows of ids [n]; those of a repeated id add up. ttl_s: see Change; of adds
        that become one the last that has one counts.

        Raises ValueError or TypeError, and changes nothing, for what can never be right; for sums that overflow too.
        """
        given, values = _ids(table, ids), _rows(table, deltas)
        _check_lengths(table, given, values)
        seconds = _ttl(table, ttl_s)
        if len(given):
            self._table(table, values.shape[1]).add(given, values, seconds)

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
        return self._sealed.take(max_bytes, max_rows, self._oldest_table)

    def _table(self, name: str, dim: int | None) -> _Table:
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = _Table(name, self._dtype)
        if dim is not None:
            table.set_dim(dim)
        return table

    def _oldest_table(self) -> list[Change]:
        """All that waits for one table; empty when nothing waits."""
        changes: list[Change] = []
        while not changes and self._tables:
            changes = self._tables.pop(next(iter(self._tables))).changes()
        return changes


class _Table:
    """What is pending for one table: for each id a slot with its state and its row, zeros where there is none."""

    def __init__(self, name: str, dtype: str) -> None:
        self.row_count = 0
        self.byte_count = 0
        self._name = name
        self._dtype = dtype
        self._index = IdIndex()
        self._dim: int | None = None  # None before the first rows
        self._states = np.zeros(0, np.uint8)  # [capacity]
        self._last = np.zeros(0, np.int64)  # [capacity], scratch: see _lasts
        self._rows = np.zeros((0, 0), np.float32)  # [capacity, dim], or [0, 0] without dim
        self._ttls = np.zeros(0, np.int64)  # [capacity], seconds or _UNSAID; or [0] while no change says any

    @property
    def memory_bytes(self) -> int:
        arrays = (self._states, self._last, self._rows, self._ttls)
        return self._index.memory_bytes + sum(array.nbytes for array in arrays)

    def set_dim(self, dim: int) -> None:
        """The elements of the rows that come; they may change while there are deletes alone."""
        if dim == self._dim:
            return
        if self.byte_count > unit_bytes(self._dtype, None) * self.row_count:
            raise ValueError(f"table {self._name}: rows of {dim} elements; earlier ones have {self._dim}")
        self._dim = dim
        self._rows = np.zeros((len(self._states), dim), np.float32)

    def assign(self, ids: NDArray[np.uint64], rows: NDArray[np.float32], ttl_s: int) -> None:
        slots = self._slots(ids)
        lasts = self._lasts(slots)
        if not lasts.all():
            slots, rows = slots[lasts], rows[lasts]
        self._rows[slots] = rows
        self._set_ttl(slots, ttl_s)
        self._move(slots, _ASSIGNED)

    def add(self, ids: NDArray[np.uint64], deltas: NDArray[np.float32], ttl_s: int) -> None:
        slots = self._slots(ids)
        with np.errstate(over="ignore", invalid="ignore"):  # the sums are checked
            if not self._lasts(slots).all():
                slots, deltas = _summed(slots, deltas)
            sums = self._rows[slots] + deltas
        updates.check_finite(self._name, updates.ADD, self._index.ids[slots], sums)
        self._rows[slots] = sums
        if ttl_s != _UNSAID:
            self._set_ttl(slots, ttl_s)
        self._move(slots, _AFTER_ADD[self._states[slots]])

    def delete(self, ids: NDArray[np.uint64]) -> None:
        slots = self._slots(ids)
        slots = slots[self._lasts(slots)]
        if self._dim is not None:
            self._rows[slots] = 0
        self._set_ttl(slots, _UNSAID)
        self._move(slots, _DELETED)

    def changes(self) -> list[Change]:
        """All of it. Deletes come first, as the adds after them need; else an id is in one change alone."""
        states = self._states[: self._index.used]
        assigned, added, deleted = (
            (states == _ASSIGNED),
            (states == _ADDED) | (states == _DELETED_ADDED),
            (states == _DELETED) | (states == _DELETED_ADDED),
        )
        made = [Change(self._name, updates.DELETE, self._ids(deleted))] if deleted.any() else []
        wide = self._wide()
        for op, in_op in ((updates.ASSIGN, assigned), (updates.ADD, added)):
            for dtype, chosen in ((self._dtype, in_op & ~wide), ("f32", in_op & wide)):
                for ttl_s, part in self._by_ttl(chosen):
                    rows = self._chosen_rows(part)
                    made.append(Change(self._name, op, self._ids(part), rows, dtype, ttl_s=ttl_s))
        return made

    def _by_ttl(self, chosen: NDArray[np.bool_]) -> Iterator[tuple[int | None, NDArray[np.bool_]]]:
        """The chosen slots, bool [used], in parts by what they expire after."""
        if not chosen.any():
            return
        if not self._ttls.size:
            yield None, chosen
            return
        ttls = self._ttls[: len(chosen)]
        for ttl_s in np.unique(ttls[chosen]).tolist():
            yield None if ttl_s == _UNSAID else ttl_s, chosen & (ttls == ttl_s)

    def _set_ttl(self, slots: Slots, ttl_s: int) -> None:
        if ttl_s != _UNSAID and not self._ttls.size:
            self._ttls = np.full(len(self._states), _UNSAID, np.int64)
        if self._ttls.size:
            self._ttls[slots] = ttl_s

    def _wide(self) -> NDArray[np.bool_]:
        """bool [used]: whether a row goes as f32, since it is beyond what the wire's dtype holds.

        Half of that counts as beyond, so that there is room for what earlier adds left out (see residues).
        """
        if self._dtype == "f32" or self._dim is None:
            return np.zeros(self._index.used, np.bool_)
        rows = self._rows[: self._index.used]
        limit = rowtypes.LARGEST[rowtypes.code_of(self._dtype)] / np.float32(2)
        wide: NDArray[np.bool_] = (rows.max(axis=1) > limit) | (rows.min(axis=1) < -limit)
        return wide

    def _ids(self, chosen: NDArray[np.bool_]) -> NDArray[np.uint64]:
        ids = self._index.ids[: len(chosen)]
        return ids if chosen.all() else ids[chosen]

    def _chosen_rows(self, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
        rows = self._rows[: len(chosen)]
        return rows if chosen.all() else rows[chosen]  # a table of adds alone is not copied

    def _slots(self, ids: NDArray[np.uint64]) -> Slots:
        slots = self._index.slots_of(ids)
        if self._index.used > len(self._states):
            self._grow(max(2 * len(self._states), self._index.used, FIRST_CAPACITY))
        return slots

    def _grow(self, capacity: int) -> None:
        self._states = grown(self._states, capacity)
        self._last = np.zeros(capacity, np.int64)
        if self._dim is not None:
            self._rows = grown(self._rows, capacity)
        if self._ttls.size:
            self._ttls = np.concatenate((self._ttls, np.full(capacity - len(self._ttls), _UNSAID, np.int64)))

    def _lasts(self, slots: Slots) -> NDArray[np.bool_]:
        """bool [n]: whether a slot stands nowhere behind."""
        order = np.arange(len(slots))
        self._last[slots] = order  # of a repeated slot NumPy keeps the last
        lasts: NDArray[np.bool_] = self._last[slots] == order
        return lasts

    def _move(self, slots: Slots, states: NDArray[np.uint8] | int) -> None:
        """Slots, each once, get new states."""
        bare, row = unit_bytes(self._dtype, None), unit_bytes(self._dtype, self._dim)
        rows_of = np.array([0, 1, 1, 1, 2])
        bytes_of = np.array([0, row, row, bare, bare + row])
        old = self._states[slots]
        new = np.broadcast_to(np.asarray(states, np.uint8), old.shape)
        self.row_count += int(rows_of[new].sum() - rows_of[old].sum())
        self.byte_count += int(bytes_of[new].sum() - bytes_of[old].sum())
        self._states[slots] = new


def _summed(slots: Slots, deltas: NDArray[np.float32]) -> tuple[Slots, NDArray[np.float32]]:
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


def _ttl(table: str, ttl_s: int | None) -> int:
    return _UNSAID if ttl_s is None else updates.check_ttl(table, ttl_s)


def _check_lengths(table: str, ids: NDArray[np.uint64], rows: NDArray[np.float32]) -> None:
    if rows.ndim != 2 or len(rows) != len(ids) or not 1 <= rows.shape[1] <= rowtypes.MAX_DIM:
        raise ValueError(
            f"table {table}: rows have shape {list(rows.shape)}, not [{len(ids)}, 1 to {rowtypes.MAX_DIM}]"
        )
