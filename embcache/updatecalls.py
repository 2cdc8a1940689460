"""What is asked of the owner about updates: open a producer, push a batch, ask how far it is. Returns Pendings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embcache.attachment import Attachment
from embcache.errors import DimensionMismatch, InvalidRows, MalformedRequest, UnsupportedDtype
from embcache.host.convert import decode_rows, dim_of, first_nonfinite, row_bytes_of
from embcache.local import frames
from embcache.pending import Pending
from embcache.spec import DTYPES
from embcache_client.lookup import feature_ids
from embcache_client.updates import MAX_CHANGES, MAX_TTL_S, OPS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Op: TypeAlias = Literal["assign", "add", "delete"]
_NAMED_IDS = 10  # how many ids an error names


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One op on rows of a table: ids u64 [n], repeats allowed, and for `assign` and `add` encoded rows u8 [n, bytes].

    Of repeated ids `assign` keeps the last and `add` adds all. `dtype` is the rows' own and need not be the table's.
    ttl_s: the rows expire so many seconds after the batch is accepted, 0 for never; None: as the table has it or, with
    `add`, as the row has it.
    """

    table: str
    op: Op
    ids: NDArray[np.uint64]
    rows: NDArray[np.uint8] | None = None
    dtype: str = "f32"
    ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class Producer:
    """How far a producer has come: its next batch is `last_seq` + 1, `mark` what the last one carried.

    `last_epoch` is the epoch under which that one was accepted, 0 where there is none. `quarantined`: positions of its
    newest batches that are set aside, ascending, of `quarantined_count` in all.
    """

    epoch: int
    last_seq: int
    last_epoch: int
    mark: bytes
    position: int
    history: str
    quarantined: list[int]
    quarantined_count: int


@dataclass(frozen=True, slots=True)
class Pushed:
    """A batch that was accepted at `position`, now or, if a duplicate, before.

    It is durable once `durable` has reached its position, and seen by every lookup once `applied` has, unless it was
    set aside: see Producer for `quarantined`.
    """

    position: int
    duplicate: bool
    durable: int
    applied: int
    history: str
    quarantined: list[int]
    quarantined_count: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the service is: positions, the history in which they count, and how old the oldest pending batch is."""

    durable: int
    applied: int
    history: str
    lag_s: float


def open_producer(attachment: Attachment, name: str) -> Pending[Producer]:
    """Open a producer, which shuts out whoever opened it before."""
    return Pending(attachment.link.call("open_producer", {"producer": name}), lambda reply: _producer(reply.meta))


def show_producer(attachment: Attachment, name: str) -> Pending[Producer]:
    """A producer as it is; epoch 0 for one that never opened."""
    call = attachment.link.call("producer", {"producer": name})
    return Pending(call, lambda reply: _producer(reply.meta), state=True)


def push(
    attachment: Attachment,
    producer: str,
    epoch: int,
    seq: int,
    changes: Sequence[Change],
    mark: bytes = b"",
    applied_within_s: float | None = None,
) -> Pending[Pushed]:
    """Push a batch; the answer comes once it is durable, or with `applied_within_s` once applied or that time passed.

    DimensionMismatch and InvalidRows before anything is sent; Fenced, SequenceGap, Conflict, UnknownTable,
    DimensionMismatch, Overloaded and StorageFull from the owner: nothing of the batch was accepted then.
    """
    if not 1 <= len(changes) <= MAX_CHANGES:
        raise MalformedRequest(f"changes: {len(changes)} of them; a batch holds 1 to {MAX_CHANGES}")
    for name, value, least in (("epoch", epoch, 0), ("seq", seq, 1)):
        if not isinstance(value, int | np.integer) or not least <= value < 1 << 64:
            raise MalformedRequest(f"{name}: {value!r:.60} should be an integer from {least} to 2^64 - 1")
    shapes: list[list[Any]] = []
    payload: list[frames.Buffer] = []
    for place, change in enumerate(changes):
        ids = _checked_ids(place, change)
        rows = _checked_rows(place, change, len(ids))
        shapes.append([change.table, change.op, DTYPES.index(change.dtype), len(ids), rows.shape[1]])
        if change.ttl_s is not None:
            shapes[-1].append(_checked_ttl(place, change.op, change.ttl_s))
        payload += [ids, rows, frames.padding(rows.nbytes)]
    meta = {"producer": producer, "epoch": epoch, "seq": seq, "mark": mark, "changes": shapes}
    call = attachment.link.call("update", meta | {"applied_within_s": applied_within_s}, payload)
    return Pending(call, lambda reply: Pushed(**_picked(reply.meta, Pushed)))


def progress(attachment: Attachment) -> Pending[Progress]:
    """How far the owner is."""
    call = attachment.link.call("position")
    return Pending(call, lambda reply: Progress(**_picked(reply.meta, Progress)), state=True)


def wait_applied(attachment: Attachment, position: int, timeout_s: float) -> Pending[None]:
    """Until a position is applied; DeadlineExceeded after the timeout, and at once if it was never accepted."""
    call = attachment.link.call("wait", {"position": position, "timeout_s": float(timeout_s)})
    return Pending(call, lambda reply: None)


def _checked_ids(place: int, change: Change) -> NDArray[np.uint64]:
    """A change's ids; MalformedRequest for what are none, and for an op or a dtype that is none."""
    if change.op not in OPS:
        raise MalformedRequest(f"changes[{place}].op: {change.op!r:.60} should be one of {', '.join(OPS)}")
    if change.dtype not in DTYPES:
        raise UnsupportedDtype(f"changes[{place}].dtype: {change.dtype!r:.60} is none of {', '.join(DTYPES)}")
    try:
        return feature_ids(change.table, np.asarray(change.ids), change.ids)
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedRequest(f"changes[{place}].ids: {error}") from None


