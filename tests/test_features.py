"""Feature IDs against the xxhash package."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash

from embcache.errors import MalformedRequest
from embcache.features import hash_integers, hash_values

INTEGERS = [0, 1, -1, 255, 2**31, -(2**31), 2**63 - 1, -(2**63), 1234567890123456789]


def oracle(feature: str, data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data, xxhash.xxh3_64_intdigest(feature.encode(), 0))


@pytest.mark.parametrize("feature", ["item", "", "пользователь", "x" * 300])
def test_integers_hash_as_the_xxhash_package_does(feature: str) -> None:
    values: list[int] = INTEGERS + np.random.default_rng(3).integers(-(2**63), 2**63 - 1, 500).tolist()
    wanted = [oracle(feature, value.to_bytes(8, "little", signed=True)) for value in values]
    assert hash_integers(feature, np.array(values)).tolist() == wanted
    assert hash_values(feature, values).tolist() == wanted


def test_text_bytes_and_mixtures() -> None:
    canonical = {"": b"", "a": b"a", "ключ": "ключ".encode(), b"a\0": b"a\0", 7: (7).to_bytes(8, "little")}
    wanted = [oracle("item", data) for data in canonical.values()]
    assert hash_values("item", list(canonical)).tolist() == wanted
    assert hash_values("item", ["z" * 1000, b""]).tolist() == [oracle("item", b"z" * 1000), oracle("item", b"")]


@pytest.mark.parametrize("bad", [[1.5], [None], [True], [2**63], [-(2**63) - 1], [["a"]]])
def test_other_values_are_refused(bad: list[object]) -> None:
    with pytest.raises(MalformedRequest, match="values"):
        hash_values("item", bad)


def test_no_values_have_no_ids() -> None:
    assert hash_values("item", []).size == 0
