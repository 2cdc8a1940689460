"""Rows that expire, in the hot tier: it gives them out as they are kept, and the host looks at their time."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from embcache import EmbeddingCache
from embcache.config import Hot, Settings
from embcache.updatecalls import Change
from embcache_client.results import HOT, MISSING, TableRows
from tests.clock import StoppedClock
from tests.hot.support import IDS, PATIENCE_S, filled, tier, warm_up
from tests.naive import rounded

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with")

OTHERS = np.arange(10_000, 30_000, dtype=np.uint64)


def settings(folder: Path) -> Settings:
    """A warm tier that holds far less than the hot one."""
    hot = Hot(device="emulated", capacity=4 << 20, crossover_ids=1 << 40)
    return Settings.model_validate({"hot": hot, "cold": {"path": folder}, "warm": {"capacity": 256 << 10}})


def test_a_row_that_only_the_hot_tier_has_is_missing_once_it_has_expired(tmp_path: Path) -> None:
    with StoppedClock(tmp_path / "now") as clock, EmbeddingCache.open(settings(tmp_path / "data")) as cache:
        cache.create_table({"name": "item", "dim": 8, "ttl_s": 100, "default": {"constant": [0.5] * 8}})
        epoch = cache.open_producer("p").epoch
        rows = np.arange(8 * (IDS.size + OTHERS.size), dtype=np.float32).reshape(-1, 8)
        changes = [
            Change("item", "assign", IDS, rows[: IDS.size].view(np.uint8)),
            Change("item", "assign", OTHERS, rows[IDS.size :].view(np.uint8)),
        ]
        cache.update("p", epoch, 1, changes, applied_within_s=PATIENCE_S)
        found = until_hot(cache)
        assert (found.status == HOT).sum() > IDS.size // 4
        np.testing.assert_array_equal(found.rows, rows[: IDS.size])
        pushed = cache.update("p", epoch, 2, [Change("item", "assign", IDS[::2], rows[: IDS.size : 2].view(np.uint8))])
        clock.now += 99_999
        found = cache.lookup({"item": IDS}, min_position=pushed.position)["item"]
        np.testing.assert_array_equal(found.rows, rows[: IDS.size])
        until_hot(cache)
        clock.now += 1
        for dtype in ("f32", "q8"):
            found = cache.lookup({"item": IDS}, dtype=dtype)["item"]
            assert (found.status == MISSING).all()
            np.testing.assert_array_equal(found.rows, np.full((IDS.size, 8), 0.5))
        bags = cache.lookup_bags({"item": (IDS, np.array([IDS.size], np.uint32))}, pooling="sum")["item"]
        assert not bags.rows.any()


def until_hot(cache: EmbeddingCache) -> TableRows:
    """A lookup whose rows are gone from the warm tier, and came up before."""
    end = time.monotonic() + PATIENCE_S
    view = cache.attached().views.find("item", None)
    while True:
        cache.lookup({"item": IDS})
        tier(cache).offer(view, IDS, missed=True)
        time.sleep(0.05)
        for part in np.array_split(OTHERS, 20):
            cache.lookup({"item": part})
        found = cache.lookup({"item": IDS})["item"]
        if (found.status == HOT).sum() > IDS.size // 4:
            return found
        assert time.monotonic() < end, "the rows did not come up"


def test_expiring_rows_beside_others_that_the_device_is_asked_for_first(tmp_path: Path) -> None:
    """One lookup of both: the device writes the rows of the one, and those of the other are judged on the host."""
    hot = Hot(device="emulated", capacity=4 << 20, crossover_ids=0)
    asking_first = Settings.model_validate({"hot": hot, "cold": {"path": tmp_path / "data"}})
    with StoppedClock(tmp_path / "now") as clock, EmbeddingCache.open(asking_first) as cache:
        rows = np.arange(8 * IDS.size, dtype=np.float32).reshape(-1, 8)
        kept = filled(cache, "kept", 8, "f32")
        cache.create_table({"name": "item", "dim": 8, "ttl_s": 100})
        epoch = cache.open_producer("p").epoch
        cache.update("p", epoch, 1, [Change("item", "assign", IDS, rows.view(np.uint8))], applied_within_s=PATIENCE_S)
        warm_up(cache, "kept", IDS)
        wanted = np.stack([kept.served(identifier) for identifier in IDS.tolist()])
        lengths = np.array([IDS.size - 9, 0, 9], np.uint32)
        bags = [slice(0, IDS.size - 9), slice(0, 0), slice(IDS.size - 9, None)]
        for there in (True, False):
            for dtype in ("f32", "f16"):
                found = cache.lookup({"item": IDS, "kept": IDS}, dtype=dtype)
                assert (found["kept"].status == HOT).all()
                assert (found["item"].status != MISSING).all() if there else (found["item"].status == MISSING).all()
                np.testing.assert_array_equal(found["kept"].rows, rounded(wanted, dtype))
                np.testing.assert_array_equal(found["item"].rows, rounded(rows * there, dtype))
            pooled = cache.lookup_bags({"item": (IDS, lengths), "kept": (IDS, lengths)}, pooling="sum")
            for name, each in (("item", rows * there), ("kept", wanted)):
                sums = [np.add.reduce(each[bag], axis=0, dtype=np.float32) for bag in bags]
                np.testing.assert_allclose(pooled[name].rows, np.stack(sums), rtol=1e-5, atol=1e-3)
            clock.now += 100_000