def _checked_ttl(place: int, op: str, ttl_s: object) -> int:
    """The ttl_s of a change with an op. MalformedRequest."""
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | np.integer) or not 0 <= ttl_s <= MAX_TTL_S:
        raise MalformedRequest(f"changes[{place}].ttl_s: {ttl_s!r:.60} should be whole seconds from 0 to {MAX_TTL_S}")
    if op == "delete":
        raise MalformedRequest(f"changes[{place}].ttl_s: a delete leaves no rows that could expire")
    return int(ttl_s)


def _checked_rows(place: int, change: Change, count: int) -> NDArray[np.uint8]:
    """A change's encoded rows u8, one for each id and finite; of no bytes for `delete`."""
    rows = np.zeros((count if change.op == "delete" else 0, 0), np.uint8)
    if change.rows is not None:
        rows = np.ascontiguousarray(change.rows)
    if rows.dtype != np.uint8 or rows.ndim != 2 or len(rows) != count:
        raise DimensionMismatch(
            f"changes[{place}].rows: {rows.dtype} {list(rows.shape)} for {count} ids; encoded rows are uint8, one each"
        )
    code = DTYPES.index(change.dtype)
    dim = dim_of(code, rows.shape[1])
    if row_bytes_of(code, dim) != rows.shape[1] and rows.size:
        raise DimensionMismatch(f"changes[{place}].rows: rows of {rows.shape[1]} bytes are none of {change.dtype}")
    values = rows.view("<f4") if change.dtype == "f32" else decode_rows(rows, code, dim)
    if first_nonfinite(values) >= 0:
        bad = np.asarray(change.ids)[~np.isfinite(values).all(axis=1)]
        named = [str(identifier) for identifier in bad[:_NAMED_IDS].tolist()]
        raise InvalidRows(
            f"changes[{place}].rows: {bad.size} rows for table {change.table!r} hold NaN or infinity, first that of id "
            f"{named[0]}; nothing of the batch was accepted",
            {"table": change.table, "ids": named, "count": int(bad.size)},
        )
    return rows


def _producer(meta: dict[str, Any]) -> Producer:
    return Producer(**_picked(meta, Producer))


def _picked(meta: dict[str, Any], kind: type[DataclassInstance]) -> dict[str, Any]:
    return {field.name: meta[field.name] for field in dataclasses.fields(kind)}
