"""Lookups as calls: what the caller passes becomes queries, and the answer is held against them. Does no I/O."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embcache_client import rowtypes, wire
from embcache_client.call import Call
from embcache_client.errors import ProtocolError
from embcache_client.http1 import Response
from embcache_client.outline import Outlines
from embcache_client.results import LookupResult
from embcache_client.wire import Query

T = TypeVar("T")
TARGET: Final = "/v1/lookup"
POOLINGS: Final = ("sum", "mean")
_outlines: Final = Outlines()  # of all clients: what belongs to another service does not fit
MEDIA_TYPES: Final = tuple(name.encode() for name in wire.MEDIA_TYPES)


class Values:
    """Raw feature values (str, bytes, or int within i64), which the service hashes as the table's feature.

    Lists of str or bytes are taken so without it; it is needed for integers, which otherwise are feature IDs.
    """

    __slots__ = ("values",)

    def __init__(self, values: Sequence[str | bytes | int] | NDArray[np.generic]) -> None:
        self.values: list[str | bytes | int] = values.tolist() if isinstance(values, np.ndarray) else list(values)


Ids = ArrayLike | Sequence[str] | Sequence[bytes] | Values
Versions = str | Mapping[str, str] | None


def lookup_call(
    tables: Mapping[str, Ids],
    *,
    dtype: str,
    strict: bool,
    min_position: int,
    history: str | None,
    deadline_ms: int | None,
    version: Versions,
) -> Call[LookupResult]:
    """Raises ValueError or TypeError for arguments that can never be right."""
    queries = queries_of(tables, version)
    return call_of(queries, dtype, strict=strict, min_position=min_position, history=history, deadline_ms=deadline_ms)


def queries_of(tables: Mapping[str, Ids], version: Versions) -> list[Query]:
    """The queries of a lookup of rows; TypeError or ValueError where they can never be right."""
    return [query_of(table, ids, version) for table, ids in items_of(tables, "ids")]


def lookup_bags_call(
    tables: Mapping[str, tuple[Any, ...]],
    *,
    pooling: str,
    dtype: str,
    strict: bool,
    min_position: int,
    history: str | None,
    deadline_ms: int | None,
    version: Versions,
) -> Call[LookupResult]:
    """Raises ValueError or TypeError for arguments that can never be right."""
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is none of {', '.join(POOLINGS)}")
    queries = [bag_query_of(table, bags, pooling, version) for table, bags in items_of(tables, "(ids, lengths)")]
    return call_of(queries, dtype, strict=strict, min_position=min_position, history=history, deadline_ms=deadline_ms)


def items_of(tables: Mapping[str, T], each: str) -> ItemsView[str, T]:
    if not isinstance(tables, Mapping):
        raise TypeError(f"tables are {type(tables).__name__}, not a dict of a table's name -> {each}")
    return tables.items()


def check(queries: Sequence[Query], dtype: str, *, min_position: int, deadline_ms: int | None, **_: Any) -> None:
    """ValueError for conditions of a lookup that can never be right."""
    if not queries:
        raise ValueError("a lookup needs at least one table")
    rowtypes.code_of(dtype)
    if not 0 <= min_position < 1 << 64:
        raise ValueError(f"min_position {min_position} is no u64")
    if deadline_ms is not None and not 0 < deadline_ms < 1 << 32:
        raise ValueError(f"deadline_ms is {deadline_ms}, not a number of milliseconds above 0 and below 2^32")


def body_of(queries: Sequence[Query], dtype: str, **conditions: Any) -> bytes:
    """The body of a lookup; ValueError for conditions that can never be right."""
    check(queries, dtype, **conditions)
    return wire.encode_lookup(queries, dtype, **conditions)


def call_of(queries: Sequence[Query], dtype: str, **conditions: Any) -> Call[LookupResult]:
    """The call that asks for all of them; ValueError for conditions that can never be right."""
    body = body_of(queries, dtype, **conditions)
    asked = tuple((query.table, dtype, query.row_count, query.id_count) for query in queries)

    def read(response: Response) -> LookupResult:
        if response.media_type not in MEDIA_TYPES:
            raise ProtocolError(f"the answer to a lookup is {response.media_type!r}, not {wire.MEDIA_TYPE}")
        result = _outlines.read(asked, response.body)
        return _decode(asked, response.body) if result is None else result

    return Call("POST", TARGET, read, body, wire.MEDIA_TYPE)


def _decode(asked: tuple[tuple[str, str, int, int], ...], body: bytes | NDArray[np.uint8]) -> LookupResult:
    result = wire.decode_lookup_reply(body)
    answered = tuple((rows.table, rows.dtype, len(rows.raw), len(rows.status)) for rows in result.results)
    if answered != asked:
        raise ProtocolError(f"asked for (table, dtype, rows, ids) {asked}, answered with {answered}")
    _outlines.learn(asked, body)
    return result


def query_of(table: str, ids: Ids, version: Versions) -> Query:
    """The query that a caller's ids (or raw values) mean; TypeError or ValueError where they mean none."""
    if not isinstance(table, str):
        raise TypeError(f"a table's name is {type(table).__name__}, not str")
    chosen = version if version is None or isinstance(version, str) else version.get(table)
    if isinstance(ids, Values):
        return Query(table, values=ids.values, version=chosen)
    if isinstance(ids, str | bytes):
        raise TypeError(f"table {table}: {ids!r:.40} is one {type(ids).__name__}, not a list of them")
    array = np.asarray(ids)
    if array.dtype.kind in "US" or (array.dtype.kind == "O" and _are_values(array)):
        return Query(table, values=_strings(table, ids), version=chosen)
    return Query(table, feature_ids(table, array, ids), version=chosen)


