"""The msgpack bodies of the data endpoints: lookups out, replies in. Does no I/O; the service shares this file.

The reply's arrays come as views into the body that was received: see unpack.py. Requests are small and are packed by
msgpack, which takes arrays as buffers.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray

from embcache_client import rowtypes
from embcache_client.errors import ProtocolError, ServiceError
from embcache_client.results import STATUS_NAMES, ChangedIds, LookupResult, RowPage, TableRows
from embcache_client.unpack import unpack

__all__ = [
    "MEDIA_TYPE",
    "MEDIA_TYPES",
    "STATUS_NAMES",
    "LookupResult",
    "Query",
    "RowPage",
    "TableRows",
    "decode_error",
    "decode_lookup_reply",
    "decode_map",
    "decode_page",
    "encode_lookup",
    "encode_page",
    "encode_prefetch",
]

MEDIA_TYPE: Final = "application/msgpack"
MEDIA_TYPES: Final = (MEDIA_TYPE, "application/x-msgpack", "application/vnd.msgpack")

Body: TypeAlias = "bytes | bytearray | memoryview | NDArray[np.uint8]"

COPIED_BYTES: Final = 32 << 10  # up to here msgpack's own unpacking, which copies, is faster than views

_BESIDE_ARRAYS: Final = 1024  # bytes of a request; where it has more, the buffer grows
_MAX_ERROR_BYTES: Final = 1 << 20
_KINDS: Final[dict[type, str]] = {str: "str", int: "int", list: "array"}
_U8: Final = np.dtype("u1")
_U64: Final = np.dtype("<u8")
_F32: Final = np.dtype("<f4")
_Column: TypeAlias = "NDArray[np.float32] | None"
_T = TypeVar("_T")

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("embcache_client sends arrays as they lie in memory and needs a little-endian machine")


@dataclass(slots=True)
class Query:
    """One entry of a lookup's `queries`. Arrays are C-contiguous and little-endian; exactly one of ids and values."""

    table: str
    ids: NDArray[np.uint64] | None = None  # [n]
    values: Sequence[str | bytes | int] | None = None  # [n] raw feature values, hashed by the service
    version: str | None = None
    lengths: NDArray[np.uint32] | None = None  # [bags]
    pooling: str | None = None  # "sum" or "mean", with lengths
    weights: NDArray[np.float32] | None = None  # [n], with pooling "sum"

    @property
    def id_count(self) -> int:
        return len(self.ids if self.ids is not None else self.values or ())

    @property
    def row_count(self) -> int:
        return self.id_count if self.lengths is None else len(self.lengths)


def encode_lookup(
    queries: Sequence[Query],
    dtype: str = "f32",
    *,
    strict: bool = False,
    min_position: int = 0,
    history: str | None = None,
    deadline_ms: int | None = None,
) -> bytes:
    """The body of POST /v1/lookup."""
    request: dict[str, object] = {"queries": [_query_map(query) for query in queries], "dtype": dtype}
    if strict:
        request["strict"] = True
    if min_position:
        request["min_position"] = min_position
    if history is not None:
        request["history"] = history
    if deadline_ms is not None:
        request["deadline_ms"] = deadline_ms
    # msgpack's own buffer is 256 KiB otherwise, for which malloc asks the system each time.
    packed: bytes = msgpack.packb(request, buf_size=_BESIDE_ARRAYS + sum(_array_bytes(query) for query in queries))
    return packed


def encode_prefetch(queries: Sequence[Query]) -> bytes:
    """The body of POST /v1/prefetch."""
    packed: bytes = msgpack.packb({"queries": [_query_map(query) for query in queries]})
    return packed


def _array_bytes(query: Query) -> int:
    arrays = (query.ids, query.lengths, query.weights)
    return sum(array.nbytes for array in arrays if array is not None)


def _query_map(query: Query) -> dict[str, object]:
    entry: dict[str, object] = {"table": query.table}
    if query.ids is not None:
        entry["ids"] = query.ids.data
    else:
        entry["values"] = query.values
    if query.version is not None:
        entry["version"] = query.version
    if query.lengths is not None:
        entry["lengths"] = query.lengths.data
        entry["pooling"] = query.pooling
    if query.weights is not None:
        entry["weights"] = query.weights.data
    return entry


def encode_page(ids: NDArray[np.uint64], rows: NDArray[np.float32], dtype: str) -> bytes:
    """The body of POST /v1/imports/{id}/rows: ids uint64 [n] ascending, rows float32 [n, dim], both C-contiguous."""
    encoded = rowtypes.encode(rows, rowtypes.code_of(dtype))
    page: dict[str, object] = {"ids": ids.data, "dtype": dtype, "rows": encoded.values.data}
    if encoded.scale is not None and encoded.bias is not None:
        page |= {"scale": encoded.scale.data, "bias": encoded.bias.data}
    packed: bytes = msgpack.packb(page)
    return packed


def decode_lookup_reply(body: Body) -> LookupResult:
    """The body of a 200 from /v1/lookup. Arrays of a body above COPIED_BYTES are views into it, where it aligns them.

    Raises ProtocolError where the body is not what the protocol says.
    """
    return _lookup_result(decode_map(body))


def decode_lookup_views(body: memoryview) -> LookupResult:
    """The same with views at any size."""
    return _lookup_result(_checked_map(unpack(body)))


def _lookup_result(reply: dict[str, Any]) -> LookupResult:
    results = [_table_rows(entry) for entry in _get(reply, "results", list)]
    return LookupResult(results, _get(reply, "position", int), _get(reply, "history", str))


