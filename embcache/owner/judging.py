"""Whether a batch would leave a row with a greater norm than its table allows. Reads rows, and changes none.

Judged are the rows of the version that was live when the batch was accepted, by that version's limit, and as they
would lie on disk: each row right after each of its changes, one after the other, in the batch's order, as they are
applied. A row that is damaged, and one that is deleted, is never over. Versions that follow are not judged: nobody
looks at them, and they get what the live one gets.

Several batches are judged at once, as if all of them were applied: what comes before the first one that is over was
judged by the rows that it will find, and so was that one. Those behind it were not.

Changes are taken by id, in their order for each id, so that what is in hand is a piece of changes and the rows of
their ids, however large the batches: no id is met in two pieces, but for one that is the last of one and the first of
the next, whose row is carried over. Where nothing is added, no row has to be read, and changes are taken as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache.defaults import default_values
from embcache.host.convert import decode_rows, encode_rows
from embcache.host.expiry import NEVER, UNSAID, Times, after, expiries_of
from embcache.host.rehearsing import rehearse
from embcache.owner.catalogue import Version
from embcache.owner.flight import Ids, Rows
from embcache.owner.threads import StoreThreads
from embcache.owner.updates import Batch, RowsChange
from embcache.spec import TableSpec
from embcache_client.updates import ADD, DELETE, OPS
from embcache_storage.store import ABSENT, FOUND, RowStore

PIECE_ROWS = 1024
PIECE_BYTES = 512 << 10  # of rows as f32

Floats = NDArray[np.float32]


class Part(NamedTuple):
    """A change of a version, and which of the batches it is of, which was accepted at a time in ms."""

    batch: int
    change: RowsChange
    at: int

    def first(self, spec: TableSpec) -> int:
        """When a row expires that it makes."""
        ttl_s = spec.ttl_s if self.change.ttl_s is None else self.change.ttl_s
        return after(self.at, ttl_s or 0) if spec.expires else NEVER

    def given(self, spec: TableSpec) -> int:
        """When a row expires that it adds to, as far as it says so."""
        said = spec.expires and self.change.ttl_s is not None
        return self.first(spec) if said else UNSAID


class Over(NamedTuple):
    """Why a batch is over: in how many of its rows, and the worst of them: its version, id and norm."""

    rows: int
    version: int
    feature_id: int
    norm: float

    def and_also(self, other: Over | None) -> Over:
        """Both together."""
        if other is None:
            return self
        return max(self, other, key=lambda over: over.norm)._replace(rows=self.rows + other.rows)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some changes of rows: of which part, which row of it, and of which id; `own` and `places` are the ids, once."""

    parts: NDArray[np.intp]
    rows: NDArray[np.intp]
    ids: Ids
    own: Ids
    places: NDArray[np.int64]


