"""The requests of one generator, in order: which ids of which tables, for a lookup or an update.

A pure function of the workload, its seed and the generator's number, but for `latest`, whose newest id all generators
share: what is asked follows what was inserted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from loadtest.load.asked import AskedTable, Workload
from loadtest.load.zipf import Drawn, Scatter, Zipf
from loadtest.workloads import QUERY_SAMPLES, U64s, power_law

U32s = NDArray[np.uint32]
_SIZES = 1000


class Request(NamedTuple):
    """One request: ids u64 [n] of each table; for pooled lookups also the lengths u32 [bags] of its bags.

    inserts: the newest id once an insert of `latest` is answered; 0 for all others.
    """

    op: str
    ids: Mapping[str, U64s]
    lengths: Mapping[str, U32s] | None = None
    inserts: int = 0


class Newest(Protocol):
    """How many ids there are in a table that grows, for all generators together."""

    def known(self) -> int:
        """Ids that were inserted and answered for."""

    def reserve(self, count: int) -> int:
        """The first of `count` ids that nobody else inserts."""

    def inserted(self, known: int) -> None:
        """All below `known` are taken to be there."""


class Requests:
    """An endless stream of requests. For one thread at a time."""

    def __init__(self, workload: Workload, generator: int, generators: int, newest: Newest) -> None:
        self._workload = workload
        self._newest = newest
        self._rng = np.random.default_rng([workload.seed, generator])
        ops, shares = zip(*workload.mix, strict=True)
        self._ops: tuple[str, ...] = ops
        self._next_op = Drawn(lambda size: self._rng.choice(len(ops), size, p=shares).astype(np.uint64))
        self._tables = [_TableIds(table, workload, self._rng, newest) for table in workload.tables]
        self._sizes = power_law(_SIZES, *QUERY_SAMPLES) if workload.kind == "dlrm" else None
        hot = np.array([table.hot for table in workload.tables], np.float64)
        self._update_shares = hot / hot.sum()
        self._trace = _TraceLookups(workload, generator, generators) if workload.trace is not None else None

    def next_op(self) -> str:
        """What the next request does."""
        return self._ops[int(self._next_op.take(1)[0])] if len(self._ops) > 1 else self._ops[0]

    def of(self, op: str) -> Request:
        """The next request that does this."""
        return self._lookup() if op == "lookup" else self._update(op)

    @property
    def rounds(self) -> int:
        """How often this generator has come to the end of its trace."""
        return 0 if self._trace is None else self._trace.rounds

    def _lookup(self) -> Request:
        workload = self._workload
        if self._trace is not None:
            return Request("lookup", dict.fromkeys((table.name for table in workload.tables), self._trace.next()))
        if self._sizes is None:
            return Request("lookup", {ids.name: ids.take(workload.ids) for ids in self._tables})
        samples = int(self._rng.choice(self._sizes))
        asked = {ids.name: ids.take(samples * ids.hot) for ids in self._tables}
        if workload.pooling is None:
            return Request("lookup", asked)
        return Request("lookup", asked, {ids.name: np.full(samples, ids.hot, np.uint32) for ids in self._tables})

    def _update(self, op: str) -> Request:
        rows = self._workload.update_rows
        if self._workload.kind == "latest" and op == "assign":
            first = self._newest.reserve(rows)
            fresh = np.arange(first, first + rows, dtype=np.uint64)
            return Request(op, {ids.name: fresh for ids in self._tables}, inserts=first + rows)
        table = self._tables[int(self._rng.choice(len(self._tables), p=self._update_shares))]
        if self._trace is not None:
            return Request(op, {table.name: self._trace.some(self._rng, rows)})
        return Request(op, {table.name: table.take(rows)})


class _TableIds:
    """Ids of one table, as the workload's distribution has them."""

    def __init__(self, table: AskedTable, workload: Workload, rng: np.random.Generator, newest: Newest) -> None:
        self.name, self.hot = table.name, table.hot
        self._latest = workload.kind == "latest"
        self._newest = newest
        self._rows = np.uint64(table.rows)
        self._known = table.known()
        self._scatter = Scatter(table.rows, workload.seed) if workload.scattered and not self._latest else None
        zipf = Zipf(table.rows, workload.alpha)
        self._drawn = Drawn(lambda size: self._placed(zipf.draw(rng, size)))

    def take(self, size: int) -> U64s:
        """u64 [size]; of `latest`, counted back from the newest id of this moment."""
        drawn = self._drawn.take(size)
        return np.uint64(self._newest.known() - 1) - drawn if self._latest else drawn

    def _placed(self, ranks: U64s) -> U64s:
        places = ranks if self._scatter is None else self._scatter.places(ranks)
        return places if self._known is None else np.asarray(self._known[places])


class _TraceLookups:
    """The lookups of a trace of which this generator has every generators-th; from the beginning again at its end."""

    def __init__(self, workload: Workload, generator: int, generators: int) -> None:
        assert workload.trace is not None
        self._ids, self._starts = workload.trace.mapped()
        self._size = workload.ids
        self._lookups = workload.trace.lookups or -(-len(self._ids) // self._size)
        self._first, self._step = generator % self._lookups, generators
        self._at = self._first
        self.rounds = 0

    def next(self) -> U64s:
        if self._at >= self._lookups:
            self._at, self.rounds = self._first, self.rounds + 1
        lookup, self._at = self._at, self._at + self._step
        if self._starts is None:
            return np.array(self._ids[lookup * self._size : (lookup + 1) * self._size])
        return np.array(self._ids[self._starts[lookup] : self._starts[lookup + 1]])

    def some(self, rng: np.random.Generator, size: int) -> U64s:
        """Ids out of the trace, as often as they stand in it."""
        return np.asarray(self._ids[rng.integers(0, len(self._ids), size)])
