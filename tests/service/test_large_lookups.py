"""Lookups in parts and from the near-cache, against a whole service."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from embcache_client import Trainer, errors
from embcache_client.results import COLD, MISSING, NEAR, WARM
from tests.service.running import FILLED, Running, fill, rows_of
from tests.service.wires import get

COUNT = 20_000


def lookups(service: Running) -> int:
    """How many the service has answered."""
    found = re.search(rb"^embcache_lookup_seconds_count (\d+)", service.ask(get("/metrics")).body, re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8"])
def test_the_parts_are_what_the_whole_is(service: Running, dtype: str) -> None:
    ids = np.random.default_rng(5).choice(FILLED, COUNT)
    ids[::100] = 10**15
    with service.client() as plain, service.client(connections=3) as client:
        client.lookup({"item": ids[:10]}, dtype=dtype)
        for _ in range(4):  # the service comes to know them, too
            whole = plain.lookup({"item": ids}, dtype=dtype)
            before = lookups(service)
            result = client.lookup({"item": ids}, dtype=dtype)
            assert lookups(service) - before == 3
            assert np.array_equal(result["item"].raw, whole["item"].raw)
            assert np.array_equal(result["item"].found, whole["item"].found)
            assert np.array_equal(result["item"].status == MISSING, ids == 10**15)
            assert (result.position, result.history) == (whole.position, whole.history)
            if dtype == "f32":
                there = ids != 10**15
                assert np.array_equal(result["item"].rows[there], rows_of(ids[there]))


def test_strict_says_of_the_whole_what_is_missing(service: Running) -> None:
    ids = np.random.default_rng(5).choice(FILLED, COUNT)
    ids[[3, COUNT // 2, -1]] = 10**15
    with service.client(connections=3) as client:
        client.lookup({"item": ids[:3]})
        with pytest.raises(errors.MissingRows) as caught:
            client.lookup({"item": ids}, strict=True)
    assert caught.value.detail["count"] == 3


def test_a_row_that_is_kept_is_overtaken_once_its_time_is_over(service: Running) -> None:
    ids = np.arange(50, dtype=np.uint64)
    with service.client(near_cache_rows=1000, max_staleness_s=0.5) as client:
        client.create_table({"name": "kept", "dim": 12})
        fill(client, "kept", ids)
        assert set(client.lookup({"kept": ids})["kept"].status) <= {COLD, WARM}
        with Trainer(service.url, producer="kept") as trainer:
            trainer.assign("kept", ids, np.ones((50, 12), np.float32))
            position = trainer.flush()
        applied = client.lookup({"kept": ids}, min_position=position, deadline_ms=20_000)
        assert (applied["kept"].rows == 1).all()
        end = time.monotonic() + 20
        while (kept := client.lookup({"kept": ids}))["kept"].status[0] == NEAR:
            assert kept.position < position
            assert np.array_equal(kept["kept"].rows, rows_of(ids))
            assert time.monotonic() < end
        assert (kept["kept"].rows == 1).all()
        assert (client.lookup({"kept": ids})["kept"].rows == 1).all()
        client.drop_table("kept")
