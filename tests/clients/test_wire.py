"""The bodies of the data endpoints, byte by byte and against msgpack-python."""

from __future__ import annotations

import json
import pickle
from typing import Any

import msgpack
import numpy as np
import pytest

from embcache_client import errors, wire
from embcache_client.buffers import BufferPool
from embcache_client.errors import ProtocolError
from embcache_client.wire import COPIED_BYTES, Query
from tests.clients.replies import aligned_reply, numbers, reply, result

LARGE = COPIED_BYTES // 256 + 1  # rows of 64 floats that make a reply larger than what is copied


def u64(*ids: int) -> Any:
    return np.array(ids, "<u8")


def test_a_request_byte_by_byte() -> None:
    body = wire.encode_lookup([Query("item", u64(1, 2**64 - 1))])
    assert body.hex(" ") == (
        "82 a7 71 75 65 72 69 65 73 91 82 a5 74 61 62 6c 65 a4 69 74 65 6d a3 69 64 73 "  # queries, table item, ids
        "c4 10 01 00 00 00 00 00 00 00 ff ff ff ff ff ff ff ff "
        "a5 64 74 79 70 65 a3 66 33 32"  # dtype f32
    )


def test_a_request_with_everything() -> None:
    bags = Query("a", u64(7, 8, 9), version="2", pooling="sum")
    bags.lengths, bags.weights = np.array([1, 2], "<u4"), np.array([1, 0.5, 2], "<f4")
    values = Query("b", values=["x", b"\xff", -5])
    body = wire.encode_lookup([bags, values], "q8", strict=True, min_position=2**63, history="h", deadline_ms=250)
    assert msgpack.unpackb(body) == {
        "queries": [
            {
                "table": "a",
                "ids": b"\x07" + bytes(7) + b"\x08" + bytes(7) + b"\x09" + bytes(7),
                "version": "2",
                "lengths": b"\x01\0\0\0\x02\0\0\0",
                "pooling": "sum",
                "weights": b"\0\0\x80\x3f\0\0\0\x3f\0\0\0\x40",
            },
            {"table": "b", "values": ["x", b"\xff", -5]},
        ],
        "dtype": "q8",
        "strict": True,
        "min_position": 2**63,
        "history": "h",
        "deadline_ms": 250,
    }


def test_a_reply_byte_by_byte() -> None:
    body = bytes.fromhex(
        "83 a8 70 6f 73 69 74 69 6f 6e cd 01 00 a7 68 69 73 74 6f 72 79 a2 68 31 "  # position 256, history h1
        "a7 72 65 73 75 6c 74 73 91 86 a5 74 61 62 6c 65 a4 69 74 65 6d "  # results, table item
        "a7 76 65 72 73 69 6f 6e a1 31 a5 64 74 79 70 65 a3 66 33 32 "  # version 1, dtype f32
        "a5 73 68 61 70 65 92 02 01 a4 72 6f 77 73 c4 08 00 00 80 3f 00 00 20 c0 "  # shape [2, 1], rows 1, -2.5
        "a6 73 74 61 74 75 73 c4 02 01 00"  # status hot, missing
    )
    found = wire.decode_lookup_reply(body)
    assert (found.position, found.history, list(found)) == (256, "h1", ["item"])
    item = found["item"]
    assert (item.table, item.version, item.dtype) == ("item", "1", "f32")
    assert item.rows.tolist() == [[1.0], [-2.5]]
    assert item.status.tolist() == [1, 0]
    assert item.found.tolist() == [True, False]


