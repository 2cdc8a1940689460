"""A lookup's body becomes queries, or an error that says what is wrong, where, and what would be right."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embcache import errors
from embcache.features import hash_values
from embcache.service.requests import LookupRequest, parse_lookup
from embcache_client import wire

IDS = np.array([3, 2**64 - 1, 0, 3], np.uint64)
MAX_IDS = 1000


def parse(body: bytes) -> LookupRequest:
    return parse_lookup(body, MAX_IDS, lambda table: f"feature of {table}")


def request(query: dict[str, Any] | None = None, **keys: Any) -> bytes:
    body: bytes = msgpack.packb(
        {"queries": [{"table": "item", "ids": IDS.tobytes()} if query is None else query], **keys}
    )
    return body


def bagged(**keys: Any) -> bytes:
    return request({"table": "item", "ids": IDS.tobytes(), **keys})


def u32(*values: int) -> bytes:
    return np.array(values, "<u4").tobytes()


def test_the_least_that_may_be_said() -> None:
    read = parse(request())
    assert (read.dtype, read.strict, read.min_position, read.history, read.deadline_ms) == ("f32", False, 0, None, None)
    (query,) = read.queries
    assert (query.table, query.version, query.lengths, query.pooling, query.weights) == ("item", None, None, None, None)
    assert query.ids.dtype == np.uint64
    assert query.ids.tolist() == IDS.tolist()


def test_everything_that_may_be_said() -> None:
    weights = np.array([0.5, -1, 2, np.inf], np.float32)
    queries = [
        wire.Query("item", IDS, version="7", lengths=np.array([1, 0, 3], np.uint32), pooling="sum", weights=weights),
        wire.Query("tag", values=["red", b"red", -3], lengths=np.array([3], np.uint32), pooling="mean"),
        wire.Query("item", np.empty(0, np.uint64)),
    ]
    body = wire.encode_lookup(queries, "q8", strict=True, min_position=2**64 - 1, history="h", deadline_ms=2**32 - 1)
    read = parse(body)
    assert read.dtype == "q8"
    assert (read.strict, read.min_position, read.history, read.deadline_ms) == (True, 2**64 - 1, "h", 2**32 - 1)
    first, second, third = read.queries
    assert (first.version, first.pooling) == ("7", "sum")
    assert first.lengths is not None
    assert first.lengths.tolist() == [1, 0, 3]
    assert first.weights is not None
    assert first.weights.tobytes() == weights.tobytes()
    assert second.ids.tolist() == hash_values("feature of tag", ["red", b"red", -3]).tolist()
    assert third.ids.size == 0


WRONG: list[tuple[bytes, type[errors.EmbcacheError], str]] = [
    (b"", errors.MalformedRequest, "ends in the middle of a value: what begins at byte 0"),
    (b"\x93", errors.MalformedRequest, "ends in the middle"),
    (msgpack.packb([1]), errors.MalformedRequest, "the body should be a msgpack map, not an array"),
    (msgpack.packb({1: 2}), errors.MalformedRequest, "cannot be decoded: int is not allowed for map key"),
    (b"\x81\xa1\xff\x01", errors.MalformedRequest, "cannot be decoded: 'utf-8' codec"),
    (request(dtyp="f32"), errors.MalformedRequest, "dtyp: no such key; the nearest right one is dtype"),
    (msgpack.packb({"é" * 500: 1}), errors.MalformedRequest, "no such key"),
    (msgpack.packb({}), errors.MalformedRequest, "queries: is missing; it should be an array of maps"),
    (msgpack.packb({"queries": {}}), errors.MalformedRequest, "queries: is a map; it should be an array of maps"),
    (msgpack.packb({"queries": []}), errors.MalformedRequest, "queries: 0 of them; a request holds 1 to 256"),
    (msgpack.packb({"queries": [1]}), errors.MalformedRequest, r"queries\[0\]: is an integer 1; it should be a map"),
    (
        msgpack.packb({"queries": [{"table": "t", "ids": b""}] * 257}),
        errors.MalformedRequest,
        "queries: 257 of them; a request holds 1 to 256",
    ),
    (request({"ids": b""}), errors.MalformedRequest, r"queries\[0\].table: is missing"),
    (request({"table": 1, "ids": b""}), errors.MalformedRequest, r"queries\[0\].table: is an integer 1"),
    (request({"table": "t"}), errors.MalformedRequest, "has neither ids nor values; give one of them"),
    (request({"table": "t", "ids": b"", "values": []}), errors.MalformedRequest, "has ids and values; give one"),
    (request({"table": "t", "ids": None}), errors.MalformedRequest, r"ids: is nil; it should be a bin of uint64"),
    (request({"table": "t", "ids": [1, 2]}), errors.MalformedRequest, r"ids: is an array; it should be a bin"),
    (request({"table": "t", "ids": "abcdefgh"}), errors.MalformedRequest, r"ids: is a string"),
    (request({"table": "t", "ids": b"x" * 20}), errors.MalformedRequest, "ids: 20 bytes; it should be a multiple of 8"),
    (request({"table": "t", "ids": b"", "id": 1}), errors.MalformedRequest, r"queries\[0\].id: no such key.* ids"),
    (request({"table": "t", "values": b""}), errors.MalformedRequest, r"values: is a bin; it should be an array"),
    (request({"table": "t", "values": [1.5]}), errors.MalformedRequest, r"queries\[0\].values: "),
    (request({"table": "t", "values": [2**63]}), errors.MalformedRequest, r"queries\[0\].values: "),
    (request({"table": "t", "values": [None]}), errors.MalformedRequest, r"queries\[0\].values: "),
    (bagged(version=1), errors.MalformedRequest, r"version: is an integer 1; it should be a version's label"),
    (bagged(pooling="sum"), errors.MalformedRequest, "has pooling but no lengths; bags need both"),
    (bagged(lengths=u32(4)), errors.MalformedRequest, "has lengths but no pooling; bags need both"),
    (bagged(lengths=u32(4), pooling="max"), errors.MalformedRequest, 'pooling: \'max\' should be "sum" or "mean"'),
    (bagged(lengths=u32(4)[:3], pooling="sum"), errors.MalformedRequest, "lengths: 3 bytes; .* multiple of 4"),
    (bagged(lengths=u32(1, 2), pooling="sum"), errors.DimensionMismatch, "lengths: sum to 3, and should to the 4 ids"),
    (bagged(lengths=u32(2**32 - 1, 5), pooling="sum"), errors.DimensionMismatch, "lengths: sum to 4294967300"),
    (bagged(weights=u32(0, 0, 0, 0)), errors.MalformedRequest, 'weights: go with pooling "sum", not with None'),
    (
        bagged(lengths=u32(4), pooling="mean", weights=u32(0, 0, 0, 0)),
        errors.MalformedRequest,
        "weights: go with pooling \"sum\", not with 'mean'",
    ),
    (
        bagged(lengths=u32(4), pooling="sum", weights=u32(0)),
        errors.DimensionMismatch,
        "weights: 1 of them for 4 ids; one each",
    ),
    (request(dtype="f64"), errors.UnsupportedDtype, "dtype: 'f64' is none of f32, f16, bf16, q8"),
    (request(dtype=["f32"]), errors.MalformedRequest, "dtype: is an array; it should be one of f32"),
    (request(strict=1), errors.MalformedRequest, "strict: is an integer 1; it should be true or false"),
    (
        request(min_position=-1),
        errors.MalformedRequest,
        "min_position: is an integer -1; it should be an .* from 0",
    ),
    (request(min_position=True), errors.MalformedRequest, "min_position: is true or false True"),
    (request(deadline_ms=2**32), errors.MalformedRequest, "deadline_ms: is an integer 4294967296; .* to 4294967295"),
    (request(deadline_ms=1.5), errors.MalformedRequest, "deadline_ms: is a float 1.5"),
    (request(history=b"h"), errors.MalformedRequest, "history: is a bin; it should be a string"),
    (request({"table": "t", "ids": bytes(8 * 1001)}), errors.TooLarge, "asks for 1001 ids; at most 1000 go in one"),
    (
        request({"table": "t", "ids": b"", "lengths": bytes(4 * 1001), "pooling": "sum"}),
        errors.TooLarge,
        "asks for 1001 bags; at most 1000",
    ),
    (request({"table": "t", "values": [1] * 9000}), errors.TooLarge, "more than .* elements"),
    (request({"table": "t", "values": [[[1]]]}), errors.MalformedRequest, "nested too deeply"),
]


@pytest.mark.parametrize(("body", "kind", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said(body: bytes, kind: type[errors.EmbcacheError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        parse(body)
    assert type(caught.value) is kind
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "body",
    [
        b"\x82" + msgpack.packb("queries") + msgpack.packb([{"table": "t", "ids": b""}]) + msgpack.packb("queries")
        + msgpack.packb([{"table": "u", "ids": b""}]),
        b"\x81" + msgpack.packb("queries") + b"\x91\x83" + msgpack.packb("table") + msgpack.packb("t")
        + msgpack.packb("ids") + msgpack.packb(b"") + msgpack.packb("table") + msgpack.packb("u"),
    ],
)  # fmt: skip
def test_a_key_that_stands_twice_is_refused(body: bytes) -> None:
    with pytest.raises(errors.MalformedRequest, match="a key stands twice in one map"):
        parse(body)


GOOD = wire.encode_lookup(
    [
        wire.Query("item", IDS, version="7", lengths=np.array([1, 3], np.uint32), pooling="mean"),
        wire.Query("tag", values=["red", b"red", -3]),
    ],
    "f16",
    strict=True,
    deadline_ms=5,
)


def parses_or_refuses(body: bytes) -> None:
    """Any other exception fails the test."""
    with suppress(errors.MalformedRequest, errors.TooLarge):
        assert 1 <= len(parse(body).queries) <= 256


@given(st.data())
def test_damage_is_an_error_of_the_protocol_or_no_damage(data: st.DataObject) -> None:
    """Any change to a body is either another good request or a clear error; nothing else ever leaves the parser."""
    body = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        change = data.draw(st.sampled_from(("flip", "cut", "insert")))
        if change == "flip":
            body[at] ^= data.draw(st.integers(1, 255))
        elif change == "cut" and len(body) > 1:
            del body[at]
        else:
            body.insert(at, data.draw(st.integers(0, 255)))
    parses_or_refuses(bytes(body))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(
    ["queries", "dtype", "strict", "min_position", "history", "deadline_ms", "table", "ids", "values", "lengths"]
)


@given(st.dictionaries(keys, anything, max_size=4), st.dictionaries(keys, anything, max_size=4))
def test_any_types_anywhere(top: dict[str, Any], inner: dict[str, Any]) -> None:
    parses_or_refuses(msgpack.packb({"queries": [{"table": "t", "ids": b"", **inner}], **top}))
