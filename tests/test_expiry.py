"""Rows that expire, as callers see them: missing from the very millisecond on, in every tier and form, and before it
there. Time stands still but for what a test lets pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from embcache import EmbeddingCache
from embcache.config import Cold, Settings, Updates, Warm
from embcache.errors import MalformedRequest, MissingRows
from embcache.updatecalls import Change
from embcache_client.results import COLD, MISSING, WARM
from tests.clock import StoppedClock
from tests.naive import Naive, NaiveTable

DTYPES = ["f32", "f16", "bf16", "q8"]
DEFAULTS: list[Any] = [{"uniform": 0.5}, {"constant": [0.25 * j for j in range(5)]}]
IDS = np.random.default_rng(3).permutation(np.arange(1, 3001, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
WIRE: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
WAIT = 20.0


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoppedClock]:
    with StoppedClock(tmp_path_factory.mktemp("clock") / "now") as clock:
        yield clock


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, clock: StoppedClock) -> Iterator[EmbeddingCache]:
    cold = Cold(path=Path(tmp_path_factory.mktemp("expiry"), "data"))
    settings = Settings(warm=Warm(capacity=16 << 20), cold=cold, updates=Updates(sweep_every_s=1e9))
    with EmbeddingCache.open(settings) as opened:
        yield opened


def encoded(values: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.ascontiguousarray(values, np.float32).view(np.uint8)


def push(cache: EmbeddingCache, seq: int, *changes: Change) -> int:
    name = changes[0].table
    epoch = cache.open_producer(name).epoch if seq == 1 else 1
    return cache.update(name, epoch, seq, list(changes), applied_within_s=WAIT).position


@pytest.mark.parametrize(("stored", "default"), list(itertools.product(DTYPES, DEFAULTS)))
def test_rows_are_there_until_they_expire_in_every_form(
    cache: EmbeddingCache, clock: StoppedClock, stored: str, default: Any
) -> None:
    name = f"{stored}_{'uniform' if 'uniform' in default else 'constant'}"
    add = stored in ("f32", "f16")
    cache.create_table({"name": name, "dim": 5, "dtype": stored, "default": default, "ttl_s": 100, "add": add})
    naive = Naive()
    naive.now, naive.labels[name] = clock.now, "1"
    naive.tables[name] = table = NaiveTable(5, stored, default, add, ttl_s=100)
    for seq, (part, ttl_s) in enumerate(((IDS[:1000], None), (IDS[1000:1500], 300), (IDS[1500:1600], 0)), 1):
        rows = np.random.default_rng(seq).standard_normal((part.size, 5), dtype=np.float32)
        push(cache, seq, Change(name, "assign", part, encoded(rows), ttl_s=ttl_s))
        table.change("assign", part.tolist(), rows, ttl_s, naive.now)
    for ms, left in ((0, 1600), (99_999, 1600), (1, 600), (199_999, 600), (1, 100)):
        clock.now += ms
        naive.pass_time(ms)
        assert len(table.rows) == left
        for wire, ids in itertools.product(DTYPES, (IDS[:4], IDS)):
            check(cache, naive, name, ids, wire)
        check_bags(cache, naive, name)


def check(cache: EmbeddingCache, naive: Naive, name: str, ids: Any, wire: str) -> None:
    wanted, held = naive.lookup(name, ids.tolist(), wire)
    for _ in range(2):  # from disk, some, and then from memory
        found = cache.lookup({name: ids}, dtype=wire)[name]
        assert np.isin(found.status, [WARM, COLD]).tolist() == held
        assert (found.status[~np.array(held)] == MISSING).all()
        np.testing.assert_array_equal(found.rows, wanted)


def check_bags(cache: EmbeddingCache, naive: Naive, name: str) -> None:
    lengths = np.random.default_rng(1).integers(0, 9, 100)
    ids = np.random.default_rng(2).choice(IDS, int(lengths.sum()))
    bags = np.split(ids, np.cumsum(lengths)[:-1])
    for pooling, dtype in itertools.product(("sum", "mean"), ("f32", "q8")):
        found = cache.lookup_bags({name: (ids, lengths)}, pooling=pooling, dtype=dtype)[name]
        np.testing.assert_array_equal(found.rows, naive.lookup_bags(name, bags, {"pooling": pooling}, dtype))


def test_a_row_that_has_expired_is_missing_to_who_is_strict_and_in_no_scan(
    cache: EmbeddingCache, clock: StoppedClock
) -> None:
    cache.create_table({"name": "strict", "dim": 2, "ttl_s": 0})
    rows = np.ones((100, 2), np.float32)
    push(cache, 1, Change("strict", "assign", IDS[:100], encoded(rows), ttl_s=5))
    push(cache, 2, Change("strict", "assign", IDS[100:200], encoded(rows)))
    clock.now += 4_999
    assert (cache.lookup({"strict": IDS[:200]}, strict=True)["strict"].rows == 1).all()
    assert scanned(cache, "strict") == sorted(IDS[:200].tolist())
    clock.now += 1
    with pytest.raises(MissingRows, match="100 ids without a row"):
        cache.lookup({"strict": IDS[:200]}, strict=True)
    assert scanned(cache, "strict") == sorted(IDS[100:200].tolist())


def scanned(cache: EmbeddingCache, name: str) -> list[int]:
    ids: list[int] = []
    start: int | None = 0
    while start is not None:
        page = cache.scan_rows(name, start, 7)
        ids += page.ids.tolist()
        start = page.next
    return ids


def test_the_cold_tier_brings_rows_with_their_time(cache: EmbeddingCache, clock: StoppedClock) -> None:
    """A row that is read from disk just before it expires must not live on in memory."""
    cache.create_table({"name": "cold", "dim": 3, "ttl_s": 10})
    push(cache, 1, Change("cold", "assign", IDS, encoded(np.ones((IDS.size, 3)))))
    clock.now += 9_999
    assert (cache.lookup({"cold": IDS})["cold"].status == COLD).all()
    assert (cache.lookup({"cold": IDS})["cold"].status == WARM).all()
    clock.now += 1
    found = cache.lookup({"cold": IDS})["cold"]
    assert (found.status == MISSING).all()
    assert not found.rows.any()


@pytest.mark.parametrize("ttl_s", [-1, 1 << 32, 1.5, "5", True])
def test_seconds_that_cannot_be_are_refused(cache: EmbeddingCache, ttl_s: Any) -> None:
    change = Change("strict", "assign", IDS[:1], encoded(np.ones((1, 2))), ttl_s=ttl_s)
    with pytest.raises(MalformedRequest, match=r"changes\[0\].ttl_s: .* should be whole seconds from 0 to 4294967295"):
        cache.update("strict", 1, 3, [change])


def test_a_delete_takes_no_ttl(cache: EmbeddingCache) -> None:
    with pytest.raises(MalformedRequest, match="a delete leaves no rows"):
        cache.update("strict", 1, 3, [Change("strict", "delete", IDS[:1], ttl_s=5)])
