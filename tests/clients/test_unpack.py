"""The msgpack reader against msgpack-python."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embcache_client.errors import ProtocolError
from embcache_client.unpack import MAX_DEPTH, unpack

SIZES = [0, 1, 15, 16, 31, 32, 127, 128, 255, 256, 65535, 65536]

leaves = (
    st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from([n + d for n in (0, 2**7, 2**8, 2**15, 2**16, 2**31, 2**32) for d in (-1, 0, 1)])
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
    | st.text(max_size=40)
    | st.binary(max_size=300)
)
messages = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=30,
)


def copied(value: Any) -> Any:
    """The same with bytes for memoryviews."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, list):
        return [copied(item) for item in value]
    return {key: copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def nesting(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    return 1 + max((nesting(item) for item in (value.values() if isinstance(value, dict) else value)), default=0)


@settings(deadline=None, max_examples=50)
@given(messages)
def test_reads_what_msgpack_writes(value: Any) -> None:
    packed = msgpack.packb(value)
    if nesting(value) > MAX_DEPTH:
        with pytest.raises(ProtocolError, match="nested"):
            unpack(memoryview(packed))
    else:
        assert copied(unpack(memoryview(packed))) == value


@pytest.mark.parametrize("size", SIZES)
def test_reads_every_length(size: int) -> None:
    for value in ("x" * size, bytes(size), [1] * size, {str(n): n for n in range(size)}):
        assert copied(unpack(memoryview(msgpack.packb(value)))) == value


@settings(deadline=None, max_examples=50)
@given(messages, st.data())
def test_refuses_what_is_cut_short(value: Any, data: st.DataObject) -> None:
    packed = msgpack.packb(value)
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(ProtocolError):
        unpack(memoryview(packed[:cut]))


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_nothing_but_its_own_error_comes_of_noise(noise: bytes) -> None:
    try:
        value = unpack(memoryview(noise))
    except ProtocolError:
        return
    assert repr(copied(value)) == repr(msgpack.unpackb(noise))  # as text: a NaN is not equal to itself


def test_bins_are_views() -> None:
    message = bytearray(msgpack.packb({"rows": bytes(100)}))
    view = unpack(memoryview(message))["rows"]
    message[-1] = 7
    assert view[-1] == 7


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("93 01 02", "ends in the middle of a value, after 3 bytes"),
        ("c6 ff ff ff ff 00", "ends in the middle"),
        ("dd ff ff ff ff", "ends in the middle"),  # nothing is built for what is only claimed
        ("01 02", "1 bytes follow the msgpack value, from byte 1"),
        ("c1", "type 0xc1 at byte 0"),
        ("91 d4 00 00", "type 0xd4 at byte 1"),
        ("81 01 02", "key at byte 1 is not a string"),
        ("82 a1 61 01 a1 61 02", "key twice"),
        ("a1 ff", "not UTF-8"),
        ("91" * 9 + "01", "nested more than 8 deep at byte 9"),
    ],
)
def test_says_what_is_wrong(message: str, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        unpack(memoryview(bytes.fromhex(message)))
