"""A cache with a hot tier on the emulated device, and tables in it whose answers are known."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embcache import EmbeddingCache
from embcache.config import Hot, Settings
from embcache.hot.tier import HotTier
from embcache_client.results import HOT
from tests.naive import NaiveTable

IDS = np.arange(1, 400, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
UNKNOWN = np.array([0, 2**64 - 1, 5], np.uint64)
DTYPES = ("f32", "f16", "bf16", "q8")
PATIENCE_S = 60.0


def settings(folder: Path, crossover: int = 0) -> Settings:
    """Everything asks the hot tier first, however small it is; or, with a high crossover, last."""
    hot = Hot(device="emulated", capacity=4 << 20, crossover_ids=crossover)
    return Settings.model_validate({"hot": hot, "cold": {"path": folder}, "warm": {"capacity": 16 << 20}})


def tier(cache: EmbeddingCache) -> HotTier:
    assert isinstance(cache.hot, HotTier)
    return cache.hot


def filled(cache: EmbeddingCache, name: str, dim: int, dtype: str, default: object = "zeros") -> NaiveTable:
    """A table with a row for each of IDS; -> what it should answer."""
    rows = np.random.default_rng(dim).normal(size=(IDS.size, dim)).astype(np.float32)
    cache.create_table({"name": name, "dim": dim, "dtype": dtype, "default": default})
    order = np.argsort(IDS)
    with cache.importing(name) as importing:
        importing.write(IDS[order], rows[order])
    table = NaiveTable(dim, dtype, default)
    table.load(IDS.tolist(), rows)
    return table


def warm_up(cache: EmbeddingCache, name: str, ids: NDArray[np.uint64]) -> None:
    """Ask until the hot tier has the rows."""
    view = cache.attached().views.find(name, None)
    end = time.monotonic() + PATIENCE_S
    while not (hot_status(cache, name, ids) == HOT).all():
        assert time.monotonic() < end, "the rows did not come up"
        tier(cache).offer(view, ids, missed=True)  # what is missed moves up
        time.sleep(0.02)


def hot_status(cache: EmbeddingCache, name: str, ids: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Statuses of a lookup that asks the hot tier first, whatever the cache's crossover is."""
    before, tier(cache).crossover = tier(cache).crossover, tier(cache).crossover._replace(rows=0, bags=0)
    try:
        return cache.lookup({name: ids})[name].status
    finally:
        tier(cache).crossover = before
