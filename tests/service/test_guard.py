"""The guard passes what the msgpack package decodes, within the bounds it is given, and says why it refuses."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embcache.errors import MalformedRequest, TooLarge
from embcache.service import guard

ENDLESS = 1 << 40
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=18) | st.dictionaries(st.text(max_size=4), inner, max_size=18),
    max_leaves=30,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


def elements(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + elements(inner) for inner in value.values())
    if isinstance(value, list):
        return 1 + sum(map(elements, value))
    return 1


def pairs(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(pairs, value.values()))
    return sum(map(pairs, value)) if isinstance(value, list) else 0


@given(values)
def test_measures_what_msgpack_packed(value: Any) -> None:
    body = msgpack.packb(value)
    assert guard.measure(body, depth(value), elements(value)) == pairs(value)


@given(values.filter(lambda value: depth(value) > 0))
def test_one_level_or_one_element_less_is_refused(value: Any) -> None:
    body = msgpack.packb(value)
    with pytest.raises(MalformedRequest, match="nested too deeply"):
        guard.measure(body, depth(value) - 1, ENDLESS)
    with pytest.raises(TooLarge, match=f"more than {elements(value) - 1} elements"):
        guard.measure(body, depth(value), elements(value) - 1)


@given(values, st.data())
def test_every_cut_is_seen(value: Any, data: st.DataObject) -> None:
    body = msgpack.packb(value)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(MalformedRequest, match="ends in the middle"):
        guard.measure(body[:cut], 64, ENDLESS)
    with pytest.raises(MalformedRequest, match=f"should end at byte {len(body)}"):
        guard.measure(body + b"\xc0", 64, ENDLESS)


def decodes(body: bytes) -> bool:
    """Whether the msgpack package takes `body`, as raw bytes so that no text is judged."""
    unpacker = {"raw": True, "strict_map_key": False, "object_pairs_hook": lambda found: found}
    try:
        msgpack.unpackb(body, ext_hook=_no_extensions, **unpacker)
    except (ValueError, TypeError, msgpack.UnpackException):
        return False
    return True


def _no_extensions(code: int, data: bytes) -> None:
    raise ValueError(code, data)


def has_timestamp(body: bytes) -> bool:
    """msgpack decodes extension -1 by itself, past the hook."""
    return any(mark in body for mark in (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff"))


nearly = st.lists(
    st.sampled_from([bytes([code]) for code in range(0x80, 0x100)]) | st.binary(max_size=5), max_size=12
).map(b"".join)


@given(st.binary(max_size=60) | nearly)
@example(b"")
@example(b"\xc1")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xdd\xff\xff\xff\xff" * 3)
@example(b"\xc6\xff\xff\xff\xff")
def test_agrees_with_msgpack_on_any_bytes(body: bytes) -> None:
    problem, _, _ = guard.scan(body, 64, ENDLESS)
    if problem == guard.FINE:
        assert decodes(body)
    elif not has_timestamp(body):
        assert not decodes(body)


@pytest.mark.parametrize("code", [0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xC7, 0xC8, 0xC9])
def test_extensions_are_refused_by_name(code: int) -> None:
    with pytest.raises(MalformedRequest, match="extension type at byte 1"):
        guard.measure(bytes([0x91, code]) + bytes(24), 4, 10)


def test_a_body_that_would_take_gigabytes_is_refused_at_once() -> None:
    deep = b"\x91" * (10 << 20)
    wide = b"\xdd" + struct.pack(">I", 10 << 20) + b"\x90" * (10 << 20)
    with pytest.raises(MalformedRequest, match="nested too deeply at byte 4: at most 4 levels"):
        guard.measure(deep, 4, 1000)
    with pytest.raises(TooLarge, match="more than 1000 elements"):
        guard.measure(wide, 4, 1000)


def test_the_same_without_the_compiler() -> None:
    if os.environ.get("NUMBA_DISABLE_JIT") == "1":
        pytest.skip("this is that run")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", "-k", "not gigabytes", __file__],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "HYPOTHESIS_EXAMPLES": "15"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
