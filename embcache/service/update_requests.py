"""What an update's msgpack body asks for: checked key by key, rows brought into their encoded form. Does no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache.errors import DimensionMismatch, MalformedRequest, TooLarge
from embcache.host.convert import row_bytes_of
from embcache.service import guard
from embcache.service.fields import (
    F32,
    MAX_U64,
    U8,
    U64,
    array_of,
    clip,
    hashed,
    mistyped,
    optional,
    unknown_key,
    unpack_map,
    unsigned,
    unsupported_dtype,
)
from embcache.spec import DTYPES
from embcache.updatecalls import Change
from embcache_client.updates import MAX_CHANGES, MAX_MARK_BYTES, MAX_TTL_S, OPS

_MAX_DEPTH = 4  # request, changes, a change, its values
_KEYS_AND_VALUES = 16 + 16 * MAX_CHANGES
_REQUEST_KEYS = frozenset(("producer", "epoch", "seq", "mark", "changes", "ack"))
_CHANGE_KEYS = frozenset(("table", "op", "ids", "values", "dtype", "rows", "scale", "bias", "ttl_s"))


@dataclass(frozen=True, slots=True)
class UpdateRequest:
    """A batch, checked as far as that goes in a front. `applied`: answer once it is applied."""

    producer: str
    epoch: int
    seq: int
    mark: bytes
    changes: list[Change]
    applied: bool


def parse_update(body: bytes, max_rows: int, feature_of: Callable[[str], str]) -> UpdateRequest:
    """The request in `body`. MalformedRequest and its kin, TooLarge.

    Whether its tables are there, and have rows of that length, the owner says, once it knows that the batch is no
    duplicate of one from before they went. `feature_of` is asked for raw values alone; it may raise UnknownTable.
    """
    pairs = guard.measure(body, _MAX_DEPTH, max_rows + _KEYS_AND_VALUES)
    request = unpack_map(body)
    if not request.keys() <= _REQUEST_KEYS:
        unknown_key("", request.keys() - _REQUEST_KEYS, _REQUEST_KEYS)
    pairs -= len(request)
    entries = request.get("changes")
    if type(entries) is not list:
        mistyped("changes", entries, "an array of maps", "changes" in request)
    if not 1 <= len(entries) <= MAX_CHANGES:
        raise MalformedRequest(f"changes: {len(entries)} of them; a batch holds 1 to {MAX_CHANGES}")
    changes = []
    for place, entry in enumerate(entries):
        changes.append(_change(entry, f"changes[{place}]", feature_of))
        pairs -= len(entry)
    if pairs:
        raise MalformedRequest("a key stands twice in one map of the request: give each key once")
    rows = sum(change.ids.size for change in changes)
    if rows > max_rows:
        raise TooLarge(
            f"the batch has {rows} rows; at most {max_rows} go in one, so send several",
            {"max_ids_per_request": max_rows},
        )
    ack = request.get("ack", "durable")
    if ack not in ("durable", "applied"):
        raise MalformedRequest(f'ack: {clip(ack)} should be "durable" or "applied"')
    producer = optional(request, "producer", str)
    if producer is None:
        mistyped("producer", None, "a producer's name", present=False)
    return UpdateRequest(
        producer, _needed(request, "epoch", 0), _needed(request, "seq", 1), _mark(request), changes, ack == "applied"
    )


def _needed(request: dict[str, Any], key: str, least: int) -> int:
    value = unsigned(request, key, MAX_U64)
    if value is None or value < least:
        mistyped(key, value, f"an integer from {least} to {MAX_U64}", key in request)
    return value


def _mark(request: dict[str, Any]) -> bytes:
    mark: bytes = optional(request, "mark", bytes) or b""
    if len(mark) > MAX_MARK_BYTES:
        raise MalformedRequest(f"mark: {len(mark)} bytes; it has {MAX_MARK_BYTES} at most")
    return mark


def _change(entry: Any, where: str, feature_of: Callable[[str], str]) -> Change:
    if type(entry) is not dict:
        mistyped(where, entry, "a map")
    if not entry.keys() <= _CHANGE_KEYS:
        unknown_key(f"{where}.", entry.keys() - _CHANGE_KEYS, _CHANGE_KEYS)
    table, op = entry.get("table"), entry.get("op")
    if type(table) is not str:
        mistyped(f"{where}.table", table, "a table's name", "table" in entry)
    if op not in OPS:
        raise MalformedRequest(f"{where}.op: {clip(op)} should be one of {', '.join(OPS)}")
    ids = array_of(entry, "ids", U64, where)
    if ids is None:
        ids = hashed(entry, where, feature_of, table)
    elif "values" in entry:
        raise MalformedRequest(f"{where}: has ids and values; give one of them")
    if op == "delete":
        if extra := entry.keys() & {"rows", "dtype", "scale", "bias", "ttl_s"}:
            raise MalformedRequest(f"{where}.{min(extra)}: a delete has no rows")
        return Change(table, op, ids)
    dtype = entry.get("dtype", "f32")
    if dtype not in DTYPES:
        unsupported_dtype(dtype)
    return Change(table, op, ids, _rows(entry, where, ids.size, dtype), dtype, _ttl(entry, where))


def _ttl(entry: dict[str, Any], where: str) -> int | None:
    ttl_s = entry.get("ttl_s")
    if ttl_s is not None and (type(ttl_s) is not int or not 0 <= ttl_s <= MAX_TTL_S):
        mistyped(f"{where}.ttl_s", ttl_s, f"whole seconds from 0 to {MAX_TTL_S}")
    return ttl_s


def _rows(entry: dict[str, Any], where: str, count: int, dtype: str) -> NDArray[np.uint8]:
    """Encoded rows u8 [count, row_bytes]; what travels is used where it lies, but for q8."""
    raw = array_of(entry, "rows", U8, where)
    if raw is None:
        mistyped(f"{where}.rows", None, "a bin", present=False)
    element = row_bytes_of(DTYPES.index(dtype), 1) if dtype != "q8" else 1
    if raw.size % (max(count, 1) * element) or bool(count) != bool(raw.size):
        raise DimensionMismatch(f"{where}.rows: {raw.size} bytes; they are not {count} rows of {dtype} of one length")
    rows = raw.reshape(count, raw.size // max(count, 1))
    if dtype != "q8":
        if extra := entry.keys() & {"scale", "bias"}:
            raise MalformedRequest(f"{where}.{min(extra)}: goes with dtype q8, not with {dtype}")
        return rows
    encoded = np.empty((count, 8 + rows.shape[1]), np.uint8)
    for place, key in ((0, "scale"), (4, "bias")):
        values = array_of(entry, key, F32, where)
        if values is None or values.size != count:
            raise DimensionMismatch(
                f"{where}.{key}: {0 if values is None else values.size} numbers for {count} rows; one each"
            )
        encoded[:, place : place + 4] = values.view(np.uint8).reshape(count, 4)
    encoded[:, 8:] = rows
    return encoded
