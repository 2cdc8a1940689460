"""The bodies of updates, byte by byte and against msgpack-python."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from embcache_client import rowtypes, updates
from embcache_client.errors import ProtocolError
from embcache_client.updates import Change, ProducerState, UpdateReply

REPLY: dict[str, Any] = {"position": 2**64 - 1, "history": "h1", "durable": 7, "duplicate": True}
STATE: dict[str, Any] = {"epoch": 3, "last_seq": 0, "last_epoch": 0, "mark": b"\x00m", "position": 9, "history": "h1"}


def u64(*ids: int) -> Any:
    return np.array(ids, np.uint64)


def f32(*rows: list[float]) -> Any:
    return np.array(rows, np.float32)


def encode(*changes: Change, **other: Any) -> bytes:
    given: dict[str, Any] = {"producer": "t-0", "epoch": 1, "seq": 1, "mark": None, "changes": changes} | other
    return updates.encode_update(**given)


def test_a_delete_byte_by_byte() -> None:
    body = encode(Change("item", "delete", u64(1, 2**64 - 1)), seq=258, mark=b"m")
    assert body.hex(" ") == (
        "86 a8 70 72 6f 64 75 63 65 72 a3 74 2d 30 "  # producer t-0
        "a5 65 70 6f 63 68 01 a3 73 65 71 cd 01 02 a4 6d 61 72 6b c4 01 6d "  # epoch 1, seq 258, mark m
        "a7 63 68 61 6e 67 65 73 91 83 a5 74 61 62 6c 65 a4 69 74 65 6d "  # changes: table item
        "a2 6f 70 a6 64 65 6c 65 74 65 "  # op delete
        "a3 69 64 73 c4 10 01 00 00 00 00 00 00 00 ff ff ff ff ff ff ff ff "
        "a3 61 63 6b a7 64 75 72 61 62 6c 65"  # ack durable
    )


def test_the_rows_of_a_change() -> None:
    body = encode(Change("a", "add", u64(7), f32([1, -2])), Change("b", "assign", u64(8), f32([1, 2]), "f16"))
    assert "mark" not in msgpack.unpackb(body)
    assert msgpack.unpackb(body)["changes"] == [
        {"table": "a", "op": "add", "ids": u64(7).tobytes(), "dtype": "f32", "rows": f32([1, -2]).tobytes()},
        {
            "table": "b",
            "op": "assign",
            "ids": u64(8).tobytes(),
            "dtype": "f16",
            "rows": np.array([1, 2], "<f2").tobytes(),
        },
    ]


def test_q8_rows_come_with_scale_and_bias() -> None:
    (change,) = msgpack.unpackb(encode(Change("a", "assign", u64(7), f32([3, 258]), "q8")))["changes"]
    assert (change["rows"], change["scale"], change["bias"]) == (b"\x00\xff", f32([1]).tobytes(), f32([3]).tobytes())


def test_arrays_that_do_not_lie_in_one_piece() -> None:
    ids, rows = np.arange(10, dtype=np.uint64), np.arange(40, dtype=np.float32).reshape(10, 4)
    strided = encode(Change("a", "add", ids[::2], rows[::2, ::-1]))
    assert strided == encode(Change("a", "add", ids[::2].copy(), rows[::2, ::-1].copy()))


@pytest.mark.parametrize("dtype", rowtypes.NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(dtype: str, value: float) -> None:
    rows = np.zeros((8, 2), np.float32)
    rows[1:, 1] = value
    with pytest.raises(ValueError, match=r"table a: add .* 7 of 8 rows: ids 11, 12, 13, 14, 15, \.\.\.$"):
        encode(Change("a", "add", np.arange(10, 18, dtype=np.uint64), rows, dtype))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"producer": ""}, "producer"),
        ({"producer": "a b"}, "producer"),
        ({"producer": "a\n"}, "producer"),
        ({"producer": "a" * 65}, "producer"),
        ({"epoch": -1}, "epoch"),
        ({"seq": 0}, "seq 0"),
        ({"seq": 2**64}, "seq"),
        ({"mark": bytes(257)}, "257 bytes"),
        ({"changes": []}, "0 changes"),
        ({"changes": [Change("a", "delete", u64(1))] * 257}, "257 changes"),
        ({"ack": "never"}, "never"),
        ({"changes": [Change("a", "drop", u64(1))]}, "drop"),
        ({"changes": [Change("a", "add", u64(1))]}, "needs rows"),
        ({"changes": [Change("a", "delete", u64(1), f32([1]))]}, "takes no rows"),
        ({"changes": [Change("a", "add", u64(1, 2), f32([1]))]}, r"not float32 \[2, dim\]"),
        ({"changes": [Change("a", "add", u64(1), f32([1]), "f64")]}, "f64"),
        ({"changes": [Change("a", "delete", u64(1).astype(np.int64))]}, "int64"),
    ],
)
def test_what_no_service_takes_is_refused(other: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        encode(Change("a", "delete", u64(1)), **other)


def test_a_mark_of_full_length() -> None:
    assert msgpack.unpackb(encode(Change("a", "delete", u64(1)), mark=bytes(256)))["mark"] == bytes(256)


def test_another_epoch_changes_nothing_else() -> None:
    changes = [Change("a", "add", u64(7), f32([1, -2]), "q8"), Change("ä", "delete", u64())]
    assert updates.with_epoch(encode(*changes, mark=b"m"), 2**40) == encode(*changes, mark=b"m", epoch=2**40)


def test_the_replies() -> None:
    assert updates.decode_update_reply(msgpack.packb(REPLY | {"more": 1})) == UpdateReply(2**64 - 1, "h1", 7, True)
    assert updates.decode_producer(msgpack.packb(STATE)) == ProducerState(3, 0, 0, b"\x00m", 9, "h1")


def test_what_is_set_aside_is_told_or_not() -> None:
    for decode, reply in ((updates.decode_update_reply, REPLY), (updates.decode_producer, STATE)):
        told = decode(msgpack.packb(reply | {"quarantined": [7, 2**64 - 1], "quarantined_count": 9}))
        assert (told.quarantined, told.quarantined_count) == ((7, 2**64 - 1), 9)
        assert decode(msgpack.packb(reply)).quarantined == ()
        for wrong in (7, [-1], [1.5], []):  # the last without a count
            with pytest.raises(ProtocolError, match="'quarantined"):
                decode(msgpack.packb(reply | {"quarantined": wrong}))


@pytest.mark.parametrize("decode", [updates.decode_update_reply, updates.decode_producer])
@pytest.mark.parametrize("wrong", [None, -1, 1.5, True, "x", [], b"x" * 257])
def test_replies_of_wrong_kinds(decode: Any, wrong: Any) -> None:
    good = REPLY if decode is updates.decode_update_reply else STATE
    for key, right in good.items():
        if type(wrong) is not type(right) or wrong == -1 or key == "mark":
            with pytest.raises(ProtocolError, match=f"'{key}'"):
                decode(msgpack.packb(good | {key: wrong}))
        with pytest.raises(ProtocolError, match=f"'{key}' (is missing|is None)"):
            decode(msgpack.packb({name: value for name, value in good.items() if name != key}))


@pytest.mark.parametrize("body", [b"", b"\x81", b"\x90", b"\xc0", b"no"])
def test_replies_that_are_no_map(body: bytes) -> None:
    for decode in (updates.decode_update_reply, updates.decode_producer):
        with pytest.raises(ProtocolError):
            decode(body)
