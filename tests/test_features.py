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
    values = INTEGERS + np.random.default_rng(3).integers(-(2**63), 2**63 - 1, 500).tolist()
    wanted = [oracle(feature, value.to_bytes(8, "little", signed=True)) for value in values]
    assert hash_integers(feature, np.array(values)).tolist() == wanted
    assert hash_values(feature, values).tolist() == wanted


def test_text_bytes_and_mixtures() -> None:
    values = ["", "a", "ключ", b"", b"a\0", 7, "z" * 1000]
    wanted = [oracle("item", b"" if v == "" else v.encode() if isinstance(v, str) else v) for v in values if v != 7]
    wanted.insert(5, oracle("item", (7).to_bytes(8, "little")))
    assert hash_values("item", values).tolist() == wanted


@pytest.mark.parametrize("bad", [[1.5], [None], [True], [2**63], [-(2**63) - 1], [["a"]]])
def test_other_values_are_refused(bad: list[object]) -> None:
    with pytest.raises(MalformedRequest, match="values"):
        hash_values("item", bad)


def test_no_values_have_no_ids() -> None:
    assert hash_values("item", []).size == 0
