"""The values of a call's meta, checked. Readers are other processes, of other releases perhaps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from embcache.errors import MalformedRequest

U32, U64 = 2**32 - 1, 2**64 - 1
MAX_ROW_BYTES = 4 * 65536

T = TypeVar("T")


def get(meta: Mapping[str, Any], key: str, kind: type[T]) -> T:
    value = meta.get(key)
    if not isinstance(value, kind):
        raise MalformedRequest(f"{key!r} of a call should be {kind.__name__}, not {value!r:.100}")
    return value


def text(meta: Mapping[str, Any], key: str) -> str:
    return get(meta, key, str)


def integer(meta: Mapping[str, Any], key: str, most: int) -> int:
    value = meta.get(key)
    if not is_integer(value, 0, most):
        raise MalformedRequest(f"{key!r} of a call should be a number from 0 to {most}, not {value!r:.100}")
    return int(value)  # type: ignore[arg-type]


def is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