def bag_query_of(table: str, bags: tuple[Any, ...], pooling: str, version: Versions) -> Query:
    """The same for bags: (ids, lengths) or (ids, lengths, weights)."""
    if not isinstance(bags, tuple) or len(bags) not in (2, 3):
        raise TypeError(f"table {table}: bags are a tuple (ids, lengths) or (ids, lengths, weights)")
    query = query_of(table, bags[0], version)
    query.pooling = pooling
    query.lengths = _lengths(table, bags[1], query.id_count)
    if len(bags) == 3 and bags[2] is not None:
        if pooling != "sum":
            raise ValueError(f"table {table}: weights need pooling 'sum', not {pooling!r}")
        query.weights = np.ascontiguousarray(bags[2], "<f4")
        if query.weights.shape != (query.id_count,):
            raise ValueError(f"table {table}: weights of shape {query.weights.shape} for {query.id_count} ids")
    return query


def feature_ids(table: str, array: NDArray[Any], given: object) -> NDArray[np.uint64]:
    """uint64 [n], C-contiguous, of what the caller gave as feature IDs, `array` being the array NumPy makes of it."""
    if array.ndim != 1:
        raise ValueError(f"table {table}: ids have {array.ndim} dimensions, not 1")
    if array.dtype.kind in "Of" and isinstance(given, list | tuple):
        return _large_ints(table, given)
    if array.dtype.kind not in "iu":
        raise TypeError(f"table {table}: ids are {array.dtype}, not integers (or str or bytes, as raw values)")
    if array.dtype.kind == "i" and array.size and int(array.min()) < 0:
        at = int(np.argmax(array < 0))
        raise ValueError(f"table {table}: id {array[at]} at {at} is negative; raw integer values go in as Values(...)")
    return np.ascontiguousarray(array, "<u8")


def _large_ints(table: str, ids: Sequence[object]) -> NDArray[np.uint64]:
    """A list of Python integers that is no plain integer array to NumPy: empty, or with some beyond i64."""
    for at, value in enumerate(ids):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"table {table}: id {value!r} at {at} is {type(value).__name__}, not int, str or bytes")
        if not 0 <= value < 1 << 64:
            raise ValueError(f"table {table}: id {value} at {at} is not within 0 and 2^64 - 1")
    return np.array(ids, "<u8")


def _are_values(array: NDArray[Any]) -> bool:
    return array.ndim == 1 and all(isinstance(value, str | bytes) for value in array)


def _strings(table: str, ids: object) -> list[str | bytes | int]:
    """The list behind an array of strings: NumPy's own cuts trailing NULs and turns numbers among them to strings."""
    values: list[str | bytes | int] = ids.tolist() if isinstance(ids, np.ndarray) else list(cast("Any", ids))
    for at, value in enumerate(values):
        if not isinstance(value, str | bytes):
            raise TypeError(f"table {table}: {value!r} at {at} is {type(value).__name__}, among str or bytes")
    return values


def _lengths(table: str, lengths: ArrayLike, id_count: int) -> NDArray[np.uint32]:
    array = np.asarray(lengths)
    if array.size == 0:
        array = array.astype(np.uint32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(f"table {table}: lengths are {array.dtype} of shape {array.shape}, not integers [bags]")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 1 << 32:
        raise ValueError(f"table {table}: a length of {int(array.min())} or {int(array.max())} is no u32")
    if int(array.sum()) != id_count:
        raise ValueError(f"table {table}: lengths sum to {int(array.sum())}, not to the {id_count} ids")
    return np.ascontiguousarray(array, "<u4")
