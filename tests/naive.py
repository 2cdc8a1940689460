"""The oracle: a dict that behaves as the whole hierarchy should. Slow, plain, and sharing no code with what it judges.

Rounding is NumPy's and ml_dtypes', arithmetic is one f32 at a time, ids are Python integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
_LARGEST = {"f16": np.float32(65504.0), "bf16": np.float32(3.3895313892515355e38)}
_U64 = 2**64


def rounded(rows: Row, dtype: str) -> Row:
    """The f32 values of rows [n, dim] after they were written as `dtype` and read back; finite values saturate."""
    if dtype == "f32":
        return rows.copy()
    if dtype == "q8":
        return _through_q8(rows)
    limit = _LARGEST[dtype]
    narrow: Row = np.clip(rows, -limit, limit).astype(_type_of(dtype)).astype(np.float32)
    return narrow


def _type_of(dtype: str) -> Any:
    if dtype == "f16":
        return np.float16
    import ml_dtypes  # a machine that only tests its GPU may lack it

    return ml_dtypes.bfloat16


def _through_q8(rows: Row) -> Row:
    if not rows.size:
        return rows.copy()
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    scale = (high - low) / np.float32(255)
    steps = np.divide(rows - low, scale, out=np.zeros_like(rows), where=scale > 0)
    codes = np.clip(np.rint(steps), 0, 255)
    values: Row = codes * scale + low
    return values


def default_row(identifier: int, dim: int, default: Any) -> Row:
    """The row of an id that has none, before any rounding: "zeros", {"constant": [...]} or {"uniform": a}."""
    if default == "zeros":
        return np.zeros(dim, np.float32)
    if "constant" in default:
        return np.array(default["constant"], np.float32)
    values, state = [], identifier
    for _ in range(dim):
        state = (state + 0x9E3779B97F4A7C15) % _U64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % _U64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % _U64
        z ^= z >> 31
        unit = np.float32(z >> 40) * np.float32(2.0**-24)
        values.append((unit * np.float32(2) - np.float32(1)) * np.float32(default["uniform"]))
    return np.array(values, np.float32)


class NaiveTable:
    """A version of a table: its rows as they are on disk, which is f32 where it takes `add`, else its own dtype.

    follow: updates go to it while it is not live. ttl_s: seconds after which rows expire, 0 for never; None where they
    cannot. Times are in milliseconds.
    """

    def __init__(
        self,
        dim: int,
        dtype: str = "f32",
        default: Any = "zeros",
        add: bool = False,
        follow: bool = False,
        ttl_s: int | None = None,
        max_norm: float | None = None,
    ) -> None:
        self.dim = dim
        self.dtype = dtype
        self.default = default
        self.cold = "f32" if add else dtype
        self.follow = follow
        self.ttl_s = ttl_s
        self.max_norm = max_norm
        self.rows: dict[int, Row] = {}
        self.expiries: dict[int, int] = {}  # of the rows that do expire

    def load(self, ids: Iterable[int], rows: NDArray[np.float32], now: int = 0) -> None:
        """Replace all rows, as an import does."""
        at_rest = rounded(np.asarray(rows, np.float32), self.cold)
        self.rows = dict(zip(map(int, ids), at_rest, strict=True))
        self.expiries = {}
        for identifier in self.rows:
            self._expire_after(identifier, self.ttl_s, now)

    def change(
        self, op: str, ids: Iterable[int], rows: NDArray[np.float32], ttl_s: int | None = None, now: int = 0
    ) -> bool:
        """One change of a batch, row by row in order: op `assign`, `add` or `delete`, rows f32 [n, dim].

        -> whether a row was over the limit at a time.
        """
        over = False
        self.forget_expired(now)
        for identifier, row in zip(map(int, ids), np.asarray(rows, np.float32), strict=True):
            if op == "delete":
                self.rows.pop(identifier, None)
                self.expiries.pop(identifier, None)
                continue
            if ttl_s is not None or op == "assign" or identifier not in self.rows:
                self._expire_after(identifier, self.ttl_s if ttl_s is None else ttl_s, now)
            new = row if op == "assign" else self.at_rest(identifier) + row
            new = self.rows[identifier] = rounded(new[None, :], self.cold)[0]
            over |= self.max_norm is not None and float(np.sqrt(sum(float(x) ** 2 for x in new))) > self.max_norm
        return over

    def _expire_after(self, identifier: int, ttl_s: int | None, now: int) -> None:
        self.expiries.pop(identifier, None)
        if ttl_s:
            self.expiries[identifier] = now + 1000 * ttl_s

    def forget_expired(self, now: int) -> None:
        """Rows that have expired by now are as if they had been deleted."""
        for identifier in [each for each, expiry in self.expiries.items() if expiry <= now]:
            del self.rows[identifier], self.expiries[identifier]

    def at_rest(self, identifier: int) -> Row:
        """A row, or the default row, as it is on disk."""
        found = self.rows.get(identifier)
        if found is not None:
            return found
        default: Row = rounded(default_row(identifier, self.dim, self.default)[None, :], self.cold)[0]
        return default

    def served(self, identifier: int) -> Row:
        """A row, or the default row, in the table's dtype."""
        row = self.at_rest(identifier)
        return row if self.cold == self.dtype else rounded(row[None, :], self.dtype)[0]


