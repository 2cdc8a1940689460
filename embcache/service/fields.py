"""The values of a request's msgpack maps: checked one by one. Does no I/O.

Every complaint names the place (`queries[3].ids`), what stands there, and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import msgpack
import numpy as np
from numpy.typing import NDArray

from embcache.errors import MalformedRequest, UnsupportedDtype
from embcache.features import hash_values
from embcache.spec import DTYPES
from embcache.validation import nearest

MAX_U32, MAX_U64 = 2**32 - 1, 2**64 - 1
U8, U32, U64, F32 = np.dtype("u1"), np.dtype("<u4"), np.dtype("<u8"), np.dtype("<f4")

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


def unpack_map(body: bytes) -> dict[str, Any]:
    """The one map in a msgpack body that the guard has passed."""
    try:
        value = msgpack.unpackb(body)
    except (ValueError, TypeError) as error:  # text that is not UTF-8, keys that are not text
        raise MalformedRequest(f"the msgpack body cannot be decoded: {error}") from None
    if type(value) is not dict:
        raise MalformedRequest(f"the body should be a msgpack map, not {_kind(value)}")
    return value


def array_of(entry: dict[str, Any], key: str, dtype: np.dtype[Any], where: str) -> NDArray[Any] | None:
    """The bin at `key` as an array, where it is there: decoded bytes lie aligned, so nothing is copied."""
    raw = entry.get(key)
    if raw is None and key not in entry:
        return None
    if type(raw) is not bytes:
        mistyped(f"{where}.{key}", raw, f"a bin of {dtype.name}, little-endian")
    if len(raw) % dtype.itemsize:
        raise MalformedRequest(
            f"{where}.{key}: {len(raw)} bytes; it should be a multiple of {dtype.itemsize} ({dtype.name} each)"
        )
    return np.frombuffer(raw, dtype)


def hashed(entry: dict[str, Any], where: str, feature_of: Callable[[str], str], table: str) -> NDArray[np.uint64]:
    values = entry.get("values")
    if type(values) is not list:
        if "values" not in entry:
            raise MalformedRequest(f"{where}: has neither ids nor values; give one of them")
        mistyped(f"{where}.values", values, "an array of strings, bins or integers")
    try:
        return hash_values(feature_of(table), values)
    except MalformedRequest as error:
        raise MalformedRequest(f"{where}.values: {error.message}", error.detail) from None


def optional(request: dict[str, Any], key: str, kind: type) -> Any:
    value = request.get(key)
    if value is not None and type(value) is not kind:
        mistyped(key, value, _KINDS[kind])
    return value


def unsigned(request: dict[str, Any], key: str, most: int) -> int | None:
    value = request.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= most:
        mistyped(key, value, f"an integer from 0 to {most}")
    return value


def unknown_key(where: str, unknown: Iterable[str], right: frozenset[str]) -> NoReturn:
    key = min(key if type(key) is str else repr(key) for key in unknown)  # a bin can be a key, too
    hint = f"the nearest right one is {nearest(key, sorted(right))}" if right else "the map should be empty"
    raise MalformedRequest(f"{where}{clip(key)[1:-1]}: no such key; {hint}", {"key": key[:64]})


def unsupported_dtype(dtype: Any) -> NoReturn:
    if type(dtype) is not str:
        mistyped("dtype", dtype, f"one of {', '.join(DTYPES)}")
    raise UnsupportedDtype(f"dtype: {clip(dtype)} is none of {', '.join(DTYPES)}")


def mistyped(where: str, value: Any, right: str, present: bool = True) -> NoReturn:
    if not present:
        raise MalformedRequest(f"{where}: is missing; it should be {right}")
    shown = f" {value}" if type(value) in (int, float, bool) else ""
    raise MalformedRequest(f"{where}: is {_kind(value)}{shown}; it should be {right}")


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def clip(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:56]}...'"