@pytest.mark.parametrize("count", [0, 3, LARGE])
def test_every_dtype_decodes(count: int) -> None:
    codes = np.arange(count * 64, dtype=np.uint8).reshape(count, 64)
    scale, bias = np.linspace(1, 2, count, dtype="<f4"), np.linspace(-1, 1, count, dtype="<f4")
    halves = numbers(count, 64).astype(np.float16)
    body = reply(
        result(numbers(count, 64)),
        result(halves, dtype="f16"),
        result((numbers(count, 64).view("<u4") >> 16).astype("<u2"), dtype="bf16"),
        result(codes, dtype="q8", scale=scale.tobytes(), bias=bias.tobytes()),
        pad=b"\1\2\3",
    )
    found = wire.decode_lookup_reply(bytearray(body)).results
    expected = [
        numbers(count, 64),
        halves.astype(np.float32),
        (numbers(count, 64).view("<u4") & 0xFFFF0000).view("<f4"),
        codes * scale[:, None] + bias[:, None],
    ]
    for rows, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(rows.rows, right)
        assert rows.rows.dtype == np.float32
        assert rows.rows is rows.rows
        assert rows.rows.flags.writeable
        assert rows.rows.flags.aligned
        assert rows.status.tolist() == [2] * count


def test_a_large_reply_is_not_copied() -> None:
    body = aligned_reply(numbers(LARGE, 64))
    buffer = BufferPool().take(len(body))
    buffer.data[:] = body
    rows = wire.decode_lookup_reply(buffer)["item"].rows
    assert np.shares_memory(rows, buffer)
    assert rows.ctypes.data % 64 == 0


def test_rows_at_any_offset_come_aligned() -> None:
    for pad in range(4):
        rows = wire.decode_lookup_reply(reply(result(numbers(LARGE, 64)), pad=bytes(pad)))["item"].rows
        np.testing.assert_array_equal(rows, numbers(LARGE, 64))
        assert rows.flags.aligned


def test_a_table_asked_for_twice_has_both_results() -> None:
    found = wire.decode_lookup_reply(
        reply(result(numbers(1, 2)), result(numbers(2, 2)), result(numbers(3, 2), table="b"))
    )
    assert [len(rows) for rows in found.results] == [1, 2, 3]
    assert {table: len(rows) for table, rows in found.items()} == {"item": 1, "b": 3}
    assert "c" not in found


BAD_REPLIES = [
    (reply(result(numbers(2, 3)), position=None), "'position' is missing"),
    (reply(result(numbers(2, 3)), position="9"), "'position' is no int: '9'"),
    (reply(result(numbers(2, 3)), results={}), "'results' is no array"),
    (reply(result(numbers(2, 3)), history=b"h"), "'history' is no str"),
    (reply(5), "a result is int, not a map"),
    (reply(result(numbers(2, 3), table=None)), "'table' is missing"),
    (reply(result(numbers(2, 3), version=1)), "'version' is no str"),
    (reply(result(numbers(2, 3), dtype="f64")), "dtype 'f64' is none of"),
    (reply(result(numbers(2, 3), shape=[2])), r"shape \[2\] is not \[rows, dim\]"),
    (reply(result(numbers(2, 3), shape=[-2, -3])), "is not"),
    (reply(result(numbers(2, 3), shape=[2.0, 3])), "is not"),
    (reply(result(numbers(2, 3), shape=[3, 3])), "'rows' has 24 bytes, which is not float32"),
    (reply(result(numbers(2, 3), shape=[2**62, 2**62])), "'rows' has 24 bytes"),
    (reply(result(numbers(2, 3), rows="text")), "'rows' is no bin: 'text'"),
    (reply(result(numbers(2, 3), status=5)), "'status' is no bin: 5"),
    (reply(result(numbers(2, 3).astype(np.uint8), dtype="q8")), "'scale' is missing"),
    (reply(result(numbers(2, 3).astype(np.uint8), dtype="q8", scale=bytes(8), bias=bytes(4))), "'bias' has 4 bytes"),
    (b"\x93\x01\x02\x03", "the reply is list, not a map"),
    (b"", "not msgpack"),
    (b"<html>", "not msgpack"),
]


