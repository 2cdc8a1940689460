"""A reply that is read by the outline of an earlier one is what decoding makes of it; any other is decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embcache_client import errors, wire
from embcache_client.buffers import BufferPool
from embcache_client.outline import MAX_OUTLINES, Outline, Outlines
from embcache_client.results import LookupResult
from tests.clients.conftest import Connect
from tests.clients.peer import Peer, answer, serving
from tests.clients.replies import numbers, result

ARRAYS = ("status", "scale", "bias", "rows")


def laid_out(*results: dict[str, Any], position: int = 7, history: str = "h", alignment: int = 8) -> bytes:
    """A reply as embcache lays it out: the position first and as a u64, each array aligned behind a pad."""
    body: bytes = b"\x83\xa8position\xcf" + position.to_bytes(8, "big")
    body += msgpack.packb("history") + msgpack.packb(history) + msgpack.packb("results") + bytes([0x90 + len(results)])
    for entry in results:
        arrays = [key for key in ARRAYS if key in entry]
        plain = msgpack.packb({key: value for key, value in entry.items() if key not in arrays})
        body += bytes([plain[0] + 2 * len(arrays)]) + plain[1:]
        for key in arrays:
            pad, packed = msgpack.packb("pad-" + key), msgpack.packb(key) + msgpack.packb(entry[key])
            fill = -(len(body) + len(pad) + 2 + len(packed) - len(entry[key])) % alignment
            body += pad + b"\xc4" + bytes([fill]) + bytes(fill) + packed
    return body


def q8_result(count: int) -> dict[str, Any]:
    codes = (numbers(count, 4) % 251).astype(np.uint8)
    scale, bias = np.linspace(1, 2, count, dtype="<f4"), np.linspace(-1, 1, count, dtype="<f4")
    return result(codes, dtype="q8", scale=scale.tobytes(), bias=bias.tobytes())


def assert_same(found: LookupResult | None, expected: LookupResult) -> None:
    assert found is not None
    assert (found.position, found.history) == (expected.position, expected.history)
    for ours, theirs in zip(found.results, expected.results, strict=True):
        assert (ours.table, ours.version, ours.dtype) == (theirs.table, theirs.version, theirs.dtype)
        np.testing.assert_array_equal(ours.rows, theirs.rows)
        np.testing.assert_array_equal(ours.status, theirs.status)
        assert ours.raw.dtype == theirs.raw.dtype


def received(body: bytes) -> Any:
    """The body in a pooled buffer."""
    buffer = BufferPool().take(len(body))
    buffer.data[:] = body
    return buffer


@pytest.mark.parametrize("take", [bytes, received])
@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_an_outline_reads_like_replies(count: int, take: Callable[[bytes], Any]) -> None:
    def body(add: int, position: int) -> bytes:
        first, second = numbers(count, 3) + np.float32(add), (numbers(2, 8) + np.float32(add)).astype(np.float16)
        status = [add % 4] * count
        return laid_out(
            result(first, status), result(second, dtype="f16", table="b"), q8_result(count), position=position
        )

    outline = Outline(take(body(0, 1)))
    for add, position in [(0, 1), (3, 2), (9, 2**64 - 1)]:
        taken = take(body(add, position))
        found = outline.read(taken)
        assert_same(found, wire.decode_lookup_reply(body(add, position)))
        assert found is not None
        rows = found.results[0].rows
        assert rows.flags.writeable
        assert np.shares_memory(rows, taken) is (count > 0 and take is received)


def test_a_buffer_lives_as_long_as_what_was_cut_from_it() -> None:
    pool = BufferPool()
    body = laid_out(result(numbers(1000, 64)))
    outline = Outline(body)
    buffer = pool.take(len(body))
    buffer.data[:] = body
    found = outline.read(buffer)
    assert found is not None
    view = found["item"].rows[3:4]
    del buffer, found
    assert pool.idle_bytes == 0
    np.testing.assert_array_equal(view, numbers(1000, 64)[3:4])
    del view
    assert pool.idle_bytes > 0


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_change_anywhere_is_read_as_decoding_reads_it(data: st.DataObject) -> None:
    original = laid_out(result(numbers(2, 3)), q8_result(2))
    outline = Outline(original)
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    found = outline.read(bytes(changed))
    if found is not None:
        assert_same(found, wire.decode_lookup_reply(bytes(changed)))


def test_a_reply_of_another_length_is_not_read() -> None:
    body = laid_out(result(numbers(2, 3)))
    assert Outline(body).read(body[:-1]) is None
    assert Outline(body).read(body + b"\0") is None


@pytest.mark.parametrize(
    "body",
    [
        msgpack.packb({"history": "h", "position": 2**40, "results": [result(numbers(2, 3))]}),
        msgpack.packb({"position": 5, "history": "h", "results": [result(numbers(2, 3))]}),
        b"\0" + laid_out(result(numbers(2, 3)))[1:],
        laid_out(result(numbers(2, 3)), alignment=1).replace(b"\xa4rows", b"\xd9\x04rows"),
        laid_out(result(numbers(2, 3), more=bytes(70_000))),
    ],
)
def test_what_is_laid_out_otherwise_has_no_outline(body: bytes) -> None:
    with pytest.raises(errors.ProtocolError):
        Outline(body)


def test_what_is_asked_again_is_learned() -> None:
    outlines, body = Outlines(), laid_out(result(numbers(2, 3)))
    assert outlines.read("asked", body) is None
    outlines.learn("asked", body)
    assert outlines.read("asked", body) is None  # once: it may never be asked again
    outlines.learn("asked", body)
    assert_same(outlines.read("asked", body), wire.decode_lookup_reply(body))
    assert outlines.read("asked for other tables", body) is None


def test_an_outline_that_no_longer_fits_is_replaced() -> None:
    outlines = Outlines()
    old, new = (laid_out(result(numbers(2, 3), version=version)) for version in ("1", "2"))
    for body in (old, old):
        outlines.learn("asked", body)
    assert outlines.read("asked", old) is not None
    assert outlines.read("asked", new) is None
    outlines.learn("asked", new)
    assert_same(outlines.read("asked", new), wire.decode_lookup_reply(new))


def test_what_never_fits_is_not_learned_time_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    make = Outline.__init__

    def counted(self: Outline, body: bytes) -> None:
        made.append(body)
        make(self, body)

    monkeypatch.setattr(Outline, "__init__", counted)
    outlines = Outlines()
    for history in range(10):
        outlines.learn("asked", laid_out(result(numbers(2, 3)), history=f"h{history}"))
    assert len(made) == 1


def test_memory_is_bounded() -> None:
    outlines, body = Outlines(), laid_out(result(numbers(2, 3)))
    for asked in range(3 * MAX_OUTLINES):
        outlines.learn(asked, body)
    assert len(outlines._known) <= MAX_OUTLINES


def test_clients_read_by_outlines(start: Callable[..., Peer], connect: Connect) -> None:
    answers = [
        answer(laid_out(result(numbers(700, 8) + np.float32(mark), table="outlined"), position=mark))
        for mark in range(6)
    ]
    client = connect(start(serving(*answers)).url)
    found = [client.lookup({"outlined": np.arange(700)}) for _ in range(6)]
    for mark, result_ in enumerate(found):
        assert result_.position == mark
        np.testing.assert_array_equal(result_["outlined"].rows, numbers(700, 8) + np.float32(mark))
