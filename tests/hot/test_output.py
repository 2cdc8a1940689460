"""Results that stay on the device: the same rows as on the host, in the order of the caller's stream."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache import EmbeddingCache
from embcache.errors import (
    DimensionMismatch,
    EmbcacheError,
    MalformedRequest,
    MissingRows,
    NotReady,
    Overloaded,
    UnknownTable,
)
from embcache.gpu.emulated.device import EmulatedDevice
from embcache.hot.output import Deliveries, DeviceRows, Move, room_for_moves
from embcache_client.buffers import BufferPool
from embcache_client.results import HOT, LATE, TableRows
from tests.hot.support import DTYPES, IDS, UNKNOWN, filled, settings, tier, warm_up
from tests.naive import Naive

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with")

SHAPES = {"f32": "float32", "f16": "float16", "bf16": "uint16", "q8": "uint8"}
ASKED = np.concatenate([IDS[150:260], UNKNOWN, IDS[150:152]])  # of which the first 200 of IDS are hot


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingCache]:
    with EmbeddingCache.open(settings(tmp_path_factory.mktemp("output"), crossover=1 << 40)) as opened:
        yield opened


def device_of(cache: EmbeddingCache) -> EmulatedDevice:
    device = tier(cache).device
    assert isinstance(device, EmulatedDevice)
    return device


def arrays_of(rows: TableRows) -> list[Any]:
    return [array for array in (rows.raw, rows.scale, rows.bias) if array is not None]


def assert_on_device(cache: EmbeddingCache, rows: TableRows) -> None:
    assert isinstance(rows, DeviceRows)
    for array in arrays_of(rows):
        assert device_of(cache).address(array)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [3, 16])
def test_rows_are_those_of_the_host(cache: EmbeddingCache, dtype: str, dim: int) -> None:
    name = f"{dtype}_{dim}"
    naive = Naive()
    naive.tables[name] = filled(cache, name, dim, dtype, {"uniform": 0.5})
    warm_up(cache, name, IDS[:200])
    for wire in DTYPES:
        result = cache.lookup({name: ASKED}, dtype=wire, device="cuda")[name]
        assert_on_device(cache, result)
        assert result.raw.dtype == SHAPES[wire]
        rows, found = naive.lookup(name, ASKED.tolist(), wire)
        np.testing.assert_array_equal(result.rows, rows)
        np.testing.assert_array_equal(result.found, found)
        assert (result.status[:50] == HOT).all()  # asked first, however few they are
        assert wire != "f32" or not (result.status[50:110] == HOT).any()  # later they may have come up


@pytest.mark.parametrize("wire", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bags_are_those_of_the_host(cache: EmbeddingCache, dtype: str, wire: str) -> None:
    name = f"bags_{dtype}_{wire}"
    naive = Naive()
    naive.tables[name] = filled(cache, name, 20, dtype)
    warm_up(cache, name, IDS[:200])
    lengths = np.array([40, 0, 7, 3, 50, 1, 9], np.uint32)
    asked = np.concatenate([IDS[:100], UNKNOWN, IDS[190:197]])
    weights = np.random.default_rng(1).normal(size=asked.size).astype(np.float32)
    bags = [bag.tolist() for bag in np.split(asked, np.cumsum(lengths)[:-1])]
    result = cache.lookup_bags({name: (asked, lengths, weights)}, dtype=wire, device="cuda")[name]
    assert_on_device(cache, result)
    options = {"pooling": "sum", "weights": weights.tolist()}
    np.testing.assert_array_equal(result.rows, naive.lookup_bags(name, bags, options, wire))


def test_all_tables_of_a_lookup_come_over_in_one_launch(cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"many_{each}" for each in range(5)]
    naive = Naive()
    for dim, name in enumerate(names, 1):
        naive.tables[name] = filled(cache, name, dim, "f16")
    launched: list[str] = []
    real = EmulatedDevice.launch

    def launch(device: EmulatedDevice, kernel: str, *rest: Any) -> None:
        launched.append(kernel)
        real(device, kernel, *rest)

    monkeypatch.setattr(EmulatedDevice, "launch", launch)
    results = cache.lookup(dict.fromkeys(names, ASKED), dtype="q8", device="cuda")
    assert launched.count("scatter") == 1
    for name in names:
        np.testing.assert_array_equal(results[name].rows, naive.lookup(name, ASKED.tolist(), "q8")[0])


@pytest.mark.parametrize("wire", ["f32", "q8"])
def test_arrays_that_are_given_are_written_to_and_come_back(cache: EmbeddingCache, wire: str) -> None:
    naive = Naive()
    naive.tables[f"given_{wire}"] = filled(cache, f"given_{wire}", 8, "f32")
    warm_up(cache, f"given_{wire}", IDS[:200])
    device = device_of(cache)
    arrays = [device.empty((ASKED.size, 8), SHAPES[wire])]
    if wire == "q8":
        arrays += [device.empty((ASKED.size,), "float32") for _ in range(2)]
    out = arrays[0] if wire == "f32" else tuple(arrays)
    for ids in (ASKED, ASKED[::-1].copy()):
        lookup = cache.lookup({f"given_{wire}": ids}, dtype=wire, device="cuda", out={f"given_{wire}": out})
        result = lookup[f"given_{wire}"]
        assert all(mine is theirs for mine, theirs in zip(arrays_of(result), arrays, strict=True))
        np.testing.assert_array_equal(result.rows, naive.lookup(f"given_{wire}", ids.tolist(), wire)[0])


@pytest.mark.parametrize("deadline_ms", [None, 100.0])
def test_arrays_are_not_written_before_the_callers_stream_is_through_with_them(
    cache: EmbeddingCache, deadline_ms: float | None
) -> None:
    name = f"stream_{deadline_ms is None}".lower()
    naive = Naive()
    naive.tables[name] = filled(cache, name, 8, "f32")
    warm_up(cache, name, IDS[:200])
    device = device_of(cache)
    asked = IDS[150:200]  # all hot; and in the warm tier, if there is no time
    cache.lookup({name: asked})
    out, other = device.empty((asked.size, 8), "float32"), device.empty((1,), "float32")
    out[:] = 7
    device.hang("copy_bytes")  # stands for a model that reads `out`, on the caller's stream
    device.copy(device.address(other), device.address(out), 4, device.caller_stream())
    seen: list[Any] = []

    def release() -> None:
        seen.append(out.copy())
        device.release()

    threading.Timer(0.5, release).start()
    result = cache.lookup({name: asked}, device="cuda", out={name: out}, deadline_ms=deadline_ms)[name]
    assert (seen[0] == 7).all()
    np.testing.assert_array_equal(result.rows, naive.lookup(name, asked.tolist())[0])
    assert other[0] == 7


def test_an_interrupted_lookup_leaves_the_callers_arrays_only_once_the_device_is_through(
    cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(cache, "interrupted", 8, "f32")
    warm_up(cache, "interrupted", IDS[:50])
    device, hot = device_of(cache), tier(cache)
    out = device.empty((50, 8), "float32")
    out[:] = 7
    real, calls = hot.wait, [0]

    def wait(*arguments: Any) -> bool:
        calls[0] += 1
        if calls[0] == 1:
            threading.Timer(0.3, device.release).start()
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(hot, "wait", wait)
    device.hang("look_up_stored")
    with pytest.raises(KeyboardInterrupt):
        cache.lookup({"interrupted": IDS[:50]}, device="cuda", out={"interrupted": out})
    assert not (out == 7).any()  # what the launch had to write, it has written


def test_a_buffer_is_not_used_again_before_its_rows_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    device = EmulatedDevice()
    pool, others = (BufferPool(lambda nbytes: device.pinned(nbytes).data) for _ in range(2))
    monkeypatch.setattr(EmulatedDevice, "order_caller", lambda *_: True)  # as a GPU does: nobody waits
    deliveries, target = Deliveries(device), device.empty((10, 4), "float32")

    def deliver(value: float) -> int:
        buffer = pool.take(4096)
        buffer[:160].view(np.float32)[:] = value
        where = buffer.ctypes.data
        move = Move(where, device.address(target), np.arange(10, dtype=np.int32), 16)
        deliveries.deliver([move], others.take(room_for_moves([move])), buffer)
        return where

    device.hang("scatter")
    first = deliver(1)
    second = deliver(2)
    assert first != second
    device.release()
    event = device.event()
    device.record(event, device.caller_stream())
    assert device.wait(event, 60)
    assert (target == 2).all()
    third = deliver(3)  # notices that the others are through
    assert deliver(4) in (first, second)
    assert third not in (first, second)


BAD_OUT = [
    ({"item": "array"}, MalformedRequest, "out\\['item'\\].*is needed, not str"),
    ({"item": np.zeros((3, 8), np.float32)}, MalformedRequest, "out\\['item'\\].*in other memory"),
    ({"item": ((2, 8), "float32")}, DimensionMismatch, "out\\['item'\\] is float32 \\(2, 8\\), .* float32 \\(3, 8\\)"),
    ({"item": ((3, 8), "float16")}, DimensionMismatch, "out\\['item'\\] is float16 \\(3, 8\\), .* float32 \\(3, 8\\)"),
    ({"items": ((3, 8), "float32")}, UnknownTable, "out\\['items'\\]: this table is not asked for"),
    ([], MalformedRequest, "out: list should be a mapping"),
]


@pytest.mark.parametrize(("out", "error", "words"), BAD_OUT)
def test_arrays_that_do_not_fit_are_refused(
    cache: EmbeddingCache, out: Any, error: type[EmbcacheError], words: str
) -> None:
    if "item" not in cache.tables():
        filled(cache, "item", 8, "f32")
    if isinstance(out, dict):
        made = {name: device_of(cache).empty(*array) for name, array in out.items() if isinstance(array, tuple)}
        out = out | made
    with pytest.raises(error, match=words):
        cache.lookup({"item": IDS[:3]}, device="cuda", out=out)


def test_q8_takes_three_arrays_and_the_device_is_named_as_it_is(cache: EmbeddingCache) -> None:
    filled(cache, "q8", 8, "q8")
    array = device_of(cache).empty((3, 8), "uint8")
    with pytest.raises(MalformedRequest, match="codes, scale, bias"):
        cache.lookup({"q8": IDS[:3]}, dtype="q8", device="cuda", out={"q8": array})
    with pytest.raises(MalformedRequest, match='"cuda"'):
        cache.lookup({"q8": IDS[:3]}, device="gpu")
    with pytest.raises(MalformedRequest, match="out"):
        cache.lookup({"q8": IDS[:3]}, out={"q8": array})


def test_arrays_that_share_memory_are_refused(cache: EmbeddingCache) -> None:
    for name in ("one", "two"):
        filled(cache, name, 8, "f32")
    whole, scale = device_of(cache).empty((5, 8), "float32"), device_of(cache).empty((3,), "float32")
    for out in ({"one": whole[:3], "two": whole[:3]}, {"one": whole[:3], "two": whole[2:]}):
        with pytest.raises(MalformedRequest, match=r"'one'.*'two'.*share memory"):
            cache.lookup({"one": IDS[:3], "two": IDS[:3]}, device="cuda", out=out)
    codes = device_of(cache).empty((3, 8), "uint8")
    with pytest.raises(MalformedRequest, match="share memory"):
        cache.lookup({"one": IDS[:3]}, dtype="q8", device="cuda", out={"one": (codes, scale, scale)})
    apart = cache.lookup({"one": IDS[:3], "two": IDS[:2]}, device="cuda", out={"one": whole[:3], "two": whole[3:]})
    assert apart["two"].found.all()


def test_strict_and_empty_lookups(cache: EmbeddingCache) -> None:
    filled(cache, "strict", 8, "f32")
    with pytest.raises(MissingRows):
        cache.lookup({"strict": UNKNOWN}, device="cuda", strict=True)
    empty = cache.lookup({"strict": np.empty(0, np.uint64)}, device="cuda")["strict"]
    assert empty.raw.shape == (0, 8)
    no_bags = cache.lookup_bags({"strict": (np.empty(0, np.uint64), np.zeros(2, np.uint32))}, device="cuda")["strict"]
    assert (no_bags.rows == np.zeros((2, 8))).all()


def test_without_a_tier_or_after_its_loss_it_says_why(tmp_path: Path) -> None:
    off = settings(tmp_path)
    off = off.model_copy(update={"hot": off.hot.model_copy(update={"device": "off"})})
    with EmbeddingCache.open(off) as opened:
        filled(opened, "item", 4, "f32")
        with pytest.raises(MalformedRequest, match=r'needs a hot tier, and there is none: hot\.device is "off"'):
            opened.lookup({"item": IDS[:5]}, device="cuda")
    with EmbeddingCache.open(settings(tmp_path)) as opened:
        with pytest.raises(Overloaded, match="the results do not fit"):
            opened.lookup({"item": np.resize(IDS, 1 << 25)}, device="cuda")
        assert opened.lookup({"item": IDS[:5]}, device="cuda")["item"].found.all()  # and that is all it cost
        device_of(opened).lose("it fell off")
        with pytest.raises(NotReady, match=r"not to be had any more.*it fell off"):
            opened.lookup({"item": IDS[:5]}, device="cuda")
        assert opened.lookup({"item": IDS[:5]})["item"].found.all()


def test_what_is_late_is_said_and_holds_the_default(cache: EmbeddingCache) -> None:
    filled(cache, "late", 4, "f32", {"constant": [1, 2, 3, 4]})
    owner = cache.stats()["owner"]["pid"]
    os.kill(owner, signal.SIGSTOP)
    try:
        result = cache.lookup({"late": IDS[:50]}, device="cuda", deadline_ms=50)["late"]
    finally:
        os.kill(owner, signal.SIGCONT)
    assert (result.status == LATE).all()
    assert (result.rows == [1, 2, 3, 4]).all()