def _table_rows(entry: object) -> TableRows:
    if type(entry) is not dict:
        raise ProtocolError(f"a result is {type(entry).__name__}, not a map")
    table, version, dtype, raw, scale, bias = _row_fields(entry)
    return TableRows(table, version, dtype, raw, array(entry, "status", _U8), scale=scale, bias=bias)


def decode_page(body: Body) -> RowPage:
    """The body of a 200 from GET /v1/tables/{t}/rows; views and errors as in decode_lookup_reply."""
    page = decode_map(body)
    table, version, dtype, raw, scale, bias = _row_fields(page)
    next_id = page.get("next")
    if next_id is not None and not (type(next_id) is str and next_id.isascii() and next_id.isdigit()):
        raise ProtocolError(f"key 'next' is {next_id!r}, neither nil nor a decimal id")
    ids = array(page, "ids", _U64, (len(raw),))
    return RowPage(
        table, version, dtype, raw, ids, next_id=None if next_id is None else int(next_id), scale=scale, bias=bias
    )


def encode_fetch(ids: NDArray[np.uint64], dtype: str, version: str | None) -> bytes:
    """The body of POST /v1/tables/{t}/rows: ids uint64 [n], C-contiguous."""
    asked = {"ids": ids.data, "dtype": dtype} | ({} if version is None else {"version": version})
    packed: bytes = msgpack.packb(asked)
    return packed


def decode_changed(body: Body) -> ChangedIds:
    """The body of a 200 from GET /v1/tables/{t}/changes."""
    told = decode_map(body)
    table, version, history = (_get(told, key, str) for key in ("table", "version", "history"))
    position, applied = (_get(told, key, int) for key in ("position", "applied"))
    return ChangedIds(table, version, history, position, applied, array(told, "ids", _U64))


def decode_map(body: Body) -> dict[str, Any]:
    """Any msgpack reply: one map, whose bins are bytes, or memoryviews of a body above COPIED_BYTES."""
    if len(body) > COPIED_BYTES:
        reply = unpack(body.data if isinstance(body, np.ndarray) else memoryview(body))
    else:
        try:
            reply = msgpack.unpackb(body)
        except (ValueError, msgpack.UnpackException) as error:
            raise ProtocolError(f"the reply is not msgpack: {error or type(error).__name__}") from None
    return _checked_map(reply)


def _checked_map(reply: object) -> dict[str, Any]:
    if type(reply) is not dict:
        raise ProtocolError(f"the reply is {type(reply).__name__}, not a map")
    return reply


def _row_fields(entry: dict[str, Any]) -> tuple[str, str, str, NDArray[Any], _Column, _Column]:
    """table, version, dtype, rows as an array of its shape, and for q8 scale and bias."""
    table, version = _get(entry, "table", str), _get(entry, "version", str)
    dtype, shape = _get(entry, "dtype", str), _get(entry, "shape", list)
    code = rowtypes.CODES.get(dtype)
    if code is None:
        raise ProtocolError(f"table {table}: dtype {dtype!r} is none of {', '.join(rowtypes.NAMES)}")
    if [type(size) for size in shape] != [int, int] or min(shape) < 0:
        raise ProtocolError(f"table {table}: shape {shape!r} is not [rows, dim]")
    raw = array(entry, "rows", rowtypes.ELEMENTS[code], tuple(shape))
    if code != rowtypes.Q8:
        return table, version, dtype, raw, None, None
    column = (shape[0],)
    return table, version, dtype, raw, array(entry, "scale", _F32, column), array(entry, "bias", _F32, column)


def array(entry: dict[str, Any], key: str, dtype: np.dtype[Any], shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """The bin at `key` as a writable array of `dtype`, of `shape` or else as long as it is."""
    raw = entry.get(key)
    if type(raw) is not bytes and type(raw) is not memoryview:
        raise _wrong_kind(entry, key, "bin")
    if shape is None:
        shape = (len(raw) // dtype.itemsize,)
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise ProtocolError(f"{key!r} has {len(raw)} bytes, which is not {dtype.name} {list(shape)}")
    view: NDArray[Any] = np.ndarray(shape, dtype, raw)
    return view if type(raw) is memoryview and view.flags.aligned else view.copy()


def _get(entry: dict[str, Any], key: str, kind: type[_T]) -> _T:
    value = entry.get(key)
    if type(value) is not kind:
        raise _wrong_kind(entry, key, _KINDS[kind])
    return value


def _wrong_kind(entry: dict[str, Any], key: str, wanted: str) -> ProtocolError:
    return ProtocolError(f"key {key!r} " + (f"is no {wanted}: {entry[key]!r:.80}" if key in entry else "is missing"))


def decode_error(status: int, body: Body) -> ServiceError:
    """The error that an answer of HTTP status >= 400 carries, in msgpack or JSON; or neither, from a proxy."""
    raw = bytes(body[:_MAX_ERROR_BYTES])
    try:
        reply = json.loads(raw) if raw[:1] == b"{" else msgpack.unpackb(raw)
        error = reply["error"]
        code, message, detail = error["code"], error["message"], error.get("detail") or {}
        if isinstance(code, str) and isinstance(message, str) and isinstance(detail, dict):
            return ServiceError.of(status, code, message, detail)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, msgpack.UnpackException):
        pass
    text = raw[:200].decode("utf-8", "replace").strip()
    return ServiceError.of(status, "unknown", f"HTTP {status}, not from embcache: {text!r}", {})