class Judge:
    """Judges batches of an owner; its methods run on the loop, and work in the applier's thread."""

    def __init__(
        self,
        store: RowStore,
        threads: StoreThreads,
        find: Callable[[int], Version | None],
        read: Callable[[int, Ids], tuple[Rows, NDArray[np.bool_]] | None],
    ) -> None:
        """`find(number)` is a version that is there, `read(number, ids)` what of its rows is in memory."""
        self._store = store
        self._threads = threads
        self._find = find
        self._read = read

    def limited(self, batch: Batch) -> bool:
        """Whether there is anything to judge of a batch."""
        return not batch.released and any(self._limit(change) is not None for change in batch.changes)

    async def first_over(self, batches: Sequence[Batch]) -> tuple[int, Over] | None:
        """The first of the batches, in order from the rows as they are now, that is over, and why; None if none is."""
        by_version: dict[int, list[Part]] = {}
        for place, batch in enumerate(batches):
            for change in batch.changes:
                if len(change.ids) and self._limit(change) is not None:
                    by_version.setdefault(change.version, []).append(Part(place, change, batch.at))
        found: dict[int, Over] = {}
        for number, parts in by_version.items():
            version = self._find(number)
            assert version is not None
            for place, over in (await self._rehearsed(version, parts)).items():
                found[place] = over.and_also(found.get(place))
        return min(found.items()) if found else None

    def _limit(self, change: RowsChange) -> float | None:
        version = self._find(change.version)
        return None if version is None else version.spec.max_norm

    async def _rehearsed(self, version: Version, parts: list[Part]) -> dict[int, Over]:
        """Which batches are over in a version."""
        spec, found = version.spec, dict[int, Over]()
        adds = any(part.change.op == ADD for part in parts)
        step = max(1, min(PIECE_ROWS, PIECE_BYTES // (4 * spec.dim)))
        large = sum(len(part.change.ids) for part in parts) > step
        line = await self._threads.apply(_Line.of, parts, by_id=adds) if large else _Line.of(parts, by_id=adds)
        carried: _Carried | None = None
        for piece in line.pieces(step):
            held = self._read(version.number, piece.own) if adds and spec.dtype_code == spec.cold_code else None
            rehearsal = _Rehearsal(self._store, version, parts, piece, held, carried if adds else None)
            norms, carried = await self._threads.apply(rehearsal.run)
            for place, over in _over(version, parts, piece, norms).items():
                found[place] = over.and_also(found.get(place))
        return found


@dataclass(frozen=True, slots=True)
class _Line:
    """All changes of rows of some parts: their ids u64 [n], where each part begins, and in which order they are taken;
    None: as they come, each as if it were of an id of its own."""

    ids: Ids
    starts: NDArray[np.int64]
    order: NDArray[np.intp] | None

    @classmethod
    def of(cls, parts: Sequence[Part], *, by_id: bool) -> _Line:
        """By id, those of one id in their own order, or as they come."""
        ids = np.concatenate([part.change.ids for part in parts])
        starts = np.cumsum([0, *(len(part.change.ids) for part in parts)])
        return cls(ids, starts, np.argsort(ids, kind="stable") if by_id else None)

    def pieces(self, step: int) -> Iterator[_Piece]:
        """`step` of them at a time."""
        for begin in range(0, len(self.ids), step):
            part = slice(begin, min(begin + step, len(self.ids)))
            at = np.arange(part.start, part.stop) if self.order is None else self.order[part]
            of = np.searchsorted(self.starts, at, side="right") - 1
            ids = self.ids[at]
            own, places = (ids, at - begin) if self.order is None else np.unique(ids, return_inverse=True)
            yield _Piece(of, at - self.starts[of], ids, own, places.astype(np.int64))


class _Carried(NamedTuple):
    """A row that the next piece may go on with: f32 [dim], when it expires, and its state."""

    feature_id: int
    row: Floats
    expiry: int
    state: int


class _Before(NamedTuple):
    """Rows of distinct ids: values f32 [m, dim], expiries u64 [m], states u8 [m], default rows f32 [m, dim]; zeros
    where nobody asks."""

    values: Floats
    expiries: Times
    states: NDArray[np.uint8]
    defaults: Floats


@dataclass(frozen=True, slots=True)
class _Rehearsal:
    """One piece of changes to a version. `held`: rows that memory has of its ids, and which those are."""

    store: RowStore
    version: Version
    parts: Sequence[Part]
    piece: _Piece
    held: tuple[Rows, NDArray[np.bool_]] | None
    carried: _Carried | None

    def run(self) -> tuple[NDArray[np.float64], _Carried]:
        """In a thread: the norms f64 [n] of the rows after each change, and the last of the rows."""
        piece, spec = self.piece, self.version.spec
        ops = self._each([OPS.index(part.change.op) for part in self.parts], np.uint8)
        rows = np.zeros((len(piece.ids), spec.dim), np.float32)
        for place in np.unique(piece.parts):
            change, here = self.parts[place].change, piece.parts == place
            if change.op != DELETE:
                rows[here] = at_rest(change.rows[piece.rows[here]], change.dtype, spec)
        before, norms = self._before(ops == OPS.index(ADD)), np.empty(len(rows))
        times = self._each([part.at for part in self.parts], np.uint64)
        given = self._each([part.given(spec) for part in self.parts], np.uint64)
        first = self._each([part.first(spec) for part in self.parts], np.uint64)
        rehearse(*before, piece.places, ops, rows, times, given, first, norms)
        last = before.values[-1].copy(), int(before.expiries[-1]), int(before.states[-1])
        return norms, _Carried(int(piece.own[-1]), *last)

    def _each(self, values: Sequence[int], dtype: type[np.unsignedinteger[Any]]) -> NDArray[Any]:
        """[n]: for each change of the piece the value of its part."""
        return np.array(values, dtype)[self.piece.parts]

    def _before(self, is_add: NDArray[np.bool_]) -> _Before:
        own, spec = self.piece.own, self.version.spec
        values, expiries = np.zeros((len(own), spec.dim), np.float32), np.full(len(own), NEVER, np.uint64)
        states = np.full(len(own), ABSENT, np.uint8)
        if not is_add.any():
            return _Before(values, expiries, states, values)
        wanted = np.zeros(len(own), np.bool_)
        wanted[self.piece.places[is_add]] = True
        if self.carried is not None and self.carried.feature_id == own[0]:
            _, values[0], expiries[0], states[0] = self.carried
            wanted[0] = False
        if wanted.any():
            rows, states[wanted] = self._read(wanted)
            values[wanted] = decode_rows(rows, spec.cold_code, spec.dim)
            if spec.expires:
                expiries[wanted] = expiries_of(rows)
        return _Before(values, expiries, states, default_values(spec, own))

    def _read(self, wanted: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.uint8]]:
        """Rows as on disk, and their states, of some of the piece's own ids."""
        own, row_bytes = self.piece.own, self.version.spec.cold_row_bytes
        if self.held is None:
            return self.store.read(self.version.number, row_bytes, own[wanted])
        rows, there = self.held[0][wanted], self.held[1][wanted]
        states = np.full(len(rows), FOUND, np.uint8)
        if not there.all():
            rows[~there], states[~there] = self.store.read(self.version.number, row_bytes, own[wanted][~there])
        return rows, states


def at_rest(rows: Rows, dtype: int, spec: TableSpec) -> Floats:
    """The values f32 [n, dim] of encoded rows of a dtype, once they lie on disk."""
    values = decode_rows(rows, dtype, spec.dim)
    if spec.cold_dtype == "f32" or dtype == spec.cold_code:
        return values
    return decode_rows(encode_rows(values, spec.cold_code)[0], spec.cold_code, spec.dim)


def _over(version: Version, parts: Sequence[Part], piece: _Piece, norms: NDArray[np.float64]) -> Mapping[int, Over]:
    """Which batches are over in a piece."""
    assert version.spec.max_norm is not None
    [at] = np.nonzero(norms > version.spec.max_norm)
    of = np.array([part.batch for part in parts])[piece.parts[at]]
    found = {}
    for place in np.unique(of).tolist():
        mine = at[of == place]
        worst = mine[np.argmax(norms[mine])]
        found[place] = Over(len(mine), version.number, int(piece.ids[worst]), float(norms[worst]))
    return found
