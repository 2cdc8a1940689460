"""Feature IDs of raw values, hashed on the server's side: the same IDs as the client's, integers by a compiled kernel.

id = XXH3_64(canonical bytes, seed = XXH3_64(feature name, seed 0)); canonical bytes as in embcache_client.ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache.errors import MalformedRequest
from embcache.host.jit import kernel
from embcache_client import ids as client_ids

_SECRET_4TO8 = 0xC73AB174C5ECD5A2  # words 1 and 2 of XXH3's default secret, xored
_PRIME_MX2 = 0x9FB21C651E98DF25


@kernel
def _hash_words(values, seed, out):  # type: ignore[no-untyped-def]
    """XXH3_64 of each 8-byte value: the branch for inputs of 4 to 8 bytes (Y. Collet's xxHash, xxh3.h)."""
    low = np.uint64(seed & np.uint64(0xFFFFFFFF))
    swapped = np.uint64(0)
    for byte in range(4):
        part = np.uint64((low >> np.uint64(8 * byte)) & np.uint64(0xFF))
        swapped = np.uint64(swapped | np.uint64(part << np.uint64(8 * (3 - byte))))
    flip = np.uint64(np.uint64(_SECRET_4TO8) - np.uint64(seed ^ np.uint64(swapped << np.uint64(32))))
    for i in range(values.shape[0]):
        value = np.uint64(values[i])
        halves = np.uint64(np.uint64(value >> np.uint64(32)) | np.uint64(value << np.uint64(32)))
        h = np.uint64(halves ^ flip)
        left = np.uint64(np.uint64(h << np.uint64(49)) | np.uint64(h >> np.uint64(15)))
        right = np.uint64(np.uint64(h << np.uint64(24)) | np.uint64(h >> np.uint64(40)))
        h = np.uint64(np.uint64(h ^ left ^ right) * np.uint64(_PRIME_MX2))
        h = np.uint64(h ^ np.uint64(np.uint64(h >> np.uint64(35)) + np.uint64(8)))
        h = np.uint64(h * np.uint64(_PRIME_MX2))
        out[i] = np.uint64(h ^ np.uint64(h >> np.uint64(28)))


def hash_integers(feature: str, values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64 [n]: the IDs of integer values int64 [n] of a feature."""
    out = np.empty(values.size, np.uint64)
    words = np.ascontiguousarray(values, np.int64).view(np.uint64)
    _hash_words(words, np.uint64(client_ids.feature_seed(feature)), out)
    return out


def hash_values(feature: str, values: Sequence[Any] | NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64 [n]: the IDs of raw values (str, bytes, int within i64); MalformedRequest says which one is neither."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "i":
        return hash_integers(feature, values)
    if all(type(value) is int for value in values):
        try:
            return hash_integers(feature, np.array(values, np.int64))
        except OverflowError:
            pass  # found again, and named, one by one
    try:
        return client_ids.hash_values(feature, values)
    except (TypeError, ValueError) as error:
        raise MalformedRequest(f"values: {error}") from None
