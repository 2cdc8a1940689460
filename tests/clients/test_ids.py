"""Feature IDs: the vectors that other languages test against, and the types that have none."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash

from embcache_client.ids import canonical_bytes, feature_seed, hash_values, vectors


def value_of(vector: dict[str, str]) -> str | int | bytes:
    if vector["type"] == "int":
        return int(vector["value"])
    return bytes.fromhex(vector["value"]) if vector["type"] == "bytes" else vector["value"]


@pytest.mark.parametrize(
    "vector", vectors()["vectors"], ids=lambda vector: f"{vector['type']}-{vector['value'][:12]!r}"
)
def test_vectors(vector: dict[str, str]) -> None:
    value, feature, expected = value_of(vector), vector["feature"], int(vector["id"])
    assert canonical_bytes(value).hex() == vector["bytes"]
    seed = xxhash.xxh3_64_intdigest(feature.encode("utf-8"), 0)
    assert seed == int(vectors()["seeds"][feature])
    assert xxhash.xxh3_64_intdigest(bytes.fromhex(vector["bytes"]), seed) == expected
    assert hash_values(feature, [value]).tolist() == [expected]


def test_the_vectors_cover_what_goes_wrong() -> None:
    values = [value_of(vector) for vector in vectors()["vectors"]]
    assert {"", b"", -1, 0, 2**63 - 1, -(2**63), "日本語", b"\xff\xfe"} <= set(values)
    lengths = {len(canonical_bytes(value)) for value in values}
    for low, high in [(0, 0), (1, 3), (4, 8), (9, 16), (17, 128), (129, 240), (241, 1000)]:  # branches of XXH3
        assert any(low <= length <= high for length in lengths), (low, high)
    assert {vector["feature"] for vector in vectors()["vectors"]} >= {"item", "", "país"}


def test_same_bytes_same_id_across_types() -> None:
    same = hash_values("item", ["a", b"a"])
    assert same[0] == same[1]
    assert len(set(hash_values("item", [1, "1", b"\x01"]).tolist())) == 3
    assert hash_values("item", [1]) != hash_values("user", [1])


def test_arrays_are_values_too() -> None:
    integers = np.array([-1, 0, 5], np.int32)
    np.testing.assert_array_equal(hash_values("item", integers), hash_values("item", [-1, 0, 5]))
    np.testing.assert_array_equal(hash_values("item", np.array(["ä", "b"])), hash_values("item", ["ä", "b"]))
    assert hash_values("item", []).shape == (0,)
    assert hash_values("item", (str(n) for n in range(3))).dtype == np.uint64


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_integers_beyond_i64_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match=f"feature value {value} is not within"):
        hash_values("item", [value])


@pytest.mark.parametrize("value", [1.0, None, True, ["a"], bytearray(b"a")])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="not str, bytes or int"):
        hash_values("item", [value])  # type: ignore[list-item]


def test_the_seed_is_the_hash_of_the_feature_name() -> None:
    assert feature_seed("item") == xxhash.xxh3_64_intdigest(b"item")
