"""Feature IDs of raw feature values: the same value of the same feature has the same ID everywhere.

    id = XXH3_64(canonical bytes of the value, seed = XXH3_64(feature name as UTF-8, seed 0))

Canonical bytes: a str is its UTF-8; an int (within i64) its 8 bytes, little-endian two's complement; bytes are
themselves. So 1, "1" and b"\\x01" differ, and "a" and b"a" do not. vectors.json beside this file has examples for other
languages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray


def feature_seed(feature: str) -> int:
    """The seed of a feature's IDs, u64."""
    return xxhash.xxh3_64_intdigest(feature.encode())


def canonical_bytes(value: str | bytes | int) -> bytes:
    """What is hashed of a value. Raises TypeError for other types, ValueError for an int beyond i64."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"feature value {value!r} is {type(value).__name__}, not str, bytes or int")
    try:
        return int(value).to_bytes(8, "little", signed=True)
    except OverflowError:
        raise ValueError(f"feature value {value} is not within -2^63 and 2^63 - 1") from None


def hash_values(feature: str, values: Iterable[str | bytes | int] | NDArray[Any]) -> NDArray[np.uint64]:
    """uint64 [n]: the IDs of n raw values of a feature. Hashes one by one: 1 to 3 million a second."""
    seed = feature_seed(feature)
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    return np.fromiter((xxhash.xxh3_64_intdigest(canonical_bytes(value), seed) for value in listed), np.uint64)


def vectors() -> dict[str, Any]:
    """The examples of vectors.json."""
    loaded: dict[str, Any] = json.loads(resources.files("embcache_client").joinpath("vectors.json").read_text("utf-8"))
    return loaded
