"""Frames against their written layout, cut at every byte, and refused where they are no frames."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embcache.local import frames
from embcache.local.frames import Frame, FrameError, FrameReader, encode

LIMITS = (frames.MAX_REQUEST_META, frames.MAX_REQUEST_PAYLOAD)


def joined(call: int, meta: dict[str, Any], *payload: frames.Buffer) -> bytes:
    return b"".join(encode(call, meta, payload))


def feed(reader: FrameReader, data: bytes, step: int) -> list[Frame]:
    """Offers `data` to the reader in pieces of at most `step` bytes, as a socket would."""
    taken: list[Frame] = []
    while data:
        into = reader.buffer()
        nbytes = min(step, len(into), len(data))
        into[:nbytes] = data[:nbytes]
        taken += reader.received(nbytes)
        data = data[nbytes:]
    return taken


def test_the_example_of_the_documentation() -> None:
    example = "454d42310a0000000000000000000000070000000000000081a26f70a57374617473"
    assert joined(7, {"op": "stats"}).hex() == example


def test_a_frame_is_its_header_its_meta_and_its_payload() -> None:
    ids = np.array([1, 2**64 - 1], np.uint64)
    meta = msgpack.packb({"op": "read"})
    expected = struct.pack("<4sIQQ", b"EMB1", len(meta), 19, 2**64 - 1) + meta + ids.tobytes() + b"abc"
    assert joined(2**64 - 1, {"op": "read"}, ids, np.empty((0, 3), np.float32), b"abc") == expected


def test_payload_arrays_are_not_copied() -> None:
    rows = np.zeros((3, 4), np.float32)
    piece = encode(1, {}, [rows])[1]
    rows[0, 0] = 1
    assert bytes(piece) == rows.tobytes()


@given(
    sizes=st.lists(st.one_of(st.integers(0, 40), st.sampled_from([65_500, 65_536, 200_000])), min_size=1, max_size=6),
    meta_bytes=st.sampled_from([0, 10, 65_536, 100_000]),
    step=st.sampled_from([1, 7, 24, 4096, 65_536, 10**9]),
)
@settings(max_examples=60, deadline=None)
def test_frames_come_out_as_they_went_in_however_they_are_cut(sizes: list[int], meta_bytes: int, step: int) -> None:
    step = max(step, (sum(sizes) + meta_bytes) // 2000)
    sent = [
        (call, {"n": n, "text": "x" * (meta_bytes if call == 0 else 3)}, np.arange(n, dtype=np.uint8).tobytes())
        for call, n in enumerate(sizes)
    ]
    taken = feed(FrameReader(*LIMITS), b"".join(joined(*frame) for frame in sent), step)
    assert [(frame.call, frame.meta, bytes(frame.payload)) for frame in taken] == sent


def test_each_payload_is_memory_of_its_own() -> None:
    first, second = feed(FrameReader(*LIMITS), joined(1, {}, b"aaaa") + joined(2, {}, b"bbbb"), 1000)
    second.payload[:] = b"cccc"
    assert bytes(first.payload) == b"aaaa"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "begins with"),
        (struct.pack("<4sIQQ", b"EMB1", LIMITS[0] + 1, 0, 0), "of meta"),
        (struct.pack("<4sIQQ", b"EMB1", 1, LIMITS[1] + 1, 0), "of payload"),
        (struct.pack("<4sIQQ", b"EMB1", 1, 0, 0) + b"\xc1", "not msgpack"),
        (struct.pack("<4sIQQ", b"EMB1", 2, 0, 0) + b"\x01\x02", "not msgpack"),
        (struct.pack("<4sIQQ", b"EMB1", 2, 0, 0) + b"\x81\xa1", "not msgpack"),
        (struct.pack("<4sIQQ", b"EMB1", 1, 0, 0) + b"\x90", "is a map"),
        (struct.pack("<4sIQQ", b"EMB1", 3, 0, 0) + b"\x81\x01\x02", "not msgpack"),
        (struct.pack("<4sIQQ", b"EMB1", 5000, 0, 0) + b"\x91" * 5000, "not msgpack"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(FrameError, match=words):
        feed(FrameReader(*LIMITS), data, 64)


@pytest.mark.parametrize("n", range(17))
def test_padding_aligns_to_eight(n: int) -> None:
    assert (n + len(frames.padding(n))) % 8 == 0
    assert len(frames.padding(n)) < 8