@dataclass
class NaiveProducer:
    """How far a producer has come."""

    epoch: int = 0
    last_seq: int = 0
    mark: bytes = b""


Changes = list[tuple[str, str, list[int], NDArray[np.float32], int | None]]  # (table, op, ids, rows [n, dim], ttl_s)


class NaiveAside:
    """A batch that is set aside, the versions that it was for, and what was done since to a row of theirs."""

    def __init__(self, changes: Changes, versions: dict[str, list[NaiveTable]]) -> None:
        self.changes = changes
        self.versions = versions
        self.ours: dict[tuple[str, int], set[str]] = {}
        self.since: dict[tuple[str, int], set[str]] = {}
        for table, op, ids, _, _ in changes:
            for identifier in ids:
                self.ours.setdefault((table, identifier), set()).add(op)

    def note(self, table: str, version: NaiveTable, op: str, ids: Iterable[int]) -> None:
        """An applied change of a version."""
        if any(version is one for one in self.versions.get(table, ())):
            for identifier in ids:
                self.since.setdefault((table, int(identifier)), set()).add(op)

    def skips(self, table: str, identifier: int) -> bool:
        """Whether a release leaves a row alone: it was assigned or deleted since, or changed where it would be now."""
        harmless = set() if self.ours[table, identifier] - {"add"} else {"add"}
        return bool(self.since.get((table, identifier), set()) - harmless)