def larger(body: bytes) -> bytes:
    """The same map with one more key, above what is decoded by copying."""
    return bytes([body[0] + 1]) + body[1:] + bytes(msgpack.packb("more")) + bytes(msgpack.packb(bytes(COPIED_BYTES)))


LARGE_BAD_REPLIES = [(larger(body), reason) for body, reason in BAD_REPLIES if body[:1] in (b"\x82", b"\x83")]


@pytest.mark.parametrize(("body", "reason"), BAD_REPLIES + LARGE_BAD_REPLIES)
def test_a_bad_reply_is_an_error_that_says_what(body: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        wire.decode_lookup_reply(body)


@pytest.mark.parametrize("size", [200, 2 * COPIED_BYTES])
def test_every_cut_of_a_reply_is_an_error(size: int) -> None:
    body = reply(result(numbers(size // 8, 2)))
    for cut in [*range(120), len(body) - 100, len(body) - 1]:
        with pytest.raises(ProtocolError):
            wire.decode_lookup_reply(body[:cut])


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8"])
def test_a_page_goes_out_and_comes_in(dtype: str) -> None:
    rows = np.linspace(0, 255, 12, dtype=np.float32).round().reshape(3, 4)
    packed = msgpack.unpackb(wire.encode_page(u64(3, 5, 9), rows, dtype))
    assert packed.keys() == {"ids", "dtype", "rows"} | ({"scale", "bias"} if dtype == "q8" else set())
    answer = packed | {"table": "item", "version": "1", "shape": [3, 4], "next": str(2**64 - 1)}
    page = wire.decode_page(msgpack.packb(answer))
    assert page.ids.tolist() == [3, 5, 9]
    assert page.next_id == 2**64 - 1
    np.testing.assert_allclose(page.rows, rows, atol=0.5)
    assert wire.decode_page(msgpack.packb(answer | {"next": None})).next_id is None
    with pytest.raises(ProtocolError, match="'next' is 7"):
        wire.decode_page(msgpack.packb(answer | {"next": 7}))


CODES = {
    400: ["malformed_request", "dimension_mismatch", "unsupported_dtype", "invalid_rows"],
    401: ["unauthenticated"],
    403: ["forbidden"],
    404: ["unknown_table", "missing_rows"],
    409: ["sequence_gap", "fenced", "conflict", "history_changed"],
    413: ["too_large"],
    415: ["unsupported_media_type"],
    429: ["rate_limited"],
    500: ["storage_corrupt", "internal"],
    503: ["overloaded", "not_ready"],
    504: ["deadline_exceeded"],
    507: ["storage_full"],
}


@pytest.mark.parametrize(("status", "code"), [(status, code) for status, codes in CODES.items() for code in codes])
def test_every_code_of_the_protocol_has_its_class(status: int, code: str) -> None:
    content = {"error": {"code": code, "message": "what and where", "detail": {"ids": ["5"]}}}
    for body in (msgpack.packb(content), json.dumps(content).encode()):
        error = wire.decode_error(status, body)
        assert type(error).__name__.lower() == code.replace("_", "")
        assert (error.http_status, error.code, error.message) == (status, code, "what and where")
        assert error.detail == {"ids": ["5"]}
        assert str(error) == f"{code}: what and where"
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_code_of_the_future_is_kept() -> None:
    error = wire.decode_error(418, json.dumps({"error": {"code": "new", "message": "m", "detail": None}}).encode())
    assert type(error) is errors.ServiceError
    assert (error.code, error.http_status, errors.ServiceError.code) == ("new", 418, "unknown")


@pytest.mark.parametrize(
    "body", [b"<h1>Bad gateway</h1>", b"", b"{", b'{"error": 5}', b"\x91" * 2000, b"\xff\xfe", b"[]"]
)
def test_an_error_that_is_not_the_services_shows_its_text(body: bytes) -> None:
    error = wire.decode_error(502, body)
    assert type(error) is errors.ServiceError
    assert error.http_status == 502
    assert "HTTP 502, not from embcache" in str(error)
