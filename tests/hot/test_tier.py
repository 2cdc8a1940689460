"""The hot tier in the whole hierarchy: a real owner, lookups through the emulated device, against the oracle."""

from __future__ import annotations

import gc
import shutil
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache import EmbeddingCache
from embcache.errors import ConfigError, MalformedRequest, NotReady
from embcache.gpu.device import DeviceError
from embcache.updatecalls import Change
from embcache_client.results import HOT, LATE, MISSING, WARM
from tests.hot.support import DTYPES, IDS, PATIENCE_S, UNKNOWN, filled, hot_status, settings, tier, warm_up
from tests.naive import Naive, NaiveTable

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with")


@pytest.fixture(scope="module", params=[0, 1 << 40], ids=["hot first", "warm first"])
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingCache]:
    with EmbeddingCache.open(settings(tmp_path_factory.mktemp("hot"), request.param)) as opened:
        yield opened


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [3, 16])
def test_rows_are_the_same_whichever_tier_answers(cache: EmbeddingCache, dtype: str, dim: int) -> None:
    name = f"{dtype}_{dim}"
    naive = Naive()
    naive.tables[name] = filled(cache, name, dim, dtype, {"uniform": 0.5})
    warm_up(cache, name, IDS[:200])
    asked = np.concatenate([IDS[150:260], UNKNOWN, IDS[150:152]])
    for wire in DTYPES:
        result = cache.lookup({name: asked}, dtype=wire)[name]
        rows, found = naive.lookup(name, asked.tolist(), wire)
        np.testing.assert_array_equal(result.rows, rows)
        np.testing.assert_array_equal(result.found, found)
    assert (hot_status(cache, name, IDS[:200]) == HOT).all()