class Naive:
    """All tables and producers by name: of each table the live version and its label, and those beside it.

    aside: batches that are set aside, by whatever the test calls them.
    """

    def __init__(self) -> None:
        self.tables: dict[str, NaiveTable] = {}
        self.labels: dict[str, str] = {}
        self.others: dict[tuple[str, str], NaiveTable] = {}
        self.producers: dict[str, NaiveProducer] = {}
        self.now = 0  # in ms
        self.aside: dict[Any, NaiveAside] = {}

    def pass_time(self, ms: int) -> None:
        """It is later now."""
        self.now += ms
        for table in (*self.tables.values(), *self.others.values()):
            table.forget_expired(self.now)

    def open(self, producer: str) -> NaiveProducer:
        """Open a producer -> its state."""
        opened = self.producers.setdefault(producer, NaiveProducer())
        opened.epoch += 1
        return opened

    def push(
        self,
        producer: str,
        mark: bytes,
        changes: Iterable[tuple[Any, ...]],
        key: Any = None,
    ) -> bool:
        """Accept a producer's next batch: (table, op, ids, rows f32 [n, dim]) for each change, and its ttl_s if any.

        -> whether it is set aside, under `key`, since a live version would have a row over its limit.
        """
        state = self.producers[producer]
        state.last_seq, state.mark = state.last_seq + 1, mark
        made = [
            (table, op, [int(identifier) for identifier in ids], rows, rest[0] if rest else None)
            for table, op, ids, rows, *rest in changes
        ]
        if all(self.tables[name].max_norm is None for name, *_ in made):
            self._apply(made, {})
            return False
        before = {name: (dict(self.tables[name].rows), dict(self.tables[name].expiries)) for name, *_ in made}
        over = [self.tables[name].change(op, ids, rows, ttl_s, self.now) for name, op, ids, rows, ttl_s in made]
        for name, (rows_before, expiries_before) in before.items():
            self.tables[name].rows, self.tables[name].expiries = rows_before, expiries_before
        if any(over):
            versions = {table: [self.tables[table], *self._followers(table)] for table in before}
            self.aside[key] = NaiveAside(made, versions)
            return True
        self._apply(made, {})
        return False

    def release(self, key: Any) -> tuple[int, int]:
        """Apply what is left of a batch that is set aside -> changes of rows that were made, and that were skipped."""
        released = self.aside.pop(key)
        left: Changes = []
        for table, op, ids, rows, ttl_s in released.changes:
            live = self.tables.get(table)
            there = any(live is one for one in released.versions[table])
            at = [n for n, identifier in enumerate(ids) if there and not released.skips(table, identifier)]
            left.append((table, op, [ids[n] for n in at], np.asarray(rows)[at], ttl_s))
        self._apply(left, released.versions)
        made = sum(len(ids) for _, _, ids, _, _ in left)
        return made, sum(len(ids) for _, _, ids, _, _ in released.changes) - made

    def _apply(self, changes: Changes, only: Mapping[str, list[NaiveTable]]) -> None:
        """Apply changes to live versions and to those that follow; `only` to these, by table."""
        for table, op, ids, rows, ttl_s in changes:
            if not ids:
                continue
            for version in (self.tables[table], *self._followers(table)):
                if table not in only or any(version is one for one in only[table]):
                    version.change(op, ids, rows, ttl_s, self.now)
                    for aside in self.aside.values():
                        aside.note(table, version, op, ids)

    def _followers(self, table: str) -> list[NaiveTable]:
        return [other for (name, _), other in self.others.items() if name == table and other.follow]

    def switch(self, targets: Mapping[str, str], follow: bool | None) -> None:
        """Make other versions live, {table: label}; those before follow, or as they did for None."""
        for table, label in targets.items():
            if label != self.labels[table]:
                before, after = self.tables[table], self.others.pop((table, label))
                before.follow = before.follow if follow is None else follow
                self.others[table, self.labels[table]] = before
                self.tables[table], self.labels[table] = after, label

    def drop(self, table: str) -> None:
        """Drop a table with all its versions."""
        del self.tables[table], self.labels[table]
        self.others = {key: other for key, other in self.others.items() if key[0] != table}

    def lookup(
        self, table: str, ids: Iterable[int], dtype: str = "f32", version: str | None = None
    ) -> tuple[NDArray[np.float32], list[bool]]:
        """(rows f32 [n, dim] as they come off the wire, whether each id has a row)."""
        owner = self.tables[table] if version is None else self.others[table, version]
        listed = [int(identifier) for identifier in ids]
        rows = np.array([owner.served(identifier) for identifier in listed], np.float32).reshape(-1, owner.dim)
        found = [identifier in owner.rows for identifier in listed]
        return rows if dtype == owner.dtype else rounded(rows, dtype), found

    def lookup_bags(
        self, table: str, bags: Iterable[Iterable[int]], options: Mapping[str, Any], dtype: str = "f32"
    ) -> NDArray[np.float32]:
        """One row a bag, accumulated in f32 in the order of the ids. options: pooling, and weights (flat) for sums."""
        owner = self.tables[table]
        weights = iter(options.get("weights") or ())
        pooled = []
        for bag in bags:
            total, count = np.zeros(owner.dim, np.float32), 0
            for identifier in bag:
                weight = np.float32(next(weights, 1.0))
                if int(identifier) in owner.rows:
                    total = total + owner.served(int(identifier)) * weight
                    count += 1
            if options["pooling"] == "mean" and count:
                total = total / np.float32(count)
            pooled.append(total)
        return rounded(np.array(pooled, np.float32).reshape(len(pooled), owner.dim), dtype)
