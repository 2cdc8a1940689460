"""The calls of a link that push updates and ask how far they are: what they take, checked, and what they answer."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from embcache.errors import DeadlineExceeded, DimensionMismatch, MalformedRequest
from embcache.host.convert import row_bytes_of
from embcache.local import frames
from embcache.owner.arguments import MAX_ROW_BYTES, U32, U64, get, integer, is_integer, text
from embcache.owner.intake import Intake
from embcache.owner.producers import Producer
from embcache.owner.server import Answer
from embcache.owner.tables import Tables
from embcache.owner.updates import Batch, RowsChange, Told, digest_of
from embcache.spec import DTYPES
from embcache_client.updates import ADD, DELETE, MAX_MARK_BYTES, OPS

_Shape: TypeAlias = tuple[str, str, int, int, int, int | None]  # of a change: table, op, dtype, n, row_bytes, ttl_s


class UpdateCalls:
    """Answers calls by their op; see operations.py."""

    def __init__(self, intake: Intake, tables: Tables) -> None:
        self._intake = intake
        self._tables = tables

    async def producer(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"producer"} -> {"epoch", "last_seq", "last_epoch", "mark", "position", "history", "quarantined",
        "quarantined_count"}.

        Epoch 0 for one that never opened. `quarantined`: positions of its newest batches that are set aside, ascending.
        """
        name = text(meta, "producer")
        return self._state_of(name, self._intake.producers.get(name)), ()

    async def open_producer(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """The same, after the epoch was raised."""
        name = text(meta, "producer")
        return self._state_of(name, await self._intake.open(name)), ()

    async def update(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"producer", "epoch", "seq", "mark", "changes": [[table, op, dtype code, n, row_bytes, ttl_s if any], ...],
        "applied_within_s"}, then for each change ids u64 [n] and encoded rows u8 [n, row_bytes], padded to 8 bytes
        -> {"position", "duplicate", "durable", "applied", "history", "quarantined", "quarantined_count"}.

        Answers once the batch is durable, or with `applied_within_s` once it is applied or that time has passed.
        """
        changes = _told([_shape(shape) for shape in get(meta, "changes", list)], payload)
        receipt = await self._intake.push(_batch(meta, changes), lambda: self._resolved(changes))
        within = meta.get("applied_within_s")
        if isinstance(within, int | float):
            with contextlib.suppress(DeadlineExceeded):
                await self._intake.wait_applied(receipt.position, within)
        told = self._positions() | self._intake.quarantine.told(text(meta, "producer"))
        return {"position": receipt.position, "duplicate": receipt.duplicate, **told}, ()

    async def position(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{} -> {"durable", "applied", "history", "lag_s"}."""
        return {**self._positions(), "lag_s": self._intake.oldest_wait_s}, ()

    async def wait(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"position", "timeout_s"} -> {"durable", "applied", "history"} once it is applied; DeadlineExceeded."""
        await self._intake.wait_applied(integer(meta, "position", U64), float(get(meta, "timeout_s", float)))
        return self._positions(), ()

    def _resolved(self, told: Sequence[Told]) -> tuple[RowsChange, ...]:
        """The changes of a batch, for the tables as they are now. UnknownTable, DimensionMismatch, MalformedRequest."""
        return tuple(self._change(place, change) for place, change in enumerate(told))

    def _change(self, place: int, told: Told) -> RowsChange:
        name, op, dtype, ids, rows, ttl_s = told
        table = self._tables.named(name)
        spec, followers = table.live.spec, tuple(version.number for version in table.followers)
        if op == ADD and not spec.add:
            raise MalformedRequest(
                f"table {name!r} keeps its rows as {spec.dtype} on disk, where small sums are lost: `add` "
                "needs dtype f32, or `add = true` in the table's spec"
            )
        if ttl_s is not None and not spec.expires:
            raise MalformedRequest(
                f"changes[{place}].ttl_s: rows of table {name!r} cannot expire: give its spec a ttl_s, 0 for rows that "
                "do so only where a change says it; a table that is there gets it by a version of its own"
            )
        row_bytes = 0 if op == DELETE else row_bytes_of(dtype, spec.dim)
        if len(ids) and rows.shape[1] != row_bytes:
            raise DimensionMismatch(
                f"changes[{place}].rows: {rows.nbytes} bytes; {len(ids)} rows of {spec.dim} x {DTYPES[dtype]} "
                f"for table {name!r} take {len(ids) * row_bytes}"
            )
        return RowsChange(table.live.number, op, dtype, ids, rows.reshape(len(ids), row_bytes), followers, ttl_s)

    def _positions(self) -> dict[str, Any]:
        return {
            "durable": self._intake.committer.durable,
            "applied": self._intake.applier.applied,
            "history": self._tables.history,
        }

    def _state_of(self, name: str, state: Producer) -> dict[str, Any]:
        return {
            "epoch": state.epoch,
            "last_seq": state.last_seq,
            "last_epoch": state.last_epoch,
            "mark": state.mark,
            "position": state.position,
            "history": self._tables.history,
            **self._intake.quarantine.told(name),
        }


def _batch(meta: Mapping[str, Any], told: Sequence[Told]) -> Batch:
    """A batch without its changes, which `told` are."""
    mark = get(meta, "mark", bytes)
    if len(mark) > MAX_MARK_BYTES:
        raise MalformedRequest(f"mark: {len(mark)} bytes; it has {MAX_MARK_BYTES} at most")
    producer, epoch, seq = text(meta, "producer"), integer(meta, "epoch", U64), integer(meta, "seq", U64)
    return Batch(producer, epoch, seq, mark, digest_of(mark, told), ())


def _told(shapes: Sequence[_Shape], payload: memoryview) -> list[Told]:
    """Changes with their ids u64 [n] and rows u8 [n, row_bytes], which look into `payload`. DimensionMismatch."""
    wanted = sum(8 * n + frames.padded(n * row_bytes) for _, _, _, n, row_bytes, _ in shapes)
    if wanted != payload.nbytes:
        raise DimensionMismatch(f"the ids and rows of an update take {wanted} bytes, and {payload.nbytes} came")
    told, at = [], 0
    for name, op, dtype, n, row_bytes, ttl_s in shapes:
        ids = np.frombuffer(payload, np.uint64, n, at)
        at += 8 * n
        rows = np.frombuffer(payload, np.uint8, n * row_bytes, at).reshape(n, row_bytes)
        at += frames.padded(n * row_bytes)
        told.append((name, op, dtype, ids, rows, ttl_s))
    return told


def _shape(value: object) -> _Shape:
    """A change of an update, as `update` takes it."""
    if isinstance(value, list) and len(value) in (5, 6):
        name, op, dtype, n, row_bytes, ttl_s = (*value, None)[:6]
        sizes = is_integer(n, 0, U32) and is_integer(row_bytes, 0, MAX_ROW_BYTES)
        times = ttl_s is None or is_integer(ttl_s, 0, U32)
        if isinstance(name, str) and op in OPS and is_integer(dtype, 0, len(DTYPES) - 1) and sizes and times:
            return name, op, dtype, n, row_bytes, ttl_s
    raise MalformedRequest(
        f"a change of an update is [table, op, dtype, n, row_bytes] and maybe a ttl_s, not {value!r:.100}"
    )