def test_what_moves_up_depends_on_who_asks_and_on_how_many_wait(
    cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(cache, "offered", 4, "f32")
    hot, view, picked = tier(cache), cache.attached().views.find("offered", None), []
    ids = np.random.default_rng(5).integers(0, 2**64, 15, dtype=np.uint64)  # counts are of a sketch, shared by versions
    monkeypatch.setattr(hot._writer, "promote", lambda _, up: picked.append(up.tolist()))
    hot.offer(view, ids[:5], missed=True)
    assert picked.pop() == ids[:5].tolist()
    hot.offer(view, ids[5:10], missed=False)  # somebody who found them below, and would again
    assert not picked
    hot.offer(view, ids[:10], missed=False)
    assert picked.pop() == ids[:10].tolist()
    monkeypatch.setattr(hot._writer, "_waiting_ids", 1 << 14)
    hot.offer(view, ids[5:15], missed=True)
    assert picked.pop() == ids[5:10].tolist()


def test_what_a_lookup_missed_once_comes_up(cache: EmbeddingCache) -> None:
    filled(cache, "once", 4, "f32")
    number = cache.attached().views.find("once", None).number
    if tier(cache).crossover.rows:
        pytest.skip("lookups are not answered by the hot tier first")
    cache.lookup({"once": IDS[:50]})
    end = time.monotonic() + PATIENCE_S
    while tier(cache).rows_held([number]).get(number) != 50:
        assert time.monotonic() < end, "the rows did not come up"
        time.sleep(0.02)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bags_are_the_same_whichever_tier_pools_them(cache: EmbeddingCache, dtype: str, pooling: str) -> None:
    name = f"bags_{dtype}_{pooling}"
    naive = Naive()
    naive.tables[name] = filled(cache, name, 20, dtype)
    warm_up(cache, name, IDS[:200])
    lengths = np.array([40, 0, 7, 3, 50, 1, 9], np.uint32)
    asked = np.concatenate([IDS[:100], UNKNOWN, IDS[190:197]])
    assert lengths.sum() == asked.size
    weights = np.random.default_rng(1).normal(size=asked.size).astype(np.float32) if pooling == "sum" else None
    bags = np.split(asked, np.cumsum(lengths)[:-1])
    for wire in DTYPES:
        query = (asked, lengths) if weights is None else (asked, lengths, weights)
        result = cache.lookup_bags({name: query}, pooling=pooling, dtype=wire)[name]
        options = {"pooling": pooling, "weights": None if weights is None else weights.tolist()}
        wanted = naive.lookup_bags(name, [bag.tolist() for bag in bags], options, wire)
        np.testing.assert_array_equal(result.rows, wanted)


def test_an_update_is_seen_by_the_lookup_that_starts_at_its_position(cache: EmbeddingCache) -> None:
    table = filled(cache, "updated", 8, "f32")
    warm_up(cache, "updated", IDS[:50])
    producer = cache.open_producer("trainer")
    for turn in range(20):
        rows = np.full((50, 8), turn, np.float32)
        change = Change("updated", "assign", IDS[:50], rows.view(np.uint8))
        pushed = cache.update("trainer", producer.epoch, turn + 1, [change])
        table.change("assign", IDS[:50].tolist(), rows)
        result = cache.lookup({"updated": IDS[:60]}, min_position=pushed.position)["updated"]
        wanted = np.stack([table.served(identifier) for identifier in IDS[:60].tolist()])
        np.testing.assert_array_equal(result.rows, wanted)
    pushed = cache.update("trainer", producer.epoch, 21, [Change("updated", "delete", IDS[:10], None)])
    result = cache.lookup({"updated": IDS[:20]}, min_position=pushed.position)["updated"]
    assert (result.status[:10] == MISSING).all()
    assert result.found[10:].all()
    assert (hot_status(cache, "updated", IDS[10:50]) == HOT).all()  # and they are where they were


def test_a_catalogue_that_comes_late_makes_nobody_pass_changes_over(cache: EmbeddingCache) -> None:
    old = cache.attached().views
    table = filled(cache, "newer", 8, "f32")
    warm_up(cache, "newer", IDS[:50])
    tier(cache).catalogue_changed(old)  # some other thread had asked for it before the table was there
    producer = cache.open_producer("overtaken")
    rows = np.full((50, 8), 3.5, np.float32)
    pushed = cache.update("overtaken", producer.epoch, 1, [Change("newer", "assign", IDS[:50], rows.view(np.uint8))])
    table.change("assign", IDS[:50].tolist(), rows)
    result = cache.lookup({"newer": IDS[:60]}, min_position=pushed.position)["newer"]
    wanted = np.stack([table.served(identifier) for identifier in IDS[:60].tolist()])
    np.testing.assert_array_equal(result.rows, wanted)
    assert (hot_status(cache, "newer", IDS[:50]) == HOT).all()


def test_a_switch_is_seen_by_the_lookup_that_starts_after_it(cache: EmbeddingCache) -> None:
    """Both versions are on the device; the one that is not live follows."""
    table = filled(cache, "switched", 8, "f32")
    cache.stage("switched", "next", {"default": {"constant": [1.0] * 8}}, follow=True)
    other, order = NaiveTable(8, default={"constant": [1.0] * 8}), np.argsort(IDS)
    rows = np.random.default_rng(9).normal(size=(IDS.size, 8)).astype(np.float32)
    other.load(IDS.tolist(), rows)
    with cache.importing("switched", version="next") as importing:
        importing.write(IDS[order], rows[order])
    first = cache.attached().views.find("switched", None).label
    warm_up(cache, "switched", IDS[:50])
    producer = cache.open_producer("switching")
    for turn, (label, live) in enumerate([("next", other), (first, table)] * 5):
        changed = IDS[5 * turn : 5 * turn + 5]
        values = np.full((5, 8), turn, np.float32)
        change = Change("switched", "assign", changed, values.view(np.uint8))
        pushed = cache.update("switching", producer.epoch, turn + 1, [change])
        for version in (table, other):
            version.change("assign", changed.tolist(), values)
        assert cache.switch({"switched": label}, follow=True).keys() == {"switched"}
        result = cache.lookup({"switched": IDS[:60]}, min_position=pushed.position)["switched"]
        np.testing.assert_array_equal(result.rows, np.stack([live.served(each) for each in IDS[:60].tolist()]))
        assert result.version == label
        warm_up(cache, "switched", IDS[:50])
        result = cache.lookup({"switched": IDS[:50]})["switched"]
        np.testing.assert_array_equal(result.rows, np.stack([live.served(each) for each in IDS[:50].tolist()]))


def test_rows_of_a_pinned_table_come_up_again_after_a_switch(tmp_path: Path) -> None:
    pinned = settings(tmp_path)
    pinned = pinned.model_copy(update={"hot": pinned.hot.model_copy(update={"pinned": ("kept",)})})
    with EmbeddingCache.open(pinned) as opened:
        filled(opened, "kept", 4, "f32")
        opened.stage("kept", "next")
        with opened.importing("kept", version="next") as importing:
            importing.write(np.sort(IDS), np.ones((IDS.size, 4), np.float32))
        opened.switch({"kept": "next"}, warm_s=0)
        end = time.monotonic() + PATIENCE_S
        number = opened.attached().views.find("kept", None).number
        while tier(opened).rows_held([number]).get(number) != IDS.size:  # and nobody asked for them
            assert time.monotonic() < end, "the rows did not come up"
            time.sleep(0.02)
        assert (opened.lookup({"kept": IDS})["kept"].rows == 1).all()


def test_a_lost_device_costs_the_tier_and_no_lookup(tmp_path: Path) -> None:
    with EmbeddingCache.open(settings(tmp_path)) as opened:
        filled(opened, "item", 4, "f32")
        warm_up(opened, "item", IDS[:20])
        tier(opened).device.lose()  # type: ignore[attr-defined]
        with pytest.raises(DeviceError):
            tier(opened).device.check()
        assert opened.lookup({"item": IDS[:20]})["item"].found.all()
        assert opened.lookup({"item": IDS[:20]})["item"].status.tolist() == [2] * 20
        state = tier(opened).state
        assert not state.on
        assert state.why


def test_a_device_that_hangs_costs_a_lookup_no_more_than_its_deadline(tmp_path: Path) -> None:
    with EmbeddingCache.open(settings(tmp_path)) as opened:
        table = filled(opened, "item", 4, "f32")
        warm_up(opened, "item", IDS[:20])
        device = tier(opened).device
        device.hang("look_up_stored")  # type: ignore[attr-defined]
        late = opened.lookup({"item": IDS[:20]}, deadline_ms=50)["item"]
        assert set(late.status.tolist()) <= {WARM, LATE}
        wanted = np.stack([table.served(identifier) for identifier in IDS[:20].tolist()])
        wanted[late.status == LATE] = 0
        np.testing.assert_array_equal(late.rows, wanted)
        device.release()  # type: ignore[attr-defined]
        after = opened.lookup({"item": IDS[10:20]})["item"]
        assert (after.status == HOT).all()  # it was late, and is not lost
        np.testing.assert_array_equal(late.rows, wanted)  # what came late went nowhere that was given out


def test_a_named_device_without_the_memory_is_an_error_at_the_start(tmp_path: Path) -> None:
    wanted = settings(tmp_path)
    huge = wanted.model_copy(update={"hot": wanted.hot.model_copy(update={"capacity": 1 << 40})})
    with pytest.raises(ConfigError, match=r"hot\.capacity: 1099511627776 bytes .* 268435456 are free"):
        EmbeddingCache.open(huge)


@pytest.mark.parametrize("deadline_ms", ["x", -1, float("nan"), float("inf"), True])
def test_a_deadline_that_is_none_is_refused(cache: EmbeddingCache, deadline_ms: Any) -> None:
    with pytest.raises(MalformedRequest, match=r"deadline_ms.*should be a number of milliseconds"):
        cache.lookup({"item": IDS[:3]}, deadline_ms=deadline_ms)


def test_what_is_closed_gives_the_devices_memory_back_at_once(tmp_path: Path) -> None:
    """Without waiting for a collector of cycles: somebody may want to open another one on that device."""
    gc.collect()
    gc.disable()
    try:
        opened = EmbeddingCache.open(settings(tmp_path))
        filled(opened, "item", 4, "f32")
        warm_up(opened, "item", IDS[:20])
        device, whole = tier(opened).device, weakref.ref(tier(opened))
        opened.close()
        with pytest.raises(NotReady, match="the cache is closed"):
            opened.lookup({"item": IDS[:20]})
        assert device.free_bytes == 1 << 28
        del opened
        assert whole() is None
    finally:
        gc.enable()
