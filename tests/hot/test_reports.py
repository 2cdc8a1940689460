"""What the owner hears of use where a hot tier stands above the warm one: what that was asked, and no more."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from embcache import EmbeddingCache
from embcache.host.probe import read_word
from embcache_client.results import HOT, WARM
from tests.hot.support import IDS, PATIENCE_S, filled, settings, tier


def test_hits_of_the_hot_tier_and_rows_that_move_up_are_no_use_of_the_warm_one(tmp_path: Path) -> None:
    """So each curve of misses is of the accesses for which the warm tier's memory matters (host/curve.py)."""
    with EmbeddingCache.open(settings(tmp_path)) as cache:
        filled(cache, "item", 8, "f32")
        ring, view, answered = cache.attached().ring.address, cache.attached().views.find("item", None), 0
        end = time.monotonic() + PATIENCE_S
        while True:
            status = cache.lookup({"item": IDS})["item"].status
            answered += int((status == WARM).sum())
            assert int(read_word(ring)) == answered
            if (status == HOT).all():
                break
            assert time.monotonic() < end, "the rows did not come up"
            tier(cache).offer(view, IDS, missed=True)
            time.sleep(0.02)
        tier(cache).bring(view, IDS)
        there, _ = cache.attached().warm_rows(view, IDS)
        np.testing.assert_array_equal(there, IDS)
        cache.lookup({"item": IDS})
        assert int(read_word(ring)) == answered
