"""The calls of a link that push updates and ask how far they are: what they take, checked, and what they answer."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from embcache.errors import DeadlineExceeded, DimensionMismatch, MalformedRequest
from embcache.host.convert import row_bytes_of
from embcache.local import frames
from embcache.owner.arguments import U32, U64, get, integer, is_integer, text
from embcache.owner.intake import Intake
from embcache.owner.producers import Producer
from embcache.owner.server import Answer
from embcache.owner.tables import Tables
from embcache.owner.updates import Batch, RowsChange, digest_of
from embcache.spec import DTYPES
from embcache_client.updates import ADD, DELETE, MAX_MARK_BYTES, OPS


class UpdateCalls:
    """Answers calls by their op; see operations.py."""

    def __init__(self, intake: Intake, tables: Tables) -> None:
        self._intake = intake
        self._tables = tables

    async def producer(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"producer"} -> {"epoch", "last_seq", "mark", "position", "history"}; epoch 0 for one that never opened."""
        return self._told(self._intake.producers.get(text(meta, "producer"))), ()

    async def open_producer(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """The same, after the epoch was raised."""
        return self._told(await self._intake.open(text(meta, "producer"))), ()

    async def update(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"producer", "epoch", "seq", "mark", "changes": [[table, op, dtype code, n], ...], "applied_within_s"},
        then for each change ids u64 [n] and encoded rows, padded to 8 bytes
        -> {"position", "duplicate", "durable", "applied", "history"}.

        Answers once the batch is durable, or with `applied_within_s` once it is applied or that time has passed.
        """
        shapes = [_shape(shape) for shape in get(meta, "changes", list)]
        receipt = await self._intake.push(lambda: self._batch(meta, shapes, payload))
        within = meta.get("applied_within_s")
        if isinstance(within, int | float):
            with contextlib.suppress(DeadlineExceeded):
                await self._intake.wait_applied(receipt.position, within)
        return {"position": receipt.position, "duplicate": receipt.duplicate, **self._positions()}, ()

    async def position(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{} -> {"durable", "applied", "history", "lag_s"}."""
        return {**self._positions(), "lag_s": self._intake.oldest_wait_s}, ()

    async def wait(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"position", "timeout_s"} -> {"durable", "applied", "history"} once it is applied; DeadlineExceeded."""
        await self._intake.wait_applied(integer(meta, "position", U64), float(get(meta, "timeout_s", float)))
        return self._positions(), ()

    def _batch(self, meta: Mapping[str, Any], shapes: list[tuple[str, str, int, int]], payload: memoryview) -> Batch:
        """The batch of an update, its tables as they are now."""
        changes, told, at = [], [], 0
        for name, op, dtype, n in shapes:
            table = self._tables.named(name)
            if op == ADD and not table.spec.add:
                raise MalformedRequest(
                    f"table {name!r} keeps its rows as {table.spec.dtype} on disk, where small sums are lost: `add` "
                    "needs dtype f32, or `add = true` in the table's spec"
                )
            row_bytes = 0 if op == DELETE else row_bytes_of(dtype, table.spec.dim)
            end = at + 8 * n + frames.padded(n * row_bytes)
            if end > payload.nbytes:
                raise DimensionMismatch(
                    f"{n} rows of table {name!r} (dim {table.spec.dim}) take {end - at} bytes with their ids, "
                    f"and {payload.nbytes - at} are there"
                )
            ids = np.frombuffer(payload, np.uint64, n, at)
            rows = np.frombuffer(payload, np.uint8, n * row_bytes, at + 8 * n).reshape(n, row_bytes)
            changes.append(RowsChange(table.version.number, op, dtype, ids, rows))
            told.append((name, op, dtype, ids, rows))
            at = end
        if at != payload.nbytes:
            raise DimensionMismatch(f"{payload.nbytes - at} bytes follow the rows of an update")
        mark = get(meta, "mark", bytes)
        if len(mark) > MAX_MARK_BYTES:
            raise MalformedRequest(f"mark: {len(mark)} bytes; it has {MAX_MARK_BYTES} at most")
        producer, epoch, seq = text(meta, "producer"), integer(meta, "epoch", U64), integer(meta, "seq", U64)
        return Batch(producer, epoch, seq, mark, digest_of(mark, told), tuple(changes))

    def _positions(self) -> dict[str, Any]:
        return {
            "durable": self._intake.committer.durable,
            "applied": self._intake.applier.applied,
            "history": self._tables.history,
        }

    def _told(self, state: Producer) -> dict[str, Any]:
        return {
            "epoch": state.epoch,
            "last_seq": state.last_seq,
            "mark": state.mark,
            "position": state.position,
            "history": self._tables.history,
        }


def _shape(value: object) -> tuple[str, str, int, int]:
    """A change of an update: (table, op, dtype code, rows)."""
    if isinstance(value, list) and len(value) == 4:
        name, op, dtype, n = value
        if isinstance(name, str) and op in OPS and is_integer(dtype, 0, len(DTYPES) - 1) and is_integer(n, 0, U32):
            return name, op, dtype, n
    raise MalformedRequest(f"a change of an update is [table, op, dtype, n], not {value!r:.100}")
