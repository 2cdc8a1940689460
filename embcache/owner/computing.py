"""What a piece of the update log makes of rows: they are read, computed and committed, in the applier's thread.

What a change does is fixed by the log and by the rows before it: rows expire by when their batch was accepted, and are
judged by that time, never by the clock of who applies it. So it comes to the same when it is applied again elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache.defaults import default_values
from embcache.host.convert import decode_rows, encode_rows
from embcache.host.expiring import add_expiring
from embcache.host.expiry import (
    NEVER,
    UNSAID,
    Times,
    after,
    as_in_memory,
    expiries_of,
    with_expiries,
)
from embcache.host.rows import add_rows
from embcache.owner.flight import Ids, Rows
from embcache.owner.updates import EXPIRE
from embcache.spec import TableSpec
from embcache_client.updates import ADD, ASSIGN, DELETE
from embcache_storage.store import ABSENT, DAMAGED, FOUND, Change, RowStore

_OVER_FOR_EVER = 1  # ms since 1970


class Said(NamedTuple):
    """Rows of a change as they were sent: their form and themselves, when they were accepted, and their ttl_s."""

    dtype: int
    rows: Rows
    at: int
    ttl_s: int | None

    def expiry(self, ttl_s: int | None) -> int:
        """In ms since 1970, where a row expires as said, or else after a table's ttl_s."""
        return after(self.at, (ttl_s or 0) if self.ttl_s is None else self.ttl_s)


@dataclass(slots=True)
class Work:
    """What a piece does to one version: one op on ids u64 [n], in parts as they were said, in order.

    `held`: for an op that reads rows, those that memory has of the ids, and which these are, where they are as on disk.
    """

    spec: TableSpec
    version: int
    op: str
    ids: list[Ids] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    held: tuple[Rows, NDArray[np.bool_]] | None = None

    @property
    def reads(self) -> bool:
        """Whether what becomes of rows depends on them."""
        return self.op in (ADD, EXPIRE)

    def each(self, values: Sequence[int]) -> Times:
        """u64 [n]: for each id the value of its part."""
        return np.repeat(np.array(values, np.uint64), [len(ids) for ids in self.ids])

    def expiries(self) -> Times:
        """u64 [n]: when new rows expire."""
        return self.each([said.expiry(self.spec.ttl_s) for said in self.said])


class Written(NamedTuple):
    """What a version's rows are now: ids, and encoded rows as on disk and as in memory, or None where removed."""

    version: int
    ids: Ids
    cold: Rows | None
    warm: Rows | None


@dataclass(slots=True)
class Outcome:
    """Counts of what was done; `expiries`: the first at which a row that was written will expire, by version."""

    rows: int = 0
    damaged: int = 0
    saturated: int = 0
    swept: int = 0
    expiries: dict[int, int] = field(default_factory=dict)


def write(store: RowStore, work: Sequence[Work], meta: Mapping[str, bytes | None]) -> tuple[list[Written], Outcome]:
    """Compute the new rows and commit them with the meta values."""
    outcome = Outcome()
    written = [new for each in work for new in _compute(store, each, outcome)]
    store.commit([Change(version, ids, cold) for version, ids, cold, _ in written], meta)
    return written, outcome


def _compute(store: RowStore, work: Work, outcome: Outcome) -> Iterator[Written]:
    ids = np.concatenate(work.ids)
    if work.op == EXPIRE:
        ids = _expired(store, work, ids)
        outcome.swept += len(ids)
        yield Written(work.version, ids, None, None)
        return
    outcome.rows += len(ids)
    if work.op == DELETE:
        yield Written(work.version, ids, None, None)
        return
    if work.op == ASSIGN:
        cold = _assigned(work, outcome)
    else:
        assert work.op == ADD
        ids, cold = _added(store, work, ids, outcome)
    warm, saturated = as_in_memory(cold, work.spec)
    outcome.saturated += saturated
    if work.spec.expires:
        _note_first(outcome, work.version, expiries_of(cold))
    yield Written(work.version, ids, cold, warm)


