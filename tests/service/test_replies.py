"""The reply that is laid out beforehand is msgpack that any decoder takes, with every array where it was said to be."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embcache.places import Part
from embcache.service.replies import Skeleton
from embcache_client import rowtypes
from embcache_client.wire import decode_lookup_reply

sizes = st.integers(0, 40) | st.sampled_from([255, 256, 257, 65535, 65536])
names = st.text("abcz09_", min_size=1, max_size=64)
labels = st.text(min_size=1, max_size=40)


@st.composite
def parts(draw: st.DrawFn, dtype: str) -> Part:
    rows, dim = draw(sizes), draw(st.integers(1, 70))
    rows_bytes = rows * dim * rowtypes.ELEMENTS[rowtypes.CODES[dtype]].itemsize
    scale_bytes = 4 * rows if dtype == "q8" else 0
    return Part(draw(names), draw(labels), (rows, dim), rows_bytes, scale_bytes, draw(sizes))


@pytest.mark.parametrize("dtype", rowtypes.NAMES)
@given(data=st.data(), position=st.integers(0, 2**64 - 1), history=st.text(max_size=40))
def test_what_was_laid_out_is_what_is_read(dtype: str, data: st.DataObject, position: int, history: str) -> None:
    wanted = data.draw(st.lists(parts(dtype), min_size=1, max_size=4))
    skeleton = Skeleton(position, history, dtype, wanted)
    body = np.full(skeleton.size, 0xEE, np.uint8)
    skeleton.write(body.data)
    rng = np.random.default_rng(0)
    filled = []
    for part, place in zip(wanted, skeleton.places, strict=True):
        arrays = [rng.bytes(size) for size in (part.rows_bytes, part.scale_bytes, part.scale_bytes, part.status_bytes)]
        for at, array in zip((place.rows, place.scale, place.bias, place.status), arrays, strict=True):
            if array:
                body[at : at + len(array)] = np.frombuffer(array, np.uint8)
        filled.append(arrays)

    reply = msgpack.unpackb(body.tobytes())
    assert (reply["position"], reply["history"]) == (position, history)
    result = decode_lookup_reply(body)
    assert (result.position, result.history) == (position, history)
    for part, place, arrays, plain, read in zip(
        wanted, skeleton.places, filled, reply["results"], result.results, strict=True
    ):
        assert (plain["table"], plain["version"], plain["dtype"]) == (part.table, part.version, dtype)
        assert tuple(plain["shape"]) == part.shape == read.raw.shape
        assert [plain["rows"], plain["status"]] == [arrays[0], arrays[3]]
        if dtype == "q8":
            assert [plain["scale"], plain["bias"]] == arrays[1:3]
        assert place.rows % 64 == place.scale % 4 == place.bias % 4 == 0
        assert read.raw.tobytes() == arrays[0]
        assert read.status.tobytes() == arrays[3]


def test_as_many_results_as_queries_may_be() -> None:
    wanted = [Part(f"t{number}", "1", (1, 1), 4, 0, 1) for number in range(256)]
    skeleton = Skeleton(0, "h", "f32", wanted)
    body = np.zeros(skeleton.size, np.uint8)
    skeleton.write(body.data)
    assert [entry["table"] for entry in msgpack.unpackb(body.tobytes())["results"]] == [part.table for part in wanted]
