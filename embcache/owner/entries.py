"""Entries of the update log: batches of updates, sweeps and changes of tables, and their form in bytes.

    u32  bytes of the msgpack map
    map  a batch: {"producer", "epoch", "seq", "mark", "digest", "at",
                   "changes": [[version, op, dtype, n, row_bytes, versions that follow ...], ...],
                   and, where some change says it, "ttls": [seconds or nil of each change],
                   and of one that is what is left of a batch that was set aside, "released": that one's position}
         a sweep: {"sweep": when its rows had expired, in ms, "changes": as above}
         a change of tables: {"tables": {name: as in the catalogue, or nil}, "new", "rows"}
         or, as it was in format 1 of the catalogue: {"name", "table", "rows"}
    then, each padded to 8 bytes from the start: ids u64 [n] and encoded rows u8 [n, row_bytes] of each of `changes`
All numbers little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgpack
import numpy as np
from numpy.typing import NDArray

from embcache.local.frames import padded
from embcache.owner.catalogue import Table, TableChange
from embcache.owner.updates import Batch, RowsChange, Sweep

Entry: TypeAlias = Batch | Sweep | TableChange

_LENGTH = struct.Struct("<I")


def to_payload(entry: Entry) -> memoryview:
    """An entry as it stands in the log."""
    if isinstance(entry, TableChange):
        tables = {name: None if table is None else table.to_json() for name, table in entry.tables.items()}
        return _filled({"tables": tables, "new": entry.new, "rows": entry.rows}, [])
    head: dict[str, Any] = {"sweep": entry.at}
    if isinstance(entry, Batch):
        head = {key: getattr(entry, key) for key in ("producer", "epoch", "seq", "mark", "digest", "at")}
        head |= {"released": entry.released} if entry.released else {}
    head["changes"] = [[c.version, c.op, c.dtype, len(c.ids), c.rows.shape[1], *c.followers] for c in entry.changes]
    ttls = [change.ttl_s for change in entry.changes]
    if ttls.count(None) < len(ttls):
        head["ttls"] = ttls
    return _filled(head, [array for change in entry.changes for array in (change.ids, change.rows)])


def from_payload(payload: bytes | memoryview) -> Entry:
    """The entry of `to_payload`. A batch's arrays look into `payload`."""
    (length,) = _LENGTH.unpack_from(payload)
    head = msgpack.unpackb(payload[_LENGTH.size : _LENGTH.size + length])
    if "table" in head:
        table = _table(head["table"])
        return TableChange({head["name"]: table}, 0 if table is None else table.live.number, head["rows"])
    if "tables" in head:
        return TableChange({name: _table(told) for name, told in head["tables"].items()}, head["new"], head["rows"])
    changes = _changes(head.pop("changes"), head.pop("ttls", None), payload, padded(_LENGTH.size + length))
    return Sweep(head["sweep"], changes) if "sweep" in head else Batch(changes=changes, **head)


def _changes(
    told: Sequence[Any], ttls: Sequence[int | None] | None, payload: bytes | memoryview, at: int
) -> tuple[RowsChange, ...]:
    """Changes as they are told, whose arrays begin at a byte of the payload."""
    changes = []
    for (version, op, dtype, n, row_bytes, *followers), ttl_s in zip(told, ttls or [None] * len(told), strict=True):
        ids = np.frombuffer(payload, np.uint64, n, at)
        at += 8 * n
        rows = np.frombuffer(payload, np.uint8, n * row_bytes, at).reshape(n, row_bytes)
        at += padded(n * row_bytes)
        changes.append(RowsChange(version, op, dtype, ids, rows, tuple(followers), ttl_s))
    return tuple(changes)


def _table(told: Mapping[str, Any] | None) -> Table | None:
    return None if told is None else Table.from_json(told)


def _filled(head: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> memoryview:
    """A map and the arrays behind it. NumPy copies large ones without the GIL, which a join of bytes would hold."""
    packed = msgpack.packb(head)
    start = padded(_LENGTH.size + len(packed))
    payload = np.zeros(start + sum(padded(array.nbytes) for array in arrays), np.uint8)
    payload[:start] = np.frombuffer(b"".join((_LENGTH.pack(len(packed)), packed)).ljust(start, b"\0"), np.uint8)
    for array in arrays:
        payload[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        start += padded(array.nbytes)
    return payload.data