def _assigned(work: Work, outcome: Outcome) -> Rows:
    """The rows as they lie on disk."""
    cold = np.concatenate([_encoded(said, work.spec, outcome) for said in work.said])
    return with_expiries(cold, work.expiries()) if work.spec.expires else cold


def _encoded(said: Said, spec: TableSpec, outcome: Outcome) -> Rows:
    """Rows in the form of the disk, or as they are."""
    if said.dtype == spec.cold_code:
        return said.rows
    encoded, saturated = encode_rows(decode_rows(said.rows, said.dtype, spec.dim), spec.cold_code)
    outcome.saturated += saturated
    return encoded


def _added(store: RowStore, work: Work, ids: Ids, outcome: Outcome) -> tuple[Ids, Rows]:
    """Deltas added to the rows of ids u64 [n], in order: distinct ids, and their rows as they lie on disk, f32.

    Rows that are damaged stay so.
    """
    spec = work.spec
    deltas = np.concatenate([decode_rows(said.rows, said.dtype, spec.dim) for said in work.said])
    own, first, places = np.unique(ids, return_index=True, return_inverse=True)
    rows, state = _read(store, work, own, first)
    add = _add_to_expiring if spec.expires else _add
    rows, saturated = add(work, own, rows, state, places.astype(np.int64), deltas)
    outcome.saturated += saturated
    sound = state != DAMAGED
    if not sound.all():
        outcome.damaged += int(np.count_nonzero(~sound))
        own, rows = own[sound], rows[sound]
    return own, rows


def _add(
    work: Work, own: Ids, rows: Rows, state: Rows, places: NDArray[np.int64], deltas: NDArray[np.float32]
) -> tuple[Rows, int]:
    """(Rows of distinct ids with deltas f32 [n, dim] added at their places, how many sums saturated)."""
    sums = rows.view(np.float32)
    absent = state == ABSENT
    if absent.any():
        sums[absent] = default_values(work.spec, own[absent])
    return rows, int(add_rows(sums, places, deltas))


def _add_to_expiring(
    work: Work, own: Ids, rows: Rows, state: Rows, places: NDArray[np.int64], deltas: NDArray[np.float32]
) -> tuple[Rows, int]:
    """`_add` for rows with their expiries."""
    times = work.each([said.at for said in work.said])
    given = work.each([UNSAID if said.ttl_s is None else said.expiry(None) for said in work.said])
    sums, expiries = decode_rows(rows, work.spec.cold_code, work.spec.dim), expiries_of(rows)
    expiries[state == ABSENT] = _OVER_FOR_EVER
    # Of all of them: a row may also expire by one of the changes, and be added to by the next.
    defaults = default_values(work.spec, own)
    saturated = add_expiring(sums, expiries, places, deltas, times, given, work.expiries(), defaults)
    return with_expiries(sums.view(np.uint8), expiries), int(saturated)


def _expired(store: RowStore, work: Work, ids: Ids) -> Ids:
    """Those of ids u64 [n], each once, whose rows had expired when their sweep began. Damaged ones stay."""
    own, first, places = np.unique(ids, return_index=True, return_inverse=True)
    rows, state = _read(store, work, own, first)
    at = np.zeros(len(own), np.uint64)
    np.maximum.at(at, places, work.each([said.at for said in work.said]))
    expiries = expiries_of(rows)
    swept: Ids = own[(state == FOUND) & (expiries != NEVER) & (expiries <= at)]
    return swept


def _note_first(outcome: Outcome, version: int, expiries: Times) -> None:
    expiring = expiries[expiries != NEVER]
    if expiring.size:
        outcome.expiries[version] = int(expiring.min())


def _read(store: RowStore, work: Work, own: Ids, first: NDArray[np.intp]) -> tuple[Rows, Rows]:
    """Rows as on disk, and their state, of distinct ids, of which `first` says where they stand in the work's."""
    row_bytes = work.spec.cold_row_bytes
    if work.held is None:
        return store.read(work.version, row_bytes, own)
    held, found = work.held
    rows, there = held[first], found[first]
    state = np.full(len(own), FOUND, np.uint8)
    if not there.all():
        rows[~there], state[~there] = store.read(work.version, row_bytes, own[~there])
    return rows, state
