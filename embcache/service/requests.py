"""What a lookup's msgpack body asks for: checked key by key, turned into queries on arrays. Does no I/O.

Every complaint names the place (`queries[3].ids`), what stands there, and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import msgpack
import numpy as np
from numpy.typing import NDArray

from embcache.errors import DimensionMismatch, MalformedRequest, TooLarge, UnsupportedDtype
from embcache.features import hash_values
from embcache.lookup import Query
from embcache.service import guard
from embcache.spec import DTYPES
from embcache.validation import nearest

MAX_QUERIES = 256
MAX_DEPTH = 4  # request, queries, a query, its values
_MAX_U32, _MAX_U64 = 2**32 - 1, 2**64 - 1
_KEYS_AND_VALUES = 16 + 16 * MAX_QUERIES  # elements of a request beside its feature values

_REQUEST_KEYS = frozenset(("queries", "dtype", "strict", "min_position", "history", "deadline_ms"))
_FIRST_KEYS = frozenset(("queries", "dtype"))
_QUERY_KEYS = frozenset(("table", "version", "ids", "values", "lengths", "pooling", "weights"))
_KINDS = {
    str: "a string",
    bytes: "a bin",
    bool: "true or false",
    int: "an integer",
    float: "a float",
    list: "an array",
    dict: "a map",
    type(None): "nil",
}
_U32, _U64, _F32 = np.dtype("<u4"), np.dtype("<u8"), np.dtype("<f4")


@dataclass(slots=True)
class LookupRequest:
    """A lookup, checked as far as that goes without knowing the tables."""

    queries: list[Query]
    dtype: str
    strict: bool = False
    min_position: int = 0
    history: str | None = None
    deadline_ms: int | None = None


def parse_lookup(body: bytes, max_ids: int, feature_of: Callable[[str], str]) -> LookupRequest:
    """The request in `body`. `feature_of` names the feature of a table, or raises UnknownTable.

    Raises MalformedRequest and its kin, TooLarge, UnknownTable.
    """
    pairs = guard.measure(body, MAX_DEPTH, max_ids + _KEYS_AND_VALUES)
    request = unpack_map(body)
    if not request.keys() <= _REQUEST_KEYS:
        _unknown_key("", request.keys() - _REQUEST_KEYS, _REQUEST_KEYS)
    pairs -= len(request)
    queries = []
    for place, entry in enumerate(_entries(request)):
        queries.append(_query(entry, place, feature_of))
        pairs -= len(entry)
    if pairs:
        raise MalformedRequest("a key stands twice in one map of the request: give each key once")
    _check_size(queries, max_ids)
    dtype = request.get("dtype", "f32")
    if dtype not in DTYPES:
        _unsupported_dtype(dtype)
    if request.keys() <= _FIRST_KEYS:
        return LookupRequest(queries, dtype)
    return LookupRequest(
        queries,
        dtype,
        _optional(request, "strict", bool) or False,
        _unsigned(request, "min_position", _MAX_U64) or 0,
        _optional(request, "history", str),
        _unsigned(request, "deadline_ms", _MAX_U32),
    )


def unpack_map(body: bytes) -> dict[str, Any]:
    """The one map in a msgpack body that the guard has passed."""
    try:
        value = msgpack.unpackb(body)
    except (ValueError, TypeError) as error:  # text that is not UTF-8, keys that are not text
        raise MalformedRequest(f"the msgpack body cannot be decoded: {error}") from None
    if type(value) is not dict:
        raise MalformedRequest(f"the body should be a msgpack map, not {_kind(value)}")
    return value


def _entries(request: dict[str, Any]) -> list[Any]:
    entries = request.get("queries")
    if type(entries) is not list:
        _mistyped("queries", entries, "an array of maps", "queries" in request)
    if not 1 <= len(entries) <= MAX_QUERIES:
        raise MalformedRequest(f"queries: {len(entries)} of them; a request holds 1 to {MAX_QUERIES}")
    return entries


def _query(entry: Any, place: int, feature_of: Callable[[str], str]) -> Query:
    if type(entry) is not dict:
        _mistyped(f"queries[{place}]", entry, "a map")
    if not entry.keys() <= _QUERY_KEYS:
        _unknown_key(f"queries[{place}].", entry.keys() - _QUERY_KEYS, _QUERY_KEYS)
    table = entry.get("table")
    if type(table) is not str:
        _mistyped(f"queries[{place}].table", table, "a table's name", "table" in entry)
    ids = _array(entry, "ids", _U64, place)
    if ids is None:
        ids = _hashed(entry, place, feature_of, table)
    elif "values" in entry:
        raise MalformedRequest(f"queries[{place}]: has ids and values; give one of them")
    if len(entry) == 2:
        return Query(table, ids)
    version = entry.get("version")
    if version is not None and type(version) is not str:
        _mistyped(f"queries[{place}].version", version, "a version's label")
    return Query(table, ids, version, *_bags(entry, place, ids.size))


def _bags(
    entry: dict[str, Any], place: int, count: int
) -> tuple[NDArray[np.uint32] | None, str | None, NDArray[np.float32] | None]:
    """(lengths, pooling, weights) of a query of `count` IDs."""
    lengths, weights = _array(entry, "lengths", _U32, place), _array(entry, "weights", _F32, place)
    pooling = entry.get("pooling")
    if pooling is not None and pooling not in ("sum", "mean"):
        raise MalformedRequest(f'queries[{place}].pooling: {_clip(pooling)} should be "sum" or "mean"')
    if (lengths is None) != (pooling is None):
        absent, present = ("lengths", "pooling") if lengths is None else ("pooling", "lengths")
        raise MalformedRequest(f"queries[{place}]: has {present} but no {absent}; bags need both")
    if lengths is not None and (total := int(lengths.sum(dtype=np.uint64))) != count:
        raise DimensionMismatch(f"queries[{place}].lengths: sum to {total}, and should to the {count} ids")
    if weights is not None:
        if pooling != "sum":
            raise MalformedRequest(f'queries[{place}].weights: go with pooling "sum", not with {_clip(pooling)}')
        if weights.size != count:
            raise DimensionMismatch(f"queries[{place}].weights: {weights.size} of them for {count} ids; one each")
    return lengths, pooling, weights


def _array(entry: dict[str, Any], key: str, dtype: np.dtype[Any], place: int) -> NDArray[Any] | None:
    """The bin at `key` as an array, where it is there: decoded bytes lie aligned, so nothing is copied."""
    raw = entry.get(key)
    if raw is None and key not in entry:
        return None
    if type(raw) is not bytes:
        _mistyped(f"queries[{place}].{key}", raw, f"a bin of {dtype.name}, little-endian")
    if len(raw) % dtype.itemsize:
        raise MalformedRequest(
            f"queries[{place}].{key}: {len(raw)} bytes; it should be a multiple of {dtype.itemsize} ({dtype.name} each)"
        )
    return np.frombuffer(raw, dtype)


def _hashed(entry: dict[str, Any], place: int, feature_of: Callable[[str], str], table: str) -> NDArray[np.uint64]:
    values = entry.get("values")
    if type(values) is not list:
        if "values" not in entry:
            raise MalformedRequest(f"queries[{place}]: has neither ids nor values; give one of them")
        _mistyped(f"queries[{place}].values", values, "an array of strings, bins or integers")
    try:
        return hash_values(feature_of(table), values)
    except MalformedRequest as error:
        raise MalformedRequest(f"queries[{place}].values: {error.message}", error.detail) from None


def _check_size(queries: list[Query], max_ids: int) -> None:
    """Bounds the IDs and the rows of all queries together; a bag without IDs has a row too."""
    ids = rows = 0
    for query in queries:
        ids += query.ids.size
        rows += query.ids.size if query.lengths is None else query.lengths.size
    if ids > max_ids or rows > max_ids:
        what = f"{ids} ids" if ids > max_ids else f"{rows} bags"
        raise TooLarge(
            f"the request asks for {what}; at most {max_ids} go in one, so split it", {"max_ids_per_request": max_ids}
        )


def _optional(request: dict[str, Any], key: str, kind: type) -> Any:
    value = request.get(key)
    if value is not None and type(value) is not kind:
        _mistyped(key, value, _KINDS[kind])
    return value


def _unsigned(request: dict[str, Any], key: str, most: int) -> int | None:
    value = request.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= most:
        _mistyped(key, value, f"an integer from 0 to {most}")
    return value


def _unknown_key(where: str, unknown: Iterable[str], right: frozenset[str]) -> NoReturn:
    key = min(unknown)
    hint = nearest(key, sorted(right))
    raise MalformedRequest(
        f"{where}{_clip(key)[1:-1]}: no such key; the nearest right one is {hint}", {"key": key[:64]}
    )


def _unsupported_dtype(dtype: Any) -> NoReturn:
    if type(dtype) is not str:
        _mistyped("dtype", dtype, f"one of {', '.join(DTYPES)}")
    raise UnsupportedDtype(f"dtype: {_clip(dtype)} is none of {', '.join(DTYPES)}")


def _mistyped(where: str, value: Any, right: str, present: bool = True) -> NoReturn:
    if not present:
        raise MalformedRequest(f"{where}: is missing; it should be {right}")
    shown = f" {value}" if type(value) in (int, float, bool) else ""
    raise MalformedRequest(f"{where}: is {_kind(value)}{shown}; it should be {right}")


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _clip(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:56]}...'"
