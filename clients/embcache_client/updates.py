"""The msgpack bodies of updates: batches of changes out, replies in. Does no I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray

from embcache_client import rowtypes
from embcache_client.errors import ProtocolError
from embcache_client.wire import Body, decode_map

ASSIGN: Final = "assign"
ADD: Final = "add"
DELETE: Final = "delete"
OPS: Final = (ASSIGN, ADD, DELETE)
ACKS: Final = ("durable", "applied")

MAX_CHANGES: Final = 256
MAX_MARK_BYTES: Final = 256
MAX_TTL_S: Final = (1 << 32) - 1

# What a body has beside its ids and rows, at most: the keys, the numbers, a producer's name and a mark of full length.
BATCH_BYTES: Final = 512
_CHANGE_BYTES: Final = 128

_PRODUCER: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NAMED_IDS: Final = 5
_T = TypeVar("_T")


@dataclass(slots=True)
class Change:
    """One entry of a batch's `changes`: what happens to rows of one table.

    Repeated ids are allowed: assign keeps the last of them, add adds all. ttl_s: the rows expire so many seconds after
    the batch is accepted, 0 for never; None: as the table has it or, of rows that are added to, as they have it.
    """

    table: str
    op: str  # one of OPS
    ids: NDArray[np.uint64]  # [n]
    rows: NDArray[np.float32] | None = None  # [n, dim]; none for delete
    dtype: str = "f32"  # of the rows on the wire
    wire_rows: rowtypes.WireRows | None = None  # `rows` in that dtype, where they were encoded before
    ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class UpdateReply:
    """The service's answer to a batch. A producer keeps the batch until `durable` has reached `position`.

    quarantined: positions of the newest of its batches that are set aside, ascending; quarantined_count: of all.
    """

    position: int
    history: str
    durable: int
    duplicate: bool
    quarantined: tuple[int, ...] = ()
    quarantined_count: int = 0


@dataclass(frozen=True, slots=True)
class ProducerState:
    """Where a producer stands: its next batch is last_seq + 1, and `mark` is what its last accepted batch carried.

    last_epoch: the epoch under which that one was accepted; 0 where there is none. quarantined: as in UpdateReply.
    """

    epoch: int
    last_seq: int
    last_epoch: int
    mark: bytes
    position: int
    history: str
    quarantined: tuple[int, ...] = ()
    quarantined_count: int = 0


def encode_update(
    producer: str, epoch: int, seq: int, mark: bytes | None, changes: Sequence[Change], ack: str = "durable"
) -> bytes:
    """The body of POST /v1/updates; the same arguments give the same bytes.

    Raises ValueError for what the service would refuse whatever its tables are; NaN and infinity with the first ids.
    """
    _check_batch(producer, epoch, seq, mark, changes, ack)
    request: dict[str, object] = {"producer": producer, "epoch": epoch, "seq": seq}
    if mark is not None:
        request["mark"] = mark
    request["changes"] = [_change_map(change) for change in changes]
    request["ack"] = ack
    packed: bytes = msgpack.packb(request)
    return packed


def with_epoch(body: bytes, epoch: int) -> bytes:
    """An encoded batch as a producer sends it that has opened again: the same but for the epoch."""
    request = msgpack.unpackb(body)
    request["epoch"] = epoch
    packed: bytes = msgpack.packb(request)
    return packed


def mark_of(body: bytes) -> bytes:
    """The mark that an encoded batch carries."""
    mark: bytes = msgpack.unpackb(body).get("mark", b"")
    return mark


def change_bytes(table: str) -> int:
    """What a change takes in a body beside its ids and rows, at most."""
    return _CHANGE_BYTES + len(table.encode())


def check_finite(table: str, op: str, ids: NDArray[np.uint64], rows: NDArray[np.float32]) -> None:
    """Raises ValueError, with the first ids, where rows [n, dim] of ids [n] hold NaN or infinity."""
    finite = np.isfinite(rows)
    if finite.all():
        return
    bad = ids[~finite.all(axis=1)]
    named = ", ".join(str(feature_id) for feature_id in bad[:_NAMED_IDS].tolist())
    more = ", ..." if len(bad) > _NAMED_IDS else ""
    raise ValueError(f"table {table}: {op} has NaN or infinity in {len(bad)} of {len(ids)} rows: ids {named}{more}")


def check_ttl(table: str, ttl_s: object) -> int:
    """The seconds after which rows expire; ValueError for what can be none."""
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | np.integer) or not 0 <= ttl_s <= MAX_TTL_S:
        raise ValueError(f"table {table}: ttl_s is {ttl_s!r:.60}, not whole seconds from 0 to {MAX_TTL_S}")
    return int(ttl_s)


def _check_batch(producer: str, epoch: int, seq: int, mark: bytes | None, changes: Sequence[Change], ack: str) -> None:
    if not _PRODUCER.fullmatch(producer):
        raise ValueError(f"producer {producer!r} is not 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    if not 0 <= epoch < 1 << 64:
        raise ValueError(f"epoch {epoch} is no u64")
    if not 1 <= seq < 1 << 64:
        raise ValueError(f"seq {seq} is no u64 above 0")
    if mark is not None and len(mark) > MAX_MARK_BYTES:
        raise ValueError(f"the mark has {len(mark)} bytes, more than {MAX_MARK_BYTES}")
    if not 1 <= len(changes) <= MAX_CHANGES:
        raise ValueError(f"a batch of {len(changes)} changes; it takes 1 to {MAX_CHANGES}")
    if ack not in ACKS:
        raise ValueError(f"ack {ack!r} is none of {', '.join(ACKS)}")


def _change_map(change: Change) -> dict[str, object]:
    _check_shapes(change)
    entry: dict[str, object] = {
        "table": change.table,
        "op": change.op,
        "ids": np.ascontiguousarray(change.ids, "<u8").data,
    }
    if change.rows is None:
        return entry
    check_finite(change.table, change.op, change.ids, change.rows)
    encoded = change.wire_rows or rowtypes.encode(change.rows, rowtypes.code_of(change.dtype))
    entry |= {"dtype": change.dtype, "rows": encoded.values.data}
    if encoded.scale is not None and encoded.bias is not None:
        entry |= {"scale": encoded.scale.data, "bias": encoded.bias.data}
    if change.ttl_s is not None:
        entry["ttl_s"] = check_ttl(change.table, change.ttl_s)
    return entry


def _check_shapes(change: Change) -> None:
    table, op, ids, rows = change.table, change.op, change.ids, change.rows
    if op not in OPS:
        raise ValueError(f"table {table}: op {op!r} is none of {', '.join(OPS)}")
    if ids.dtype != np.uint64 or ids.ndim != 1:
        raise ValueError(f"table {table}: ids are {ids.dtype} {list(ids.shape)}, not uint64 [n]")
    if (rows is None) != (op == DELETE):
        raise ValueError(f"table {table}: {op} " + ("takes no rows" if op == DELETE else "needs rows"))
    if rows is not None and (rows.dtype != np.float32 or rows.ndim != 2 or len(rows) != len(ids)):
        raise ValueError(f"table {table}: rows are {rows.dtype} {list(rows.shape)}, not float32 [{len(ids)}, dim]")


def decode_update_reply(body: Body) -> UpdateReply:
    """The body of a 200 or 202 from /v1/updates. Raises ProtocolError where it is not what the protocol says."""
    reply = decode_map(body)
    return UpdateReply(
        *(_u64(reply, "position"), _get(reply, "history", str), _u64(reply, "durable")),
        *(_get(reply, "duplicate", bool), *_quarantined(reply)),
    )


def decode_producer(body: Body) -> ProducerState:
    """The body of a 200 from /v1/producers/{producer}. Raises ProtocolError where it is not what the protocol says."""
    reply = decode_map(body)
    epoch, last_seq, last_epoch, position = (
        _u64(reply, key) for key in ("epoch", "last_seq", "last_epoch", "position")
    )
    history = _get(reply, "history", str)
    return ProducerState(epoch, last_seq, last_epoch, _mark(reply), position, history, *_quarantined(reply))


def _quarantined(reply: dict[str, Any]) -> tuple[tuple[int, ...], int]:
    """Positions of batches that are set aside, and their number; none where the service does not say."""
    if "quarantined" not in reply:
        return (), 0
    positions = _get(reply, "quarantined", list)
    if not all(type(position) is int and position >= 0 for position in positions):
        raise ProtocolError(f"key 'quarantined' is {positions!r:.80}, not positions")
    return tuple(positions), _u64(reply, "quarantined_count")


def _mark(reply: dict[str, Any]) -> bytes:
    mark = reply.get("mark")
    if type(mark) is memoryview:  # as large replies have it
        mark = bytes(mark)
    if type(mark) is not bytes or len(mark) > MAX_MARK_BYTES:
        raise ProtocolError(f"key 'mark' is {mark!r:.80}, not at most {MAX_MARK_BYTES} bytes")
    return mark


def _u64(reply: dict[str, Any], key: str) -> int:
    value = _get(reply, key, int)
    if value < 0:
        raise ProtocolError(f"key {key!r} is {value}, not a u64")
    return value


def _get(reply: dict[str, Any], key: str, kind: type[_T]) -> _T:
    value = reply.get(key)
    if type(value) is not kind:
        raise ProtocolError(
            f"key {key!r} " + (f"is no {kind.__name__}: {value!r:.80}" if key in reply else "is missing")
        )
    return value
