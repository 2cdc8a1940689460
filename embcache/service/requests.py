"""What a lookup's msgpack body asks for: checked key by key, turned into queries on arrays. Does no I/O.

Every complaint names the place (`queries[3].ids`), what stands there, and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache.errors import DimensionMismatch, MalformedRequest, TooLarge
from embcache.lookup import Query
from embcache.service import guard
from embcache.service.fields import (
    F32,
    MAX_U32,
    MAX_U64,
    U32,
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

MAX_QUERIES = 256
MAX_DEPTH = 4  # request, queries, a query, its values
_KEYS_AND_VALUES = 16 + 16 * MAX_QUERIES  # elements of a request beside its feature values

_REQUEST_KEYS = frozenset(("queries", "dtype", "strict", "min_position", "history", "deadline_ms"))
_PREFETCH_KEYS = frozenset(("queries",))
_FIRST_KEYS = frozenset(("queries", "dtype"))
_QUERY_KEYS = frozenset(("table", "version", "ids", "values", "lengths", "pooling", "weights"))


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
    request, queries = _parsed(body, _REQUEST_KEYS, max_ids, feature_of)
    dtype = request.get("dtype", "f32")
    if dtype not in DTYPES:
        unsupported_dtype(dtype)
    if request.keys() <= _FIRST_KEYS:
        return LookupRequest(queries, dtype)
    return LookupRequest(
        queries,
        dtype,
        optional(request, "strict", bool) or False,
        unsigned(request, "min_position", MAX_U64) or 0,
        optional(request, "history", str),
        unsigned(request, "deadline_ms", MAX_U32),
    )


def parse_prefetch(body: bytes, max_ids: int, feature_of: Callable[[str], str]) -> list[Query]:
    """The queries of a prefetch, which are a lookup's. The same errors."""
    return _parsed(body, _PREFETCH_KEYS, max_ids, feature_of)[1]


def _parsed(
    body: bytes, keys: frozenset[str], max_ids: int, feature_of: Callable[[str], str]
) -> tuple[dict[str, Any], list[Query]]:
    """A request that may have these keys, and its queries."""
    pairs = guard.measure(body, MAX_DEPTH, max_ids + _KEYS_AND_VALUES)
    request = unpack_map(body)
    if not request.keys() <= keys:
        unknown_key("", request.keys() - keys, keys)
    pairs -= len(request)
    queries = []
    for place, entry in enumerate(_entries(request)):
        queries.append(_query(entry, place, feature_of))
        pairs -= len(entry)
    if pairs:
        raise MalformedRequest("a key stands twice in one map of the request: give each key once")
    _check_size(queries, max_ids)
    return request, queries


def _entries(request: dict[str, Any]) -> list[Any]:
    entries = request.get("queries")
    if type(entries) is not list:
        mistyped("queries", entries, "an array of maps", "queries" in request)
    if not 1 <= len(entries) <= MAX_QUERIES:
        raise MalformedRequest(f"queries: {len(entries)} of them; a request holds 1 to {MAX_QUERIES}")
    return entries


def _query(entry: Any, place: int, feature_of: Callable[[str], str]) -> Query:
    where = f"queries[{place}]"
    if type(entry) is not dict:
        mistyped(where, entry, "a map")
    if not entry.keys() <= _QUERY_KEYS:
        unknown_key(f"{where}.", entry.keys() - _QUERY_KEYS, _QUERY_KEYS)
    table = entry.get("table")
    if type(table) is not str:
        mistyped(f"{where}.table", table, "a table's name", "table" in entry)
    ids = array_of(entry, "ids", U64, where)
    if ids is None:
        ids = hashed(entry, where, feature_of, table)
    elif "values" in entry:
        raise MalformedRequest(f"{where}: has ids and values; give one of them")
    if len(entry) == 2:
        return Query(table, ids)
    version = entry.get("version")
    if version is not None and type(version) is not str:
        mistyped(f"{where}.version", version, "a version's label")
    return Query(table, ids, version, *_bags(entry, where, ids.size))


def _bags(
    entry: dict[str, Any], where: str, count: int
) -> tuple[NDArray[np.uint32] | None, str | None, NDArray[np.float32] | None]:
    """(lengths, pooling, weights) of a query of `count` IDs."""
    lengths, weights = array_of(entry, "lengths", U32, where), array_of(entry, "weights", F32, where)
    pooling = entry.get("pooling")
    if pooling is not None and pooling not in ("sum", "mean"):
        raise MalformedRequest(f'{where}.pooling: {clip(pooling)} should be "sum" or "mean"')
    if (lengths is None) != (pooling is None):
        absent, present = ("lengths", "pooling") if lengths is None else ("pooling", "lengths")
        raise MalformedRequest(f"{where}: has {present} but no {absent}; bags need both")
    if lengths is not None and (total := int(lengths.sum(dtype=np.uint64))) != count:
        raise DimensionMismatch(f"{where}.lengths: sum to {total}, and should to the {count} ids")
    if weights is not None:
        if pooling != "sum":
            raise MalformedRequest(f'{where}.weights: go with pooling "sum", not with {clip(pooling)}')
        if weights.size != count:
            raise DimensionMismatch(f"{where}.weights: {weights.size} of them for {count} ids; one each")
    return lengths, pooling, weights


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
